// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Outbox`], and what pulls and is pulled.

use std::fmt;
use std::time::Instant;

use farwatch_proto::wire::Notification;

use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// Who pulls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sink {
    /// The notification virtqueue.
    Queue,
    /// READs of the agent with this link number.
    Reads(u64),
}

/// What a pull gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Pulled {
    /// The next notification: it counts as sent.
    Notification(Notification),
    /// No event is waiting.
    Nothing,
    /// The watch thread has something to look up first, and was woken. [`Outbox::wake`] follows.
    LookPending,
    /// Notifications do not go to this sink, or not any more.
    NotReceiving,
}

/// Where notifications are pulled from: the engine, under its lock.
pub(crate) trait Source {
    /// Takes the next notification for `sink`. Does not wait.
    fn pull(&self, sink: Sink) -> Pulled;

    /// The agent with this link number asks for more, which it does after it has replayed everything.
    fn asked(&self, link: u64);
}

/// A sink's wake-up: it pulls until there is nothing more or it has no more room.
type Wake = Box<dyn Fn() + Send + Sync>;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Outbox {
    sinks: RwLock<Vec<Wake>>,
    counts: Mutex<Counts>,
    changed: Condvar,
}

/// What those that wait compare.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    /// How often there was something new.
    news: u64,
    /// How often all waits were ended.
    hurries: u64,
}

impl Outbox {
    /// Adds a sink. `wake` is called without any lock of the share.
    pub(crate) fn add_sink(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.sinks.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(wake));
    }

    /// There may be something to pull: wakes all sinks, and everyone who waits.
    pub(crate) fn wake(&self) {
        self.wake_waiters();
        for wake in &*self.sinks.read().unwrap_or_else(PoisonError::into_inner) {
            wake();
        }
    }

    /// There is nothing to pull, but whoever waits has to check again: the agent is gone, or a barrier
    /// may be reached.
    pub(crate) fn wake_waiters(&self) {
        self.counts().news += 1;
        self.changed.notify_all();
    }

    /// Ends all waits that go on now.
    pub(crate) fn hurry(&self) {
        self.counts().hurries += 1;
        self.changed.notify_all();
    }

    /// Prepares to wait. Whatever is new after this call ends the wait. Without a deadline it waits not
    /// at all.
    pub(crate) fn waiter(&self, deadline: Option<Instant>) -> Waiter<'_> {
        Waiter { outbox: self, seen: *self.counts(), deadline }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// Someone who waits for something new, until a deadline.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    outbox: &'a Outbox,
    seen: Counts,
    deadline: Option<Instant>,
}

impl Waiter<'_> {
    /// Waits until something is new since the last time. `false` on timeout, or when it is to stop.
    pub(crate) fn wait(&mut self) -> bool {
        let mut counts = self.outbox.counts();
        loop {
            if counts.hurries != self.seen.hurries {
                return false;
            }
            if counts.news != self.seen.news {
                self.seen.news = counts.news;
                return true;
            }
            let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let Some(left) = left.filter(|left| !left.is_zero()) else { return false };
            let waited = self.outbox.changed.wait_timeout(counts, left);
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    fn far() -> Option<Instant> {
        Instant::now().checked_add(Duration::from_secs(60))
    }

    #[test]
    fn wake_reaches_every_sink_and_wake_waiters_none() {
        let outbox = Outbox::default();
        let woken = Arc::new(AtomicU32::new(0));
        for _ in 0..3 {
            let woken = Arc::clone(&woken);
            outbox.add_sink(move || {
                woken.fetch_add(1, Ordering::Relaxed);
            });
        }
        outbox.wake_waiters();
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        outbox.wake();
        assert_eq!(woken.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn news_between_preparing_and_waiting_ends_the_wait_once() {
        let outbox = Outbox::default();
        let mut waiter = outbox.waiter(far());
        outbox.wake();
        assert!(waiter.wait());
        let mut expired = outbox.waiter(None);
        assert!(!expired.wait());
        outbox.hurry();
        assert!(!waiter.wait(), "hurried");
    }
}
