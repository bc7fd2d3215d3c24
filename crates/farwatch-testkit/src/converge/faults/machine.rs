// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rounds in a virtual machine, which is stopped or moves to another host while both sides change files.
//!
//! The client is a recorder in the guest, whose events add up to names; what the guest reads is compared with the host,
//! and the tree of the host is judged as in the other rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

use super::audit::audit;
use super::injection::STOP_MAX;
use super::processes::pause;
use super::survivable::serve;
use super::{DELAY_MAX, JUDGES, Judged, Kind, OPS, plan};
use crate::PATIENCE;
use crate::converge::case::{self, Case, Side};
use crate::converge::local::set_up;
use crate::converge::state::{State, Type, list, read_all};
use crate::converge::trial::remove;
use crate::converge::worker::{Done, Worker};
use crate::event;
use crate::mount::Mount;
use crate::place::{Place as _, Record as _};
use crate::share::Share;
use crate::vm::{Kernel, Qemu, Vm};

/// The kernel of the guest.
const KERNEL: &str = "6.12";
/// What the guest has under each name, a line each.
const READ: &str = "for name in */*; do if [ -L $name ]; then echo \"$name link\"; \
    elif [ -d $name ]; then echo \"$name dir\"; \
    elif [ -f $name ]; then echo \"$name file $(cat $name)\"; fi; done";

/// A machine, with the sockets of two servers, between which it moves.
#[derive(Debug)]
pub(super) struct Stand {
    kind: Kind,
    vm: Vm,
    sockets: [PathBuf; 2],
    moves: usize,
}

impl Stand {
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let kernel = Kernel::find(KERNEL).context("FARWATCH_KERNELS has no kernel 6.12")?;
        let qemu = Qemu::that_migrates().filter(|_| kind != Kind::MachineStop);
        ensure!(kind == Kind::MachineStop || qemu.is_some(), "this QEMU does not move machines");
        let mut host = Mount::start_device(serve)?;
        let sockets = [host.socket(), host.serve_again(&[])?];
        let qemu = qemu.unwrap_or_default();
        let vm = Vm::boot_in(&qemu, &kernel, host, &sockets[0])?;
        vm.start_agent()?;
        Ok(Self { kind, vm, sockets, moves: 0 })
    }

    pub(super) fn log(&self) -> String {
        self.vm.log()
    }

    pub(super) fn round(&mut self, name: &str, seed: u64) -> Result<Judged> {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let plan = plan(OPS, &JUDGES);
        let case = Case::generate(case::Kind::Both, plan.knobs, seed).with_ledger(OPS / 4);
        let share = self.vm.share(name)?;
        set_up(share.host(), &case)?;
        let mut recorder = self.vm.remote_recorder(&share)?;
        for dir in &case.dirs {
            recorder.watch(Path::new(dir))?;
        }
        self.vm.sync()?;
        recorder.take_events_now()?;
        let mut names: BTreeSet<String> = list(share.host(), &case.dirs)?.into_iter().collect();

        let mut load = Load::start(&self.vm, &share, &case, name)?;
        pause(DELAY_MAX.mul_f64(rng.f64()))?;
        self.disturb(&mut rng)?;
        let results = load.results(&self.vm)?;
        self.sync()?;

        let tree = read_all(share.host(), &case.dirs)?;
        let mut wrong = audit(&case, &results, &tree);
        for event in recorder.take_events_now()? {
            if matches!(event.kind, event::Kind::Create | event::Kind::MovedTo) {
                names.insert(event.object);
            } else if matches!(event.kind, event::Kind::Delete | event::Kind::MovedFrom) {
                names.remove(&event.object);
            }
        }
        let there: BTreeSet<String> = tree.keys().cloned().collect();
        if let Some(name) = names.symmetric_difference(&there).next() {
            let is_there = there.contains(name);
            wrong.push(format!("names: by its events, {name} is not as on the host: {is_there}"));
        }
        wrong.extend(self.read_otherwise(&share, &tree)?);
        let text = (!wrong.is_empty()).then(|| format!("{}\n{}", wrong.join("\n"), self.log()));
        let ops = u64::try_from(results.iter().map(Vec::len).sum::<usize>())?;
        drop(recorder);
        remove(&share)?;
        Ok(Judged { text, watches: false, ops })
    }

    fn disturb(&mut self, rng: &mut Rng) -> Result<()> {
        let time = STOP_MAX.mul_f64(rng.f64());
        if self.kind == Kind::Migration {
            self.moves += 1;
            return self.vm.migrate(&self.sockets[self.moves % 2]);
        }
        if self.kind == Kind::Snapshot {
            // To the same server, or to another.
            let socket = &self.sockets[rng.usize(..self.sockets.len())];
            return self.vm.restore_after(socket, || pause(time));
        }
        self.vm.guest().stopped_while(|| pause(time))
    }

    /// An agent in a machine that has just moved may not have come to its new server yet.
    fn sync(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.vm.sync() {
                Err(_) if Instant::now() < deadline => {}
                synced => return synced,
            }
        }
    }

    /// What a program in the guest reads that is not on the host.
    fn read_otherwise(
        &self,
        share: &Share,
        tree: &BTreeMap<String, State>,
    ) -> Result<Option<String>> {
        let said = self.vm.guest().shell(share.mount(), READ)?;
        let read: BTreeSet<&str> = said.lines().map(str::trim_end).collect();
        let line = |(name, state): (&String, &State)| {
            let content = String::from_utf8_lossy(&state.content);
            match state.kind {
                Type::File => format!("{name} file {content}").trim_end().to_owned(),
                Type::Directory => format!("{name} dir"),
                Type::Symlink => format!("{name} link"),
                Type::Unreadable(errno) => format!("{name} {errno}"),
            }
        };
        let lines: BTreeSet<String> = tree.iter().map(line).collect();
        let lines: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
        let other = read.symmetric_difference(&lines).next();
        Ok(other.map(|line| {
            let side = if read.contains(line) { "the guest" } else { "the host" };
            format!("content: {side} alone has {line:?}")
        }))
    }
}

