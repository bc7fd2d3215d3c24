// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Histogram`]: how long things took, in buckets that are fixed. Adding is a search among 71 limits.

use std::time::Duration;

/// Ten limits a decade (the preferred numbers R10), in units of 100 ns times a power of ten.
const MANTISSAS: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
/// From 10 µs on.
const DECADES: usize = 7;
/// Up to 100 s.
const LIMITS_LEN: usize = MANTISSAS.len() * DECADES + 1;

/// The upper limits of the buckets, in nanoseconds and rising. What takes longer than the last is in one more bucket.
const LIMITS_NS: [u64; LIMITS_LEN] = limits();

const fn limits() -> [u64; LIMITS_LEN] {
    let mut limits = [0; LIMITS_LEN];
    let (mut nth, mut unit) = (0, 100);
    while nth < LIMITS_LEN {
        limits[nth] = MANTISSAS[nth % MANTISSAS.len()] * unit;
        nth += 1;
        if nth % MANTISSAS.len() == 0 {
            unit *= 10;
        }
    }
    limits
}

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Histogram {
    buckets: [u64; LIMITS_LEN + 1],
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; LIMITS_LEN + 1], sum_ns: 0 }
    }
}

impl Histogram {
    /// Adds one.
    pub(crate) fn add(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let nth = LIMITS_NS.partition_point(|limit| *limit < ns);
        self.buckets[nth] = self.buckets[nth].saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Adds all of another.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// A duration that `percent` per cent of all do not exceed: the upper limit of a bucket, which is at most 27 %
    /// more than the true one. `None` if there are none. What took longer than the last limit counts as that.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut counted = 0;
        let nth = self.buckets.iter().position(|bucket| {
            counted += bucket;
            counted >= rank
        })?;
        Some(Duration::from_nanos(LIMITS_NS[nth.min(LIMITS_LEN - 1)]))
    }

    /// For metrics: three limits a decade, and how many took no longer.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counted = self.buckets.iter().scan(0, |counted, bucket| {
            *counted += bucket;
            Some(*counted)
        });
        let wanted = |nth: &usize| matches!(nth % MANTISSAS.len(), 0 | 4 | 7);
        let limits = LIMITS_NS.iter().zip(counted).enumerate();
        limits
            .filter(move |(nth, _)| wanted(nth))
            .map(|(_, (limit, count))| (Duration::from_nanos(*limit), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn limits_rise_by_at_most_28_per_cent_from_10_us_to_100_s() {
        assert_eq!(LIMITS_NS.first(), Some(&10_000));
        assert_eq!(LIMITS_NS.last(), Some(&100_000_000_000));
        for pair in LIMITS_NS.windows(2) {
            assert!(pair[0] < pair[1] && pair[1] * 100 <= pair[0] * 128, "{pair:?}");
        }
    }

    #[test]
    fn percentile_is_the_limit_that_so_many_do_not_exceed() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), None);
        for us in [11, 100, 100, 100, 90_000] {
            histogram.add(micros(us));
        }
        assert_eq!(histogram.percentile(1), Some(Duration::from_nanos(12_500)));
        assert_eq!(histogram.percentile(50), Some(micros(100)));
        assert_eq!(histogram.percentile(80), Some(micros(100)));
        assert_eq!(histogram.percentile(99), Some(micros(100_000)));
    }

    #[test]
    fn duration_beyond_the_last_limit_counts_as_that() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::MAX);
        assert_eq!(histogram.count(), 1);
        assert_eq!(histogram.percentile(50), Some(Duration::from_secs(100)));
        assert!(histogram.cumulative().all(|(_, count)| count == 0), "metrics have it in +Inf");
    }

    #[test]
    fn cumulative_counts_include_what_is_at_the_limit_and_rise() {
        let mut histogram = Histogram::default();
        for us in [10, 26, 1000] {
            histogram.add(micros(us));
        }
        let counts: Vec<_> = histogram.cumulative().collect();
        assert_eq!(counts[..3], [(micros(10), 1), (micros(25), 1), (micros(50), 2)]);
        assert_eq!(counts.last(), Some(&(Duration::from_secs(100), 3)));
        assert!(counts.is_sorted());
    }

    #[test]
    fn merged_histograms_have_the_counts_and_the_sum_of_both() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        one.add(micros(10));
        two.add(micros(20));
        one.merge(&two);
        assert_eq!((one.count(), one.sum()), (2, micros(30)));
    }
}
