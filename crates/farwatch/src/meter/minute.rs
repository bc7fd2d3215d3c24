// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Minute`]: counts of the last 60 seconds, each second for itself. A slot is emptied when it is next written, so an
//! idle share does nothing, and what a reader finds too old it leaves out.

use super::histogram::Histogram;

/// How many seconds are kept.
const SECONDS: u64 = 60;
/// Rates are means over so many whole seconds.
const RATE_SECONDS: u64 = 10;

/// See the module's documentation. Times are whole seconds since some beginning.
#[derive(Debug)]
pub(super) struct Minute {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    second: u64,
    counts: [u32; Count::ALL],
    latency: Histogram,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Count {
    /// Changes that the host reported.
    Observed,
    /// Events that were sent.
    Sent,
}

impl Count {
    const ALL: usize = 2;
}

impl Default for Minute {
    fn default() -> Self {
        let len = usize::try_from(SECONDS).unwrap_or_default();
        Self { slots: vec![Slot::default(); len] }
    }
}

impl Minute {
    fn slot(&mut self, second: u64) -> &mut Slot {
        let nth = usize::try_from(second % SECONDS).unwrap_or_default();
        let slot = &mut self.slots[nth];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot
    }

    /// Counts `by` more.
    pub(super) fn count(&mut self, second: u64, count: Count, by: u32) {
        let counts = &mut self.slot(second).counts;
        counts[count as usize] = counts[count as usize].saturating_add(by);
    }

    /// The latencies of a second, to add one.
    pub(super) fn latency_of(&mut self, second: u64) -> &mut Histogram {
        &mut self.slot(second).latency
    }

    /// The mean per second over the last whole seconds, 10 at most.
    pub(super) fn per_second(&self, second: u64, count: Count) -> f64 {
        let first = second.saturating_sub(RATE_SECONDS);
        let seconds = u32::try_from((second - first).max(1)).unwrap_or(u32::MAX);
        let counted = self.slots.iter().filter(|slot| (first..second).contains(&slot.second));
        let sum: u64 = counted.map(|slot| u64::from(slot.counts[count as usize])).sum();
        f64::from(u32::try_from(sum).unwrap_or(u32::MAX)) / f64::from(seconds)
    }

    /// The latencies of the last 60 seconds.
    pub(super) fn latency(&self, second: u64) -> Histogram {
        let oldest = (second + 1).saturating_sub(SECONDS);
        let mut all = Histogram::default();
        for slot in self.slots.iter().filter(|slot| (oldest..=second).contains(&slot.second)) {
            all.merge(&slot.latency);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rate_is(minute: &Minute, second: u64, expected: f64) -> bool {
        (minute.per_second(second, Count::Sent) - expected).abs() < 1e-9
    }

    #[test]
    fn rate_is_the_mean_of_ten_whole_seconds_without_the_present_one() {
        let mut minute = Minute::default();
        for second in 100..=110 {
            minute.count(second, Count::Sent, 5);
        }
        minute.count(105, Count::Observed, 1000);
        assert!(rate_is(&minute, 110, 5.0));
        assert!(rate_is(&minute, 115, 3.0));
        assert!(rate_is(&minute, 121, 0.0));
    }

    #[test]
    fn rate_of_a_share_younger_than_ten_seconds_is_over_its_age() {
        let mut minute = Minute::default();
        minute.count(0, Count::Sent, 8);
        assert!(rate_is(&minute, 0, 0.0), "no whole second has passed");
        assert!(rate_is(&minute, 2, 4.0));
    }

    #[test]
    fn slot_is_used_again_after_a_minute_without_its_old_counts() {
        let mut minute = Minute::default();
        minute.latency_of(7).add(Duration::from_millis(1));
        minute.count(7, Count::Sent, 1);
        assert_eq!(minute.latency(66).count(), 1);
        assert_eq!(minute.latency(67).count(), 0, "a minute later");
        minute.count(67, Count::Sent, 30);
        assert!(rate_is(&minute, 68, 3.0));
        assert_eq!(minute.latency(67).count(), 0);
    }
}
