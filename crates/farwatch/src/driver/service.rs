// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Service`]: who answers the kernel's requests, and how that ends.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{Epoll, EpollEvent, EventSet};

use super::error::Error;
use super::forward::{DRAIN_WAIT, Halt, Worker};
use super::signal::{self, Signal};
use crate::dev_fuse::{FuseDevice, Handoff};
use crate::replay_cpu::ReplayCpu;

const HANG_UP: u64 = 0;
const AT_ONCE: u64 = 1;

/// Who answers the kernel's requests. It has the only references to the connection that last.
#[derive(Debug)]
pub(super) enum Service {
    /// Workers of the driver, which forward them to a device.
    Workers {
        /// The threads.
        threads: Vec<JoinHandle<Result<(), Error>>>,
        /// One of them has ended.
        ended: Signal,
    },
    /// The device, which has the connection too.
    Device {
        /// Hangs up when the device serves the connection no more.
        handoff: Arc<Handoff>,
        /// The connection.
        fuse: Arc<FuseDevice>,
        /// Ends the device, whatever it is doing.
        kill: Kill,
    },
}

/// Ends a process.
pub(super) struct Kill(pub(super) Box<dyn Fn() + Send>);

impl fmt::Debug for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kill").finish_non_exhaustive()
    }
}

impl Service {
    /// Starts `workers` on `fuse`.
    pub(super) fn start_workers(
        workers: Vec<Worker>,
        fuse: &Arc<FuseDevice>,
        halt: &Halt,
    ) -> Result<Self, Error> {
        let ended = Signal::new().map_err(Error::system("making an eventfd"))?;
        let start = |(nth, worker): (usize, Worker)| {
            let (fuse, ended) = (Arc::clone(fuse), RaiseOnDrop(ended.clone()));
            thread::Builder::new().name(format!("farwatch-q{nth}")).spawn(move || {
                let _ended = ended;
                worker.run(&fuse)
            })
        };
        let threads = workers.into_iter().enumerate().map(start).collect::<io::Result<_>>();
        let threads = threads
            .map_err(Error::system("starting a thread"))
            .inspect_err(|_| halt.stop.raise())?;
        Ok(Self::Workers { threads, ended })
    }

    /// Gives `fuse` to the device.
    pub(super) fn hand_over(
        handoff: &Arc<Handoff>,
        fuse: &Arc<FuseDevice>,
        replay_cpu: &ReplayCpu,
        kill: Kill,
    ) -> Result<Self, Error> {
        handoff.give(fuse, replay_cpu).map_err(Error::system("giving /dev/fuse to the device"))?;
        Ok(Self::Device { handoff: Arc::clone(handoff), fuse: Arc::clone(fuse), kill })
    }

    /// Wakes sleepers on `epoll` with `token` when it has ended, in part or in whole.
    pub(super) fn register_end(&self, epoll: &Epoll, token: u64) -> io::Result<()> {
        match self {
            Self::Workers { ended, .. } => ended.register(epoll, token),
            Self::Device { handoff, .. } => {
                signal::register(epoll, &**handoff, EventSet::READ_HANG_UP, token)
            }
        }
    }

    /// Waits until it has ended, as `halt` says. No reference to the connection is left in this process.
    pub(super) fn end(self, halt: &Halt) -> Result<(), Error> {
        match self {
            Self::Workers { threads, .. } => {
                let mut outcome = Ok(());
                for thread in threads {
                    let ended = thread.join().unwrap_or(Err(Error::Panicked));
                    outcome = outcome.and(ended);
                }
                outcome
            }
            Self::Device { handoff, fuse, kill } => {
                handoff.end();
                let ended = !halt.at_once.is_raised()
                    && device_ends(&handoff, &halt.at_once)
                        .map_err(Error::system("waiting for the device to end"))?;
                drop(fuse);
                if !ended {
                    // It has the connection too: with it, every request ends.
                    kill.0();
                }
                Ok(())
            }
        }
    }

    /// Whether it answers in time: not if it is stuck.
    pub(super) fn answers(&self, wait: Duration) -> Result<bool, Error> {
        match self {
            Self::Workers { .. } => Ok(true),
            Self::Device { handoff, .. } => {
                handoff.answers(wait).map_err(Error::system("asking whether the device answers"))
            }
        }
    }
}

/// Waits a while for the requests that the device has; whether they have ended.
fn device_ends(handoff: &Handoff, at_once: &Signal) -> io::Result<bool> {
    let epoll = Epoll::new()?;
    signal::register(&epoll, handoff, EventSet::READ_HANG_UP, HANG_UP)?;
    at_once.register(&epoll, AT_ONCE)?;
    let deadline = Instant::now() + DRAIN_WAIT;
    let mut event = [EpollEvent::default()];
    let woken = signal::wait(&epoll, &mut event, Some(deadline))?;
    if woken == 0 {
        tracing::warn!("abandoning requests that the device does not finish");
    }
    Ok(woken > 0 && event[0].data() == HANG_UP)
}

/// Raises a signal when a thread ends, be it in a panic.
#[derive(Debug)]
struct RaiseOnDrop(Signal);

impl Drop for RaiseOnDrop {
    fn drop(&mut self) {
        self.0.raise();
    }
}
