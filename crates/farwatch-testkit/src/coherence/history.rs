// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`History`]: what was changed when, and what a read says about that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is changed. Each shows the number of its last change in another way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Object {
    /// A file whose size is the number.
    Size(usize),
    /// A file that contains the number.
    Content(usize),
    /// A file whose name has the number: it is renamed.
    Name,
    /// The same: the file is removed and a new one made.
    Made,
}

/// Files of a kind.
pub(super) const FILES: usize = 2;

impl Object {
    pub(super) const ALL: [Self; 2 * FILES + 2] =
        [Self::Size(0), Self::Size(1), Self::Content(0), Self::Content(1), Self::Name, Self::Made];

    fn place(self) -> usize {
        match self {
            Self::Size(nth) => nth,
            Self::Content(nth) => FILES + nth,
            Self::Name => 2 * FILES,
            Self::Made => 2 * FILES + 1,
        }
    }
}

/// One change that has been made.
#[derive(Clone, Copy, Debug)]
struct Change {
    number: u64,
    /// When the call that made it visible had returned.
    done: Instant,
}

/// What is to be said of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// How long the next change had been made when the read began.
    pub old: Duration,
    /// The reader had seen the effects of a change that came after the next one.
    pub before_cause: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct History {
    made: [Mutex<Vec<Change>>; Object::ALL.len()],
    /// The number of the change that is being made, or was last.
    begun: [AtomicU64; Object::ALL.len()],
}

impl History {
    fn of(&self, object: Object) -> MutexGuard<'_, Vec<Change>> {
        self.made[object.place()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Change `number` of an object is about to be made.
    pub(super) fn begin(&self, object: Object, number: u64) {
        self.begun[object.place()].store(number, Ordering::SeqCst);
    }

    /// Whether change `number` of an object was the last, and none is being made.
    pub(super) fn is_at_rest_after(&self, object: Object, number: u64) -> bool {
        self.begun[object.place()].load(Ordering::SeqCst) == number
    }

    /// Change `number` of an object has been made.
    pub(super) fn changed(&self, object: Object, number: u64) {
        let mut changes = self.of(object);
        changes.push(Change { number, done: Instant::now() });
    }

    /// The number of the last change of an object.
    pub(super) fn last(&self, object: Object) -> u64 {
        self.of(object).last().map_or(0, |change| change.number)
    }

    /// The number of the change of an object before that one.
    pub(super) fn before(&self, object: Object, number: u64) -> Option<u64> {
        let changes = self.of(object);
        let at = changes.partition_point(|change| change.number < number);
        changes.get(at.checked_sub(1)?).map(|change| change.number)
    }

    /// A read of an object that began at `began` has shown change `number`, to a reader who had seen the effects of
    /// change `seen`.
    pub(super) fn judge(&self, object: Object, number: u64, began: Instant, seen: u64) -> Verdict {
        let changes = self.of(object);
        let at = changes.partition_point(|change| change.number <= number);
        let Some(next) = changes.get(at) else { return Verdict::default() };
        Verdict {
            old: began.saturating_duration_since(next.done),
            before_cause: next.number <= seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_as_old_as_the_next_change_and_before_its_cause_if_a_later_effect_was_seen() {
        let history = History::default();
        history.changed(Object::Size(0), 1);
        history.changed(Object::Name, 2);
        history.changed(Object::Size(0), 3);
        let later = Instant::now() + Duration::from_secs(1);
        let old = history.judge(Object::Size(0), 1, later, 2);
        assert!(old.old >= Duration::from_millis(900) && !old.before_cause);
        assert!(history.judge(Object::Size(0), 1, later, 3).before_cause);
        assert_eq!(history.judge(Object::Size(0), 3, later, 9), Verdict::default());
        let early = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(history.judge(Object::Name, 0, early, 0), Verdict::default());
    }
}
