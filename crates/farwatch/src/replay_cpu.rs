// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`ReplayCpu`]: the CPU on which events are replayed in `farwatch mount`.
//!
//! A replay is a conversation in which one thread works at a time: the watch thread wakes the agent, whose system call
//! wakes a thread of the device, whose reply wakes the agent. The scheduler prefers an idle CPU for a thread that is
//! woken (`select_idle_sibling()`), and waking an idle CPU takes longer than most of what the thread then does. On the
//! CPU of the thread that wakes it, it runs as soon as that one sleeps.
//!
//! So the watch thread stays on one CPU for a while ([`Leader`]). The agent's thread, and a thread of the device while it
//! serves the agent, restrict themselves to the same one ([`Follower`]). Its number is in memory that the two processes
//! share. Nothing but speed depends on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory as _};

use crate::shared_memory;

/// The length of the shared memory, in bytes: a page.
const LEN: usize = 4096;

/// See the module's documentation. Each process has its own mapping of the same memory.
#[derive(Debug)]
pub(crate) struct ReplayCpu {
    memory: MmapRegion,
    fd: OwnedFd,
}

impl ReplayCpu {
    /// A CPU that is not known yet. Called by the driver.
    ///
    /// # Errors
    /// When there are no descriptors left, or no memory.
    pub(crate) fn new() -> io::Result<Self> {
        Self::map(shared_memory::of_fixed_length("farwatch-replay-cpu", LEN)?)
    }

    /// The memory behind `fd`, a descriptor that the driver has sent. Called by the device.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub(crate) fn map(fd: OwnedFd) -> io::Result<Self> {
        let file = fd.try_clone()?.into();
        let memory =
            MmapRegion::from_file(FileOffset::new(file, 0), LEN).map_err(io::Error::other)?;
        Ok(Self { memory, fd })
    }

    fn store(&self, cpu: usize) {
        // 0 stands for none.
        let number = u32::try_from(cpu + 1).unwrap_or(0);
        let stored = self.memory.as_volatile_slice().store(number, 0, Ordering::Relaxed);
        stored.expect("the first word of a page");
    }

    fn get(&self) -> Option<usize> {
        let number: u32 = self.memory.as_volatile_slice().load(0, Ordering::Relaxed).ok()?;
        usize::try_from(number).ok()?.checked_sub(1)
    }
}

/// What another process maps.
impl AsFd for ReplayCpu {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The watch thread, which says where replays are made. It does not move with each event: whoever changes something wakes
/// it, on that CPU or another (`wake_affine()`), and all that follow would have to move too.
#[derive(Debug)]
pub(crate) struct Leader {
    cpu: Arc<ReplayCpu>,
    /// Until when the thread stays.
    restricted: Option<(Instant, Restricted)>,
}

impl Leader {
    /// After so long the scheduler chooses once more, when it wakes the thread.
    const STAY: Duration = Duration::from_secs(1);

    /// A thread that runs where the scheduler wants, so far.
    pub(crate) fn new(cpu: Arc<ReplayCpu>) -> Self {
        Self { cpu, restricted: None }
    }

    /// The calling thread is about to wake the agent.
    pub(crate) fn leads(&mut self, now: Instant) {
        match self.restricted.take() {
            Some((until, restricted)) if now < until => self.restricted = Some((until, restricted)),
            Some((_, restricted)) => restricted.end(),
            None => {
                let cpu = sched_getcpu();
                self.cpu.store(cpu);
                self.restricted =
                    Restricted::to(cpu).map(|restricted| (now + Self::STAY, restricted));
            }
        }
    }
}

/// A thread that replays, always or at times. The calls are made by that thread.
#[derive(Debug)]
pub(crate) struct Follower {
    cpu: Arc<ReplayCpu>,
    restricted: Option<Restricted>,
    balance: Balance,
}

impl Follower {
    /// A thread that runs where the scheduler wants, so far.
    pub(crate) fn new(cpu: Arc<ReplayCpu>) -> Self {
        Self { cpu, restricted: None, balance: Balance::default() }
    }

    /// The thread takes part in a replay.
    pub(crate) fn replays(&mut self) {
        let Some(cpu) = self.cpu.get() else { return };
        match &mut self.restricted {
            Some(restricted) => restricted.move_to(cpu),
            none => *none = Restricted::to(cpu),
        }
    }

