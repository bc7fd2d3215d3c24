// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Meter`]: what a share has done, in counts, rates and times. `share` counts, `monitor` reads.
//!
//! It does no I/O and reads no clock. Counting is an addition or two, under the share's lock, which whoever counts
//! holds anyway. Paths are made only while somebody asks for them (`journal`, `busiest`).

mod busiest;
mod histogram;
mod journal;
mod minute;

use std::time::{Duration, Instant};

pub(crate) use busiest::{Busiest, Ranking};
pub(crate) use histogram::Histogram;
pub(crate) use journal::{Journal, Kind, Part, Record};
use minute::{Count, Minute};

/// How long somebody is taken to want the busiest paths after having asked for them.
const ASKED_EVERY_MAX: Duration = Duration::from_secs(5);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    minute: Minute,
    totals: Totals,
    latency: Histogram,
    pub(crate) journal: Journal,
    busiest: Option<(Instant, Busiest)>,
}

/// Counts since the share began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Totals {
    /// Changes that the host reported, without those of the guest's own calls.
    pub(crate) observed: u64,
    /// Events that were sent to the guest.
    pub(crate) sent: u64,
    /// Those among them that a comparison with the host has found.
    pub(crate) resynced: u64,
    /// Events that an agent has replayed to the end.
    pub(crate) replayed: u64,
    /// How often the kernel's queue was full.
    pub(crate) overflows: u64,
}

/// What a [`Meter`] says at one moment.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Reading {
    pub(crate) totals: Totals,
    /// Means of the last ten whole seconds.
    pub(crate) observed_per_second: f64,
    pub(crate) sent_per_second: f64,
    /// From the read of a report to the end of what can be measured: [`Meter::took`].
    pub(crate) latency_of_minute: Histogram,
    /// The same since the share began.
    pub(crate) latency: Histogram,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            began: now,
            minute: Minute::default(),
            totals: Totals::default(),
            latency: Histogram::default(),
            journal: Journal::default(),
            busiest: None,
        }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }

    /// The host reported a change.
    pub(crate) fn observed(&mut self, now: Instant) {
        self.totals.observed += 1;
        self.minute.count(self.second(now), Count::Observed, 1);
    }

    /// The kernel's queue was full.
    pub(crate) fn overflowed(&mut self) {
        self.totals.overflows += 1;
    }

    /// An event was sent, which a report led to or a comparison.
    pub(crate) fn sent(&mut self, now: Instant, is_reported: bool) {
        self.totals.sent += 1;
        self.totals.resynced += u64::from(!is_reported);
        self.minute.count(self.second(now), Count::Sent, 1);
    }

    /// An event was replayed to the end.
    pub(crate) fn replayed(&mut self) {
        self.totals.replayed += 1;
    }

    /// How long an event took from the read of its report to the last request of its replay; where the guest's kernel
    /// raises the event itself, and says nothing of it, to when it was sent.
    pub(crate) fn took(&mut self, now: Instant, observed: Instant) {
        let took = now.saturating_duration_since(observed);
        self.latency.add(took);
        self.minute.latency_of(self.second(now)).add(took);
    }

    /// Whether paths are to be made for what happens now.
    pub(crate) fn wants_paths(&self, now: Instant) -> bool {
        self.journal.is_read(now) || self.busiest_wanted(now)
    }

    fn busiest_wanted(&self, now: Instant) -> bool {
        let since = self.busiest.as_ref().map(|(asked, _)| now.saturating_duration_since(*asked));
        since.is_some_and(|since| since < ASKED_EVERY_MAX)
    }

    /// Records what happened.
    pub(crate) fn record(&mut self, now: Instant, record: Record) {
        if self.busiest_wanted(now)
            && let Some((_, busiest)) = &mut self.busiest
            && record.kind == Kind::Reported
        {
            busiest.count(now, record.to.as_ref().unwrap_or(&record.path));
        }
        if self.journal.is_read(now) {
            self.journal.add(record);
        }
    }

    /// The paths with the most reports. They are counted from the first call on.
    pub(crate) fn ranking(&mut self, now: Instant, len: usize) -> Ranking {
        if !self.busiest_wanted(now) {
            self.busiest = None;
        }
        let (asked, busiest) = self.busiest.get_or_insert_with(|| (now, Busiest::new(now)));
        *asked = now;
        busiest.ranking(now, len)
    }

    /// What it says now.
    pub(crate) fn read(&self, now: Instant) -> Reading {
        let second = self.second(now);
        Reading {
            totals: self.totals,
            observed_per_second: self.minute.per_second(second, Count::Observed),
            sent_per_second: self.minute.per_second(second, Count::Sent),
            latency_of_minute: self.minute.latency(second),
            latency: self.latency.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, path: &str) -> Record {
        let (events, path) = ("CREATE".to_owned(), path.to_owned());
        Record { time: 0.0, kind, events, path, to: None, latency_us: None }
    }

    #[test]
    fn latency_of_the_minute_forgets_older_values_than_the_total() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.took(start + Duration::from_millis(3), start);
        let reading = meter.read(start + Duration::from_secs(61));
        assert_eq!((reading.latency_of_minute.count(), reading.latency.count()), (0, 1));
    }

    #[test]
    fn paths_are_wanted_only_for_a_while_after_each_request() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        assert!(!meter.wants_paths(now));
        meter.ranking(now, 1);
        assert!(meter.wants_paths(now));
        assert!(!meter.wants_paths(now + ASKED_EVERY_MAX));
    }

    #[test]
    fn reports_are_ranked_and_events_that_follow_from_them_are_not() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        meter.ranking(now, 1);
        meter.record(now, record(Kind::Reported, "a"));
        meter.record(now, record(Kind::Replayed, "a"));
        assert_eq!(meter.ranking(now, 9).paths, [("a".to_owned(), 1)]);
    }

    #[test]
    fn event_without_a_report_counts_as_resynced() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        meter.sent(now, true);
        meter.sent(now, false);
        let Totals { sent, resynced, .. } = meter.read(now).totals;
        assert_eq!((sent, resynced), (2, 1));
    }
}
