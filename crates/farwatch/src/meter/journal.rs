// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Journal`]: what the host reported and what was delivered, one record each, while somebody reads it. A ring of a
//! fixed size: a reader that is too slow misses records and is told how many.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The most records that are kept.
const LEN_MAX: usize = 8192;
/// The most records that one reply has.
pub(crate) const PART_MAX: usize = 512;
/// Records are written until so long after the last request for them.
const READ_EVERY_MAX: Duration = Duration::from_secs(5);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The number of the next record.
    next: u64,
    records: VecDeque<Record>,
    /// When somebody has asked last.
    asked: Option<Instant>,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// When, in seconds since 1970.
    pub(crate) time: f64,
    /// What it is about.
    pub(crate) kind: Kind,
    /// The events, by their names of `inotify(7)` without `IN_`.
    pub(crate) events: String,
    /// Of which entry, relative to the shared directory; of a rename the old one.
    pub(crate) path: String,
    /// The new entry of a rename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    /// From when the report was read, in microseconds. Not of what a rescan has found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latency_us: Option<u64>,
}

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The host reported a change.
    Reported,
    /// The event was sent to the guest.
    Sent,
    /// The agent has made its last request for the event: it was raised.
    Replayed,
    /// The kernel's queue was full: changes went unreported.
    Overflow,
}

/// Some records, in order.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The number of the record after the last of these: what to ask for next.
    pub(crate) next: u64,
    /// Records that were asked for and are no longer there.
    pub(crate) missed: u64,
    /// The records.
    pub(crate) records: Vec<Record>,
}

impl Journal {
    /// Whether anybody reads: if not, what would be recorded need not be made.
    pub(crate) fn is_read(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < READ_EVERY_MAX)
    }

    /// Adds a record. At the limit the oldest goes.
    pub(crate) fn add(&mut self, record: Record) {
        if self.records.len() >= LEN_MAX {
            self.records.pop_front();
        }
        self.records.push_back(record);
        self.next += 1;
    }

    /// The records from number `from` on, some hundreds at most. Without a number, none: what is recorded from now on.
    pub(crate) fn read(&mut self, now: Instant, from: Option<u64>) -> Part {
        if !self.is_read(now) {
            // What was recorded for an earlier reader has a gap behind it.
            self.records.clear();
        }
        self.asked = Some(now);
        let Some(from) = from else { return Part { next: self.next, ..Part::default() } };
        let len = u64::try_from(self.records.len()).unwrap_or_default();
        let first = self.next - len;
        let missed = first.saturating_sub(from);
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let records: Vec<_> = self.records.iter().skip(skipped).take(PART_MAX).cloned().collect();
        let given = u64::try_from(records.len()).unwrap_or_default();
        Part { next: (from.clamp(first, self.next)) + given, missed, records }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &str) -> Record {
        Record {
            time: 0.0,
            kind: Kind::Reported,
            events: "CREATE".to_owned(),
            path: path.to_owned(),
            to: None,
            latency_us: None,
        }
    }

    fn paths(part: &Part) -> Vec<&str> {
        part.records.iter().map(|record| &*record.path).collect()
    }

    #[test]
    fn nothing_is_recorded_before_the_first_question_and_long_after_the_last() {
        let now = Instant::now();
        let mut journal = Journal::default();
        assert!(!journal.is_read(now));
        journal.read(now, None);
        assert!(journal.is_read(now));
        assert!(!journal.is_read(now + READ_EVERY_MAX));
    }

    #[test]
    fn reader_receives_each_record_once_from_its_first_request_on() {
        let now = Instant::now();
        let mut journal = Journal::default();
        journal.add(record("before"));
        let part = journal.read(now, None);
        assert_eq!(paths(&part), [""; 0]);
        journal.add(record("a"));
        journal.add(record("b"));
        let part = journal.read(now, Some(part.next));
        assert_eq!((paths(&part), part.missed), (vec!["a", "b"], 0));
        journal.add(record("c"));
        assert_eq!(paths(&journal.read(now, Some(part.next))), ["c"]);
    }

    #[test]
    fn slow_reader_learns_how_many_records_it_missed() {
        let now = Instant::now();
        let mut journal = Journal::default();
        let part = journal.read(now, None);
        for nth in 0..LEN_MAX + 3 {
            journal.add(record(&nth.to_string()));
        }
        let part = journal.read(now, Some(part.next));
        assert_eq!((part.missed, part.records.len()), (3, PART_MAX));
        assert_eq!(part.records[0].path, "3");
        assert_eq!(journal.read(now, Some(part.next)).records[0].path, (PART_MAX + 3).to_string());
    }

    #[test]
    fn number_that_was_never_given_out_gives_nothing() {
        let now = Instant::now();
        let mut journal = Journal::default();
        journal.read(now, None);
        journal.add(record("a"));
        let part = journal.read(now, Some(u64::MAX));
        assert_eq!(part, Part { next: 1, missed: 0, records: Vec::new() });
    }

    #[test]
    fn gap_between_two_readers_is_not_shown_as_if_nothing_had_happened() {
        let now = Instant::now();
        let mut journal = Journal::default();
        let part = journal.read(now, None);
        journal.add(record("a"));
        let part = journal.read(now + READ_EVERY_MAX, Some(part.next));
        assert_eq!((part.missed, paths(&part)), (1, vec![]));
    }
}
