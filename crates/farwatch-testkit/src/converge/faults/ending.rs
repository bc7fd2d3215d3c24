// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rounds in which the mount ends, and another takes its place.
//!
//! Nothing that uses the mount may hang: the processes of the load must end by themselves. The next mount shows what is
//! on the host, and delivers its events.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use rustix::process::{Resource, Rlimit, Signal, kill_process, prlimit};

use super::audit::audit;
use super::processes::{kill, pause};
use super::survivable::{id, serve};
use super::{DELAY_MAX, JUDGES, Judged, Kind, OPS, OPS_AFTERWARDS, only_watches, plan};
use crate::PATIENCE;
use crate::converge::case::{self, Case, Side};
use crate::converge::client::Client;
use crate::converge::local::set_up;
use crate::converge::state::{State, read_all};
use crate::converge::trial::{Trial, remove};
use crate::converge::worker::{Done, Worker, now};
use crate::mount::Mount;
use crate::process::child_of;
use crate::share::Share;

/// A mount that has not ended yet.
#[derive(Debug)]
pub(super) struct Stand {
    kind: Kind,
    mount: Mount,
}

impl Stand {
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let mount = if kind == Kind::KillServe {
            Mount::start_through_socket(serve)?
        } else {
            Mount::start()?
        };
        Ok(Self { kind, mount })
    }

    /// Runs a round. Nothing is left of a stand whose round cannot be run.
    pub(super) fn round(mut self, name: &str, seed: u64) -> Result<(Self, Judged)> {
        match self.try_round(name, seed) {
            Ok(judged) => Ok((self, judged)),
            Err(error) => {
                let log = self.mount.log();
                self.mount.abandon();
                Err(error).context(log)
            }
        }
    }

    fn try_round(&mut self, name: &str, seed: u64) -> Result<Judged> {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let plan = plan(OPS, &JUDGES);
        let case = Case::generate(case::Kind::Both, plan.knobs, seed).with_ledger(OPS / 4);
        let share = self.mount.share(name)?;
        set_up(share.host(), &case)?;
        let client = Client::new(&share, &case, &plan)?;
        let mut load = Load::start(&share, &case)?;
        pause(DELAY_MAX.mul_f64(rng.f64()))?;
        self.end()?;
        load.wait()?;
        let results = load.results()?;
        drop((load, client));
        let is_gone = self.kind == Kind::RootReplaced;
        let before = if is_gone { None } else { Some(read_all(share.host(), &case.dirs)?) };
        let mut wrong = before.as_ref().map_or_else(Vec::new, |tree| audit(&case, &results, tree));
        self.start_again()?;
        if let Some(before) = before {
            wrong.extend(shown_otherwise(&share, &case, &before)?);
            remove(&share)?;
        }
        let (afterwards, watches) = self.afterwards(&format!("{name}-after"), seed)?;
        wrong.extend(afterwards);
        let text =
            (!wrong.is_empty()).then(|| format!("{}\n{}", wrong.join("\n"), self.mount.log()));
        let ops = u64::try_from(results.iter().flatten().count())?;
        Ok(Judged { text, watches, ops })
    }

    /// The fault.
    fn end(&mut self) -> Result<()> {
        match self.kind {
            Kind::KillDriver => self.mount.kill_driver(),
            Kind::KillDevice => kill(child_of(self.mount.driver().id())?),
            Kind::Memory => {
                // No further page: the first allocation that needs one aborts the device.
                let device = child_of(self.mount.driver().id())?;
                let limit = Rlimit { current: Some(0), maximum: Some(0) };
                prlimit(Some(device), Resource::As, limit).context("prlimit")?;
                pause(DELAY_MAX)?;
                // Where it has needed none.
                let _may_have_ended = kill_process(device, Signal::KILL);
                Ok(())
            }
            Kind::KillServe => kill(id(self.mount.device())?),
            Kind::RootReplaced => self.replace_root(),
            Kind::KillWorker
            | Kind::KillSupervisor
            | Kind::StopDriver
            | Kind::StopDevice
            | Kind::StopServe
            | Kind::StopWorker
            | Kind::StopSupervisor
            | Kind::DiskFull
            | Kind::Descriptors
            | Kind::ReadOnly
            | Kind::Submount
            | Kind::SlowHost
            | Kind::MachineStop
            | Kind::Migration
            | Kind::Snapshot => anyhow::bail!("a mount survives this"),
        }
    }

    /// While a process of the load creates names, `remove_dir_all` may find one more.
    fn replace_root(&self) -> Result<()> {
        let host = self.mount.host();
        let deadline = now() + PATIENCE;
        while let Err(error) = fs::remove_dir_all(&host) {
            ensure!(now() < deadline, "the shared directory cannot be removed: {error}");
        }
        fs::create_dir(&host)?;
        Ok(())
    }

    fn start_again(&mut self) -> Result<()> {
        self.wait_for_end()?;
        if self.kind == Kind::KillServe {
            self.mount.serve_at_socket(serve)?;
            self.mount.mount_through_socket()
        } else {
            self.mount.start_driver_with(&[])
        }
    }

    /// Waits until what depends on the part that has died has ended too.
    fn wait_for_end(&mut self) -> Result<()> {
        let mount = &mut self.mount;
        if matches!(self.kind, Kind::KillDevice | Kind::Memory) {
            ensure!(!mount.ended()?.success(), "a mount without its device ended well");
        } else if self.kind == Kind::KillServe {
            ensure!(!mount.ended()?.success(), "a mount without its server ended well");
            mount.ended()?;
            fs::remove_file(mount.socket())?;
        } else if self.kind == Kind::RootReplaced {
            let sync = mount.sync().err().map(|error| error.to_string()).unwrap_or_default();
            ensure!(sync.contains("has been deleted"), "sync does not say it: {sync:?}");
            mount.driver().signal(Signal::TERM)?;
            ensure!(mount.ended()?.success(), "a mount without its directory ended badly");
        }
        Ok(())
    }

    /// A trial in the mount that has come instead: what was wrong, and whether nothing but watches was.
    fn afterwards(&self, name: &str, seed: u64) -> Result<(Vec<String>, bool)> {
        let plan = plan(OPS_AFTERWARDS, &JUDGES);
        let case = Case::generate(case::Kind::Both, plan.knobs, seed);
        let mut trial = Trial::new(&self.mount, &plan, case, name)?;
        let outcome = trial.run()?;
        let mut wrong = trial.audit()?;
        let watches = only_watches(trial.case(), &outcome.wrong);
        if !watches {
            wrong.extend(outcome.text);
        }
        trial.remove()?;
        Ok((wrong, watches))
    }
}

