// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Order statistics of durations.

use std::time::Duration;

/// Durations, sorted.
#[derive(Clone, Debug)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Sorts them.
    pub fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// The duration that `percent` of the samples do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * percent / 100).copied().unwrap_or_default()
    }

    /// The one in the middle.
    pub fn median(&self) -> Duration {
        self.percentile(50)
    }
}

/// How many times `other` fits into `duration`.
pub fn ratio(duration: Duration, other: Duration) -> f64 {
    duration.as_secs_f64() / other.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// How many of `count` come to one of `events`.
pub fn per_event(count: u64, events: usize) -> f64 {
    let [count, events] = [count, u64::try_from(events).unwrap_or(u64::MAX)]
        .map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    f64::from(count) / f64::from(events)
}

/// In microseconds, for people.
pub fn micros(duration: Duration) -> String {
    format!("{:8.1} µs", duration.as_secs_f64() * 1e6)
}
