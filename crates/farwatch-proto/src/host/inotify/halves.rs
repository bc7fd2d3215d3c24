// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Halves`]: makes one move of the two records by which inotify reports a rename, and keeps the
//! order of everything else.
//!
//! The kernel queues `IN_MOVED_FROM` and `IN_MOVED_TO` one right after the other
//! (`fsnotify_move()`), but not in one step: a reader can come between them, and so can the records
//! of other processes. So an `IN_MOVED_FROM` waits for its mate, and all behind it wait with it. If
//! none has come when the queue was found empty [`Halves::WAIT_MAX`] later, there is none: the object
//! has left what is watched.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Seen;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Halves {
    queue: VecDeque<Held>,
    /// The kernel's queue was found empty at this time.
    drained: Option<Instant>,
    join: bool,
    /// How many records have begun to wait, and how many wait no more.
    pushed: u64,
    popped: u64,
}

#[derive(Debug)]
struct Held {
    seen: Seen,
    /// Until when a half waits for its mate.
    until: Option<Instant>,
}

impl Halves {
    /// How long a half waits. The kernel needs a microsecond from one to the other; this is for a
    /// process that was interrupted in between.
    pub(super) const WAIT_MAX: Duration = Duration::from_millis(10);
    /// The most records that wait. When there are more, the first half goes without its mate.
    pub(super) const LEN_MAX: usize = 4096;

    /// Without `join` nothing waits, and every half stays one.
    pub(super) fn new(join: bool) -> Self {
        Self { queue: VecDeque::new(), drained: None, join, pushed: 0, popped: 0 }
    }

    /// Nothing waits.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.popped = self.pushed;
    }

    /// Takes one record, in the order of the kernel's queue. A pair takes the place of its first
    /// half: what lies between was done to the object under its new name.
    pub(super) fn push(&mut self, now: Instant, seen: Seen) {
        let mut until = None;
        if self.join {
            match &seen {
                Seen::To { cookie, to, directory } => {
                    let waits = |held: &&mut Held| matches!(&held.seen, Seen::From { cookie: waiting, .. } if waiting == cookie);
                    if let Some(held) = self.queue.iter_mut().find(waits)
                        && let Seen::From { from, .. } = &held.seen
                    {
                        let (from, to) = (from.clone(), to.clone());
                        held.seen = Seen::Move { from, to, directory: *directory };
                        held.until = None;
                        return;
                    }
                }
                Seen::From { .. } => until = now.checked_add(Self::WAIT_MAX),
                Seen::Entry { .. } | Seen::Itself { .. } | Seen::Move { .. } | Seen::Overflow => {}
            }
        }
        self.queue.push_back(Held { seen, until });
        self.pushed += 1;
    }

    /// The kernel's queue was found empty at `now`, and all that was in it has been pushed.
    pub(super) fn drained(&mut self, now: Instant) {
        self.drained = Some(now);
    }

    /// The next record that need not wait.
    pub(super) fn pop(&mut self) -> Option<Seen> {
        let waits =
            self.poll_timeout().is_some_and(|until| self.drained.is_none_or(|at| at < until));
        if waits && self.queue.len() <= Self::LEN_MAX {
            return None;
        }
        let held = self.queue.pop_front()?;
        self.popped += 1;
        Some(held.seen)
    }

    /// What waits, in its order, and how much of it had been pushed up to a position.
    pub(super) fn waiting(&self, position: u64) -> (Vec<&Seen>, usize) {
        let before = usize::try_from(position.saturating_sub(self.popped)).unwrap_or(usize::MAX);
        (self.queue.iter().map(|held| &held.seen).collect(), before.min(self.queue.len()))
    }

    /// When to look into the kernel's queue again, even if there is nothing new.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.queue.front()?.until
    }

    /// What has been pushed up to now, for [`Halves::has_popped`].
    pub(super) fn position(&self) -> u64 {
        self.pushed
    }

    /// Whether all that had been pushed at that position waits no more.
    pub(super) fn has_popped(&self, position: u64) -> bool {
        self.popped >= position
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