    /// The thread serves a request, of the agent or of another program. It goes to the CPU of replays, or leaves it, when
    /// most of the last requests were such.
    pub(crate) fn serves(&mut self, agent: bool) {
        if self.balance.follows(agent) {
            self.replays();
        } else if let Some(restricted) = self.restricted.take() {
            restricted.end();
        }
    }
}

/// A thread that has restricted itself to one CPU.
#[derive(Debug)]
struct Restricted {
    cpu: usize,
    /// Where it could run before.
    before: CpuSet,
}

impl Restricted {
    /// Restricts the calling thread. `None` if it may not run there.
    fn to(cpu: usize) -> Option<Self> {
        match sched_getaffinity(None).and_then(|before| restrict(cpu).map(|()| before)) {
            Ok(before) => Some(Self { cpu, before }),
            Err(error) => {
                tracing::debug!(%error, cpu, "a thread cannot stay on a CPU");
                None
            }
        }
    }

    /// If the thread may not run there, it stays.
    fn move_to(&mut self, cpu: usize) {
        if self.cpu == cpu {
            return;
        }
        match restrict(cpu) {
            Ok(()) => self.cpu = cpu,
            Err(error) => tracing::debug!(%error, cpu, "a thread cannot move to a CPU"),
        }
    }

    fn end(self) {
        if let Err(error) = sched_setaffinity(None, &self.before) {
            tracing::debug!(%error, "a thread cannot leave its CPU");
        }
    }
}

fn restrict(cpu: usize) -> Result<(), Errno> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(Errno::INVAL);
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only)
}

/// Whether most of a thread's requests are the agent's. Where programs and the agent take turns it stays as it is, so that
/// the thread does not move with each request.
#[derive(Clone, Copy, Debug, Default)]
struct Balance {
    /// Requests of the agent less those of others, between 0 and [`Balance::MAX`].
    excess: u8,
    follows: bool,
}

impl Balance {
    const MAX: u8 = 4;

    /// Counts a request, and says whether the thread is to be where replays are.
    fn follows(&mut self, agent: bool) -> bool {
        self.excess =
            if agent { Self::MAX.min(self.excess + 1) } else { self.excess.saturating_sub(1) };
        self.follows = match self.excess {
            0 => false,
            Self::MAX => true,
            _ => self.follows,
        };
        self.follows
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn cpus() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
    }

    #[test]
    fn a_thread_that_replays_is_on_the_cpu_that_another_process_has_set() {
        thread::spawn(|| {
            let ours = ReplayCpu::new().unwrap();
            let theirs = ReplayCpu::map(ours.fd.try_clone().unwrap()).unwrap();
            let mut follower = Follower::new(Arc::new(ours));
            let all = cpus();
            follower.replays();
            assert_eq!(cpus(), all, "no CPU is known yet");
            for cpu in &all {
                theirs.store(*cpu);
                follower.replays();
                assert_eq!(cpus(), [*cpu]);
            }
            // One that the thread may not use, or that no set can name, changes nothing.
            theirs.store(CpuSet::MAX_CPU - 1);
            follower.replays();
            theirs.store(CpuSet::MAX_CPU);
            follower.replays();
            assert_eq!(cpus(), all[all.len() - 1..]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_watch_thread_stays_for_a_while_and_says_where() {
        thread::spawn(|| {
            let cpu = Arc::new(ReplayCpu::new().unwrap());
            let mut leader = Leader::new(Arc::clone(&cpu));
            let (all, start) = (cpus(), Instant::now());
            for began in [start, start + Leader::STAY * 2] {
                for now in [began, began + Leader::STAY / 2] {
                    leader.leads(now);
                    assert_eq!(cpus(), [cpu.get().unwrap()]);
                }
                leader.leads(began + Leader::STAY);
                assert_eq!(cpus(), all);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_that_serves_others_runs_everywhere_again() {
        thread::spawn(|| {
            let cpu = Arc::new(ReplayCpu::new().unwrap());
            let all = cpus();
            cpu.store(all[0]);
            let mut follower = Follower::new(cpu);
            (0..Balance::MAX).for_each(|_| follower.serves(true));
            assert_eq!(cpus(), all[..1]);
            (0..Balance::MAX).for_each(|_| follower.serves(false));
            assert_eq!(cpus(), all);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn requests_in_turns_move_no_thread() {
        let mut balance = Balance::default();
        let mut after = |requests: &[bool]| {
            requests.iter().map(|agent| balance.follows(*agent)).collect::<Vec<_>>()
        };
        assert_eq!(after(&[true, false].repeat(5)), [false; 10]);
        assert_eq!(after(&[true; 4]), [false, false, false, true]);
        assert_eq!(after(&[false, true].repeat(5)), [true; 10]);
        assert_eq!(after(&[false; 4]), [true, true, true, false]);
    }
}
