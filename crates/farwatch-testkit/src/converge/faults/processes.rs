// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The processes of a mount, as faults need them: found again each time, since some are replaced.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::PATIENCE;

/// A process by its id.
pub(super) fn pid(id: u32) -> Result<Pid> {
    Pid::from_raw(id.try_into()?).context("a process id is never 0")
}

/// Kills a process that has been found above, and waits until it has ended.
pub(super) fn kill(process: Pid) -> Result<()> {
    let pidfd = pidfd_open(process, PidfdFlags::empty()).context("pidfd_open")?;
    kill_process(process, Signal::KILL).context("kill")?;
    wait_for_end(&pidfd)
}

fn wait_for_end(pidfd: &rustix::fd::OwnedFd) -> Result<()> {
    let patience = Timespec::try_from(PATIENCE)?;
    let ended = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience))?;
    anyhow::ensure!(ended > 0, "a killed process goes on");
    Ok(())
}

/// Stops a process for a while.
pub(super) fn stop(process: Pid, time: Duration) -> Result<()> {
    kill_process(process, Signal::STOP).context("SIGSTOP")?;
    let paused = pause(time);
    kill_process(process, Signal::CONT).context("SIGCONT")?;
    paused
}

/// Lets a time pass, which the seed of a round has drawn.
pub(super) fn pause(time: Duration) -> Result<()> {
    match poll(&mut [], Some(&Timespec::try_from(time)?)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context("poll"),
    }
}
