// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Waiting: [`Signal`], which is raised once and for all, and `epoll_wait(2)` with a deadline.
//!
//! Every thread of the driver sleeps in one place only, in [`wait`], with a signal among the things
//! that wake it; so each of them can be made to end.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Something that happens at most once; threads can test it and sleep on it. Clones are the same
/// signal.
#[derive(Clone, Debug)]
pub(super) struct Signal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raised: AtomicBool,
    event: EventFd,
}

impl Signal {
    /// Not raised.
    ///
    /// # Errors
    /// When there is no fd left.
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Inner { raised: AtomicBool::new(false), event })))
    }

    /// It has happened. Any thread, any number of times.
    pub(super) fn raise(&self) {
        if !self.0.raised.swap(true, Ordering::SeqCst) {
            self.0.event.write(1).expect("an eventfd takes its first 1");
        }
    }

    /// Whether it has happened.
    pub(super) fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Wakes sleepers on `epoll` with `token` for ever after.
    pub(super) fn register(&self, epoll: &Epoll, token: u64) -> io::Result<()> {
        register(epoll, &self.0.event, EventSet::IN, token)
    }
}

/// Adds `source` to `epoll`.
pub(super) fn register(
    epoll: &Epoll,
    source: &impl AsRawFd,
    events: EventSet,
    token: u64,
) -> io::Result<()> {
    epoll.ctl(ControlOperation::Add, source.as_raw_fd(), EpollEvent::new(events, token))
}

/// Sleeps until something happens on `epoll` or `until` has come, for ever without it; gives the
/// number of `events` filled in, 0 when the time is up.
pub(super) fn wait(
    epoll: &Epoll,
    events: &mut [EpollEvent],
    until: Option<Instant>,
) -> io::Result<usize> {
    loop {
        let timeout = match until {
            None => -1,
            // Rounded up: waking before the deadline would make the caller spin up to it.
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
            }
        };
        match epoll.wait(timeout, events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_signal_wakes_every_sleeper_and_stays_raised() {
        let signal = Signal::new().unwrap();
        let epolls = [Epoll::new().unwrap(), Epoll::new().unwrap()];
        for epoll in &epolls {
            signal.register(epoll, 7).unwrap();
        }
        let mut events = [EpollEvent::default(); 4];
        assert_eq!(wait(&epolls[0], &mut events, Some(Instant::now())).unwrap(), 0);
        signal.raise();
        signal.clone().raise();
        for epoll in epolls.iter().chain(&epolls) {
            assert_eq!(wait(epoll, &mut events, None).unwrap(), 1);
            assert_eq!(events[0].data(), 7);
        }
        assert!(signal.is_raised());
    }
}
