// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replies that are ahead of events: they show a change of the host before the guest has been told of earlier ones.
//!
//! On a local directory whoever sees an effect sees its cause. A program on the host appends to one file and then
//! creates another; one in the guest that finds the second must find what was appended to the first, which its kernel has
//! cached. The kernel refreshes that when the event is replayed. So a reply that shows something new waits until what
//! was reported before has been replayed, for a moment at most.
//!
//! A replay can need a lock that the kernel holds over the very request that waits: that of the directory in which a
//! name is looked up, or that of an inode. Then everything before that replay has been told, and the wait is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{Held, Progress};

use super::Share;
use crate::watch::Backend;

/// How long a reply waits. An agent replays a few thousand events a second.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// With more events than this to come a reply does not wait: they would not be told in time.
const EVENTS_MAX: usize = 64;
/// How often it is looked whether the wait is over.
const PAUSE: Duration = Duration::from_micros(100);
/// How long the next replay must be seen to wait for a lock of the guest's kernel. The request of the one before has been
/// answered by then, and the agent has to get a processor to take that in.
const BLOCKED_MIN: Duration = Duration::from_millis(2);
/// How far a file's timestamp can be behind the clock: the kernel takes the time of its last tick
/// (`ktime_get_coarse_real_ts64()`), of which there are at least 100 a second.
const TICK_MAX: Duration = Duration::from_millis(20);
/// What is reported so shortly after a call for the guest is taken for its report. The watch thread leaves those in the
/// kernel's queue for a moment.
const OWN_REPORT_AFTER: Duration = Duration::from_millis(1);

/// When the guest was in step, and when the last call was made for it.
#[derive(Debug)]
pub(super) struct Moments {
    /// All that had happened on the host by then had been told: nanoseconds since the epoch by the clock that
    /// timestamps are taken from, which may be set meanwhile.
    in_step: AtomicU64,
    start: Instant,
    /// Nanoseconds since the start.
    own_call: AtomicU64,
}

impl Default for Moments {
    fn default() -> Self {
        let in_step = AtomicU64::new(since_epoch(SystemTime::now()));
        Self { in_step, start: Instant::now(), own_call: AtomicU64::new(0) }
    }
}

impl Moments {
    fn since_start(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// A call for the guest has returned.
    pub(super) fn own_call(&self) {
        self.own_call.store(self.since_start(), Ordering::Relaxed);
    }

    fn is_own_call_recent(&self) -> bool {
        let ago = self.since_start().saturating_sub(self.own_call.load(Ordering::Relaxed));
        Duration::from_nanos(ago) < OWN_REPORT_AFTER
    }

    /// All that had happened on the host by `at` has been told.
    fn in_step(&self, at: SystemTime) {
        self.in_step.store(since_epoch(at), Ordering::Relaxed);
    }

    /// Whether what happened at that time had been told when the guest was in step last.
    fn is_told(&self, changed: SystemTime) -> bool {
        let latest = changed.checked_add(TICK_MAX);
        latest.is_some_and(|at| since_epoch(at) < self.in_step.load(Ordering::Relaxed))
    }
}

/// 0 for what was before.
fn since_epoch(at: SystemTime) -> u64 {
    nanos(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Share {
    /// Whether a reply would be ahead of events that shows an object as it was made or changed at `changed`.
    pub(crate) fn is_ahead(&self, changed: SystemTime) -> bool {
        !self.moments.is_told(changed) && self.can_wait() && self.is_behind()
    }

    /// The same of a reply whose object's time is known only to who asks for it.
    pub(crate) fn would_be_ahead(&self, changed: impl FnOnce() -> Option<SystemTime>) -> bool {
        let is_behind = self.can_wait() && self.is_behind();
        is_behind && changed().is_some_and(|changed| !self.moments.is_told(changed))
    }

    /// Whether there is an agent that can tell what is to come while a reply waits.
    fn can_wait(&self) -> bool {
        let engine = &self.lock().engine;
        engine.refreshes() && engine.backlog_len() <= EVENTS_MAX
    }

    /// Whether something has happened on the host of which the guest has not been told, as far as can be seen at once.
    pub(super) fn is_behind(&self) -> bool {
        let Some(backend) = self.backend() else { return false };
        let now = SystemTime::now();
        // Before the engine is asked: what is handed in from here on is found there.
        let is_quiet = Backend::is_quiet(backend);
        let state = self.lock();
        if !state.engine.refreshes() {
            return false;
        }
        let is_behind = state.engine.is_behind();
        drop(state);
        if !is_behind && is_quiet {
            self.moments.in_step(now);
            return false;
        }
        is_behind || !self.moments.is_own_call_recent()
    }

    /// Waits until the guest has been told of all that has happened, as far as that can be before a request about `held`
    /// is answered.
    pub(crate) fn catch_up(&self, held: Held<'_>) {
        let mut state = self.lock();
        let Some(ticket) = state.engine.ask_barrier() else { return };
        let was_behind = state.engine.is_behind();
        let next = state.engine.next_number();
        drop(state);
        self.wake();
        let deadline = Instant::now() + WAIT_MAX;
        let mut blocked_since = None;
        loop {
            let now = Instant::now();
            let state = self.lock();
            let progress = state.engine.progress(ticket);
            let is_blocked = state.engine.is_next_kept_by(held);
            // What was sent is known to be done when the barrier is reached: the last answer has yet to be taken in.
            let is_nothing = !was_behind && !state.engine.is_behind();
            let is_done =
                progress != Progress::Unread && is_nothing && state.engine.next_number() == next;
            drop(state);
            blocked_since = is_blocked.then(|| blocked_since.unwrap_or(now));
            let is_stuck = blocked_since.is_some_and(|since| now - since >= BLOCKED_MIN);
            if is_done || progress == Progress::Reached || is_stuck {
                return;
            }
            if now >= deadline {
                tracing::debug!(?held, "a reply is ahead of events");
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_before_the_guest_was_in_step_have_been_delivered_and_later_ones_have_not() {
        let (moments, start) = (Moments::default(), SystemTime::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert!(moments.is_told(start - Duration::from_secs(1)));
        assert!(!moments.is_told(at(0)));
        moments.in_step(at(100));
        assert!(moments.is_told(at(79)));
        assert!(!moments.is_told(at(81)), "its timestamp may be that of a change after the moment");
    }
}