/// What the new mount shows that is not on the host.
fn shown_otherwise(
    share: &Share,
    case: &Case,
    host: &std::collections::BTreeMap<String, State>,
) -> Result<Option<String>> {
    let mount = read_all(share.mount(), &case.dirs)?;
    let name = host.keys().chain(mount.keys()).find(|name| host.get(*name) != mount.get(*name));
    Ok(name.map(|name| {
        let [here, there] = [host, &mount].map(|tree| tree.get(name));
        format!("{name} is {here:?} on the host, and {there:?} in the new mount")
    }))
}

/// The processes of a case, without anybody who judges what they do.
struct Load(Vec<Worker>);

impl Load {
    fn start(share: &Share, case: &Case) -> Result<Self> {
        let base = |side: &Side| match side {
            Side::Host => share.host().to_owned(),
            Side::Mount => share.mount().to_owned(),
        };
        let workers = case.scripts.iter().map(|(side, ops)| Worker::start(&base(side), ops));
        let mut workers = workers.collect::<Result<Vec<_>>>()?;
        workers.iter_mut().for_each(Worker::release);
        Ok(Self(workers))
    }

    /// Waits until all have ended, which each must do by itself.
    fn wait(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(Worker::wait)
    }

    fn results(&self) -> Result<Vec<Vec<Done>>> {
        self.0.iter().map(Worker::results).collect()
    }
}
