// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Faults that a mount survives: each comes, and is taken back.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::host::set_read_only;
use super::processes::{pause, pid, stop};
use super::survivable::Agent;
use super::{DELAY_MAX, Kind};
use crate::PATIENCE;
use crate::mount::Mount;
use crate::process::child_of;
use crate::submount::Submount;

/// A process is stopped for at most so long.
pub(super) const STOP_MAX: Duration = Duration::from_millis(150);
/// A shortage lasts at most so long.
const SHORTAGE_MAX: Duration = Duration::from_millis(60);
/// Descriptors that a device may still open when they are short.
const DESCRIPTORS_LEFT_MAX: u64 = 12;
/// File systems that come and go in one round.
const SUBMOUNTS_MAX: u32 = 4;

/// What a fault is done to.
pub(super) struct Injection<'a> {
    pub(super) kind: Kind,
    pub(super) mount: &'a Mount,
    /// The processes of `mount`: the first is the device or both, the last the driver.
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) agent: Option<&'a mut Agent>,
    /// The device of the mount that serves the host's file system.
    pub(super) inner: Option<Pid>,
    /// Where file systems come and go, on the host.
    pub(super) submount: &'a Path,
}

impl Injection<'_> {
    /// Waits for a random moment, and lets the fault come and go.
    pub(super) fn run(mut self, rng: &mut Rng) -> Result<()> {
        pause(random(rng, DELAY_MAX))?;
        let time = random(rng, STOP_MAX);
        let short = random(rng, SHORTAGE_MAX);
        match self.kind {
            Kind::StopDriver => stop(pid(self.last)?, time),
            Kind::StopServe => stop(pid(self.first)?, time),
            Kind::StopDevice => stop(child_of(self.first)?, time),
            Kind::StopWorker => stop(child_of(self.agent()?.process().id())?, time),
            Kind::StopSupervisor => stop(pid(self.agent()?.process().id())?, time),
            Kind::KillWorker => self.agent()?.kill_worker(),
            Kind::KillSupervisor => {
                let mount = self.mount;
                self.agent()?.kill_and_start_again(mount)
            }
            Kind::SlowHost => stop(self.inner.context("a served host")?, time),
            Kind::DiskFull => self.fill(short),
            Kind::ReadOnly => self.read_only(short),
            Kind::Descriptors => self.descriptors(rng.u64(..DESCRIPTORS_LEFT_MAX), short),
            Kind::Submount => self.submounts(rng),
            Kind::MachineStop | Kind::Migration | Kind::Snapshot => {
                bail!("this needs a virtual machine")
            }
            Kind::KillDriver
            | Kind::KillDevice
            | Kind::KillServe
            | Kind::Memory
            | Kind::RootReplaced => bail!("this ends a mount"),
        }
    }

    fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_deref_mut().context("an agent")
    }

    /// Writes outside the share until nothing is left, and takes that away again.
    fn fill(&self, time: Duration) -> Result<()> {
        let filler = self.mount.outside().join("filler");
        let mut file = fs::File::create(&filler)?;
        for len in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; len]).is_ok() {}
        }
        pause(time)?;
        fs::remove_file(&filler).context("the filler")
    }

    /// A file that is open for writing forbids it for a moment.
    fn read_only(&self, time: Duration) -> Result<()> {
        let dir = self.mount.host();
        let dir = dir.ancestors().nth(2).context("a file system of its own")?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(errno) = set_read_only(dir, true) {
            ensure!(errno == Errno::BUSY && Instant::now() < deadline, "remount: {errno}");
        }
        let paused = pause(time);
        set_read_only(dir, false).context("remount")?;
        paused
    }

    fn descriptors(&self, left: u64, time: Duration) -> Result<()> {
        let device = child_of(self.first)?;
        let open = fs::read_dir(format!("/proc/{}/fd", device.as_raw_nonzero()))?.count();
        let limit = Rlimit { current: Some(u64::try_from(open)? + left), maximum: None };
        let before = prlimit(Some(device), Resource::Nofile, Rlimit { ..limit });
        let before = before.or_else(|_| {
            // The hard limit may not be raised, and need not be.
            let now = rustix::process::getrlimit(Resource::Nofile);
            prlimit(Some(device), Resource::Nofile, Rlimit { maximum: now.maximum, ..limit })
        })?;
        let paused = pause(time);
        prlimit(Some(device), Resource::Nofile, before).context("prlimit")?;
        paused
    }

    fn submounts(&self, rng: &mut Rng) -> Result<()> {
        for nth in 0..=rng.u32(..SUBMOUNTS_MAX) {
            let mounted = Submount::tmpfs(self.submount)?;
            fs::write(self.submount.join(format!("above{nth}")), "above")?;
            pause(random(rng, SHORTAGE_MAX))?;
            mounted.detach()?;
            fs::write(self.submount.join(format!("below{nth}")), "below")?;
        }
        Ok(())
    }
}

fn random(rng: &mut Rng, max: Duration) -> Duration {
    max.mul_f64(rng.f64())
}
