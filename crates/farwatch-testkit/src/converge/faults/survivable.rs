// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rounds in one mount, which survives each fault.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

use super::host::Host;
use super::injection::Injection;
use super::processes::kill;
use super::soak::Sample;
use super::{JUDGES, Judged, Kind, OPS, only_watches, plan};
use crate::converge::case::{self, Case};
use crate::converge::state::list;
use crate::converge::trial::Trial;
use crate::mount::Mount;
use crate::process::{Process, child_of};
use crate::share::Share;
use rustix::process::{Pid, Signal};

/// The mount, with what it stands on.
#[derive(Debug)]
pub(super) struct Stand {
    kind: Kind,
    agent: Option<Agent>,
    mount: Mount,
    /// Dropped after the mount.
    host: Host,
}

/// `farwatch-agent` with its worker.
#[derive(Debug)]
pub(super) struct Agent(Process);

impl Agent {
    fn start(mount: &Mount) -> Result<Self> {
        let mut command = mount.farwatch_agent()?;
        command.arg(mount.mount_point());
        let mut agent = Process::start(command)?;
        agent.wait_for_line(|line| line.starts_with("events are delivered on "))?;
        Ok(Self(agent))
    }

    /// The supervisor.
    pub(super) fn process(&self) -> &Process {
        &self.0
    }

    /// Returns when another worker has taken the place of the killed one.
    pub(super) fn kill_worker(&mut self) -> Result<()> {
        kill(child_of(self.0.id())?)?;
        self.0.wait_for_line(|line| line.starts_with("events are delivered on ")).map(drop)
    }

    pub(super) fn kill_and_start_again(&mut self, mount: &Mount) -> Result<()> {
        self.0.signal(Signal::KILL)?;
        self.0.exited()?;
        *self = Self::start(mount)?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It takes its worker with it, and an error means that it has ended.
        drop(self.0.signal(Signal::TERM));
        drop(self.0.exited());
    }
}

impl Stand {
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let host = if matches!(kind, Kind::DiskFull | Kind::ReadOnly) {
            Host::small()?
        } else if kind == Kind::SlowHost {
            Host::served()?
        } else {
            Host::Usual
        };
        let mount = host.unmounted()?;
        let has_agent = matches!(
            kind,
            Kind::KillWorker | Kind::KillSupervisor | Kind::StopWorker | Kind::StopSupervisor
        );
        let mount = if kind == Kind::StopServe {
            mount.started_through_socket(serve)?
        } else if has_agent {
            mount.started_with(&["--no-agent"])?
        } else {
            mount.started_with(&[])?
        };
        let agent = if has_agent { Some(Agent::start(&mount)?) } else { None };
        Ok(Self { kind, agent, mount, host })
    }

    pub(super) fn log(&self) -> String {
        let agent = self.agent.as_ref().map(|agent| agent.0.log());
        [self.mount.log(), agent.unwrap_or_default()].join("\n")
    }

    /// What happens in the next round: of what the same processes survive.
    pub(super) fn set_kind(&mut self, kind: Kind) {
        self.kind = kind;
    }

    /// What driver and device hold now.
    pub(super) fn sample(&mut self, begin: Instant) -> Result<Sample> {
        let processes = [child_of(self.mount.driver().id())?, id(self.mount.driver())?];
        Sample::take(&self.mount, &processes, begin)
    }

    /// Every second round has one process on the host, whose tree nothing else may change.
    pub(super) fn round(&mut self, name: &str, seed: u64) -> Result<Judged> {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let [solo, both] = [case::Kind::Solo, case::Kind::Both];
        let case = if seed.is_multiple_of(2) { solo } else { both };
        let plan = plan(OPS, &JUDGES);
        let case = Case::generate(case, plan.knobs, seed).with_ledger(OPS / 4);
        let inner = match &mut self.host {
            Host::Served(inner) => Some(child_of(inner.driver().id())?),
            Host::Usual | Host::Small { .. } => None,
        };
        let [first, last] = [self.mount.device().id(), self.mount.driver().id()];
        let below = format!("{name}-below");
        let share = self.mount.share(&below)?;
        list(share.mount().parent().context("a parent")?, std::slice::from_ref(&below))?;
        let mut trial = Trial::new(&self.mount, &plan, case, name)?;
        let injection = Injection {
            kind: self.kind,
            mount: &self.mount,
            first,
            last,
            agent: self.agent.as_mut(),
            inner,
            submount: share.host(),
        };
        let outcome = trial.run_beside(|| injection.run(&mut rng))?;
        let mut wrong = trial.audit()?;
        if self.kind == Kind::Submount {
            wrong.extend(listed_otherwise(&share)?);
        }
        let watches = wrong.is_empty() && only_watches(trial.case(), &outcome.wrong);
        let text = match (outcome.text, wrong.is_empty()) {
            (None, true) => None,
            _ if watches => None,
            (text, _) => {
                let text = text.unwrap_or_else(|| trial.describe(&[]));
                Some(format!("{}\n{text}\n{}", wrong.join("\n"), self.mount.log()))
            }
        };
        let ops = u64::try_from(outcome.ops)?;
        trial.remove()?;
        super::super::trial::remove(&share)?;
        Ok(Judged { text, watches, ops })
    }
}

/// Whether what is below a directory is the same on both sides, where file systems have come and gone.
fn listed_otherwise(share: &Share) -> Result<Option<String>> {
    let names = |dir: &Path| -> Result<Vec<_>> {
        let mut names =
            fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    };
    let [host, mount] = [names(share.host())?, names(share.mount())?];
    Ok((host != mount).then(|| format!("the host lists {host:?}, the mount {mount:?}")))
}

/// `farwatch serve` for the directory of a mount.
pub(super) fn serve(mount: &Mount, socket: &Path) -> Result<Command> {
    let mut command = mount.farwatch()?;
    command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
    ensure!(mount.host().is_dir(), "nothing to share");
    Ok(command)
}

/// The id as the calls take it.
pub(super) fn id(process: &Process) -> Result<Pid> {
    super::processes::pid(process.id())
}
