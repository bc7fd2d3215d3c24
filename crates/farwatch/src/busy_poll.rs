// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`BusyPoll`]: waiting a moment without sleeping.
//!
//! A thread that sleeps is woken through an eventfd: two system calls, and mostly another CPU, which costs more than
//! what the thread then does. A replay makes its requests one after the other, so whoever has passed one on has the next
//! thing to do within microseconds. The driver's worker polls for the reply, a thread of the device for the next
//! request. This is no lock and knows no queue: the caller says what it waits for.

use std::thread;
use std::time::{Duration, Instant};

/// Polls for at most [`BusyPoll::WAIT_MAX`] at a time, and less and less often while that is in vain.
///
/// It yields the CPU between two looks. So what is waited for goes on if it needs this CPU, on a machine with one CPU too.
#[derive(Debug, Default)]
pub(crate) struct BusyPoll {
    /// Waits in a row that were in vain, at most [`BusyPoll::MISSES_MAX`].
    misses: u32,
    /// Waits that are not to poll.
    skip: u32,
}

impl BusyPoll {
    /// The longest that one wait polls. A request of a replay takes some 20 µs.
    const WAIT_MAX: Duration = Duration::from_micros(50);
    /// After so many misses in a row one wait of 2 to that power polls: a request that comes now and then costs less than
    /// a microsecond more.
    const MISSES_MAX: u32 = 7;

    /// Whether the next wait polls, or looks once.
    pub(crate) fn polls(&self) -> bool {
        self.skip == 0
    }

    /// Waits a moment until `ready`. Returns `false` if it has not come about: then the caller is to sleep.
    pub(crate) fn wait(&mut self, ready: impl FnMut() -> bool) -> bool {
        self.wait_for(Self::WAIT_MAX, ready)
    }

    fn wait_for(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return ready();
        }
        let start = Instant::now();
        loop {
            if ready() {
                self.misses = 0;
                return true;
            }
            if start.elapsed() >= limit {
                break;
            }
            thread::yield_now();
        }
        self.misses = (self.misses + 1).min(Self::MISSES_MAX);
        self.skip = (1 << self.misses) - 2;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a wait looks, for something that never comes.
    fn looks(poll: &mut BusyPoll) -> u32 {
        let mut looks = 0;
        let waited = poll.wait_for(Duration::from_micros(200), || {
            looks += 1;
            false
        });
        assert!(!waited);
        looks
    }

    #[test]
    fn waiting_ends_when_it_is_ready() {
        let mut looks = 0;
        assert!(BusyPoll::default().wait_for(Duration::MAX, || {
            looks += 1;
            looks == 3
        }));
        assert_eq!(looks, 3);
    }

    #[test]
    fn waits_in_vain_make_polling_rare_and_one_that_was_not_ends_that() {
        let mut poll = BusyPoll::default();
        let polled = |poll: &mut BusyPoll, waits| (0..waits).filter(|_| looks(poll) > 1).count();
        assert_eq!(polled(&mut poll, 2), 2);
        assert_eq!(polled(&mut poll, 1000), 11);
        // What is ready at once is found though this wait does not poll.
        while poll.skip > 0 {
            assert!(poll.wait(|| true));
        }
        assert!(poll.wait(|| true));
        assert_eq!(polled(&mut poll, 2), 2);
    }
}
