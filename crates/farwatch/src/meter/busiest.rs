// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Busiest`]: which paths have the most events, while somebody wants to know. It costs a look-up in a map for each
//! event, and the room of 4,096 paths twice; nothing while nobody asks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The most paths that are counted at a time. Events of others are counted together.
const PATHS_MAX: usize = 4096;
/// Counts are of the last such period and the present one.
const PERIOD: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Busiest {
    began: Instant,
    present: Period,
    last: Period,
}

#[derive(Debug, Default)]
struct Period {
    counts: BTreeMap<String, u64>,
    others: u64,
}

/// The paths with the most events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ranking {
    /// Path and events, the most first.
    pub(crate) paths: Vec<(String, u64)>,
    /// The directories that they are in, likewise.
    pub(crate) directories: Vec<(String, u64)>,
    /// Events of paths that were too many to count.
    pub(crate) others: u64,
}

impl Busiest {
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, present: Period::default(), last: Period::default() }
    }

    /// Counts an event of this path.
    pub(crate) fn count(&mut self, now: Instant, path: &str) {
        self.turn(now);
        let Period { counts, others } = &mut self.present;
        if let Some(count) = counts.get_mut(path) {
            *count += 1;
        } else if counts.len() < PATHS_MAX {
            counts.insert(path.to_owned(), 1);
        } else {
            *others += 1;
        }
    }

    /// The `len` paths with the most events in the last 10 to 20 seconds. Equal ones are in the order of their names.
    pub(crate) fn ranking(&mut self, now: Instant, len: usize) -> Ranking {
        self.turn(now);
        let mut sums = self.present.counts.clone();
        for (path, count) in &self.last.counts {
            *sums.entry(path.clone()).or_default() += count;
        }
        let mut directories: BTreeMap<String, u64> = BTreeMap::new();
        for (path, count) in &sums {
            let dir = path.rsplit_once('/').map_or(".", |(dir, _)| dir);
            match directories.get_mut(dir) {
                Some(sum) => *sum += count,
                None => drop(directories.insert(dir.to_owned(), *count)),
            }
        }
        Ranking {
            paths: ranked(sums, len),
            directories: ranked(directories, len),
            others: self.present.others + self.last.others,
        }
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age >= PERIOD {
            let ended = std::mem::take(&mut self.present);
            self.last = if age < PERIOD * 2 { ended } else { Period::default() };
            self.began = now;
        }
    }
}

fn ranked(counts: BTreeMap<String, u64>, len: usize) -> Vec<(String, u64)> {
    let mut paths: Vec<_> = counts.into_iter().collect();
    paths.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
    paths.truncate(len);
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn paths_are_ranked_by_their_events_and_then_by_name() {
        let now = Instant::now();
        let mut busiest = Busiest::new(now);
        for path in ["b", "c", "a", "c"] {
            busiest.count(now, path);
        }
        let expected = [("c", 2), ("a", 1)].map(|(path, count)| (path.to_owned(), count));
        assert_eq!(busiest.ranking(now, 2).paths, expected);
    }

    #[test]
    fn directory_has_the_events_of_its_direct_entries() {
        let now = Instant::now();
        let mut busiest = Busiest::new(now);
        for path in ["a/b", "a/c", "a/d/e", "f"] {
            busiest.count(now, path);
        }
        let expected = [("a", 2), (".", 1), ("a/d", 1)];
        assert_eq!(
            busiest.ranking(now, 9).directories,
            expected.map(|(path, count)| (path.to_owned(), count))
        );
    }

    #[test]
    fn events_are_forgotten_after_two_periods() {
        let now = Instant::now();
        let mut busiest = Busiest::new(now);
        busiest.count(now, "a");
        busiest.count(after(now, 11), "b");
        assert_eq!(busiest.ranking(after(now, 12), 9).paths.len(), 2);
        assert_eq!(busiest.ranking(after(now, 22), 9).paths, [("b".to_owned(), 1)]);
        assert_eq!(busiest.ranking(after(now, 99), 9), Ranking::default());
    }

    #[test]
    fn paths_beyond_the_limit_are_counted_together() {
        let now = Instant::now();
        let mut busiest = Busiest::new(now);
        for nth in 0..PATHS_MAX + 2 {
            busiest.count(now, &nth.to_string());
        }
        busiest.count(now, "0");
        let ranking = busiest.ranking(now, 1);
        assert_eq!((ranking.paths, ranking.others), (vec![("0".to_owned(), 2)], 2));
    }
}