/// The processes of a case, on both sides. In the guest, what they say goes into files.
struct Load {
    /// By the place in the case: one here, or the name of one in the guest.
    workers: Vec<Result<Worker, String>>,
}

impl Load {
    fn start(vm: &Vm, share: &Share, case: &Case, round: &str) -> Result<Self> {
        let mut workers = Vec::new();
        for (nth, (side, ops)) in case.scripts.iter().enumerate() {
            if *side == Side::Host {
                workers.push(Ok(Worker::start(share.host(), ops)?));
                continue;
            }
            let (name, base) = (format!("{round}-{nth}"), share.mount().display());
            let mut script: String = ops.iter().map(|op| format!("{op}\n")).collect();
            script.push_str("start\n");
            fs::write(share.host().join(format!("script-{nth}")), script)?;
            let run = format!(
                "cp {base}/script-{nth} /tmp/{name}.in && exec farwatch-converge process {base} \
                 </tmp/{name}.in >/tmp/{name}.out"
            );
            vm.guest().start(&name, &["sh", "-c", &run])?;
            workers.push(Err(name));
        }
        workers.iter_mut().filter_map(|worker| worker.as_mut().ok()).for_each(Worker::release);
        Ok(Self { workers })
    }

    /// Waits until all have ended.
    fn results(&mut self, vm: &Vm) -> Result<Vec<Vec<Done>>> {
        let results = self.workers.iter_mut().map(|worker| match worker {
            Ok(worker) => {
                worker.wait()?;
                worker.results()
            }
            Err(name) => {
                let mut guest = vm.guest();
                ensure!(guest.exited(name)? == 0, "a process in the guest has failed");
                let said =
                    guest.shell(Path::new("/tmp"), &format!("cat {name}.out; rm {name}.*"))?;
                said.lines().filter(|line| *line != "ready").map(Done::parse).collect()
            }
        });
        results.collect()
    }
}
