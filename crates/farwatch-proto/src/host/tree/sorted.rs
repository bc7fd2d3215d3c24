// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Sorted`]: keys in the order of their values, which the caller knows. It is in runs of some hundreds, so that
//! adding or removing one moves few of the others, and a few keys take no more room than they need.

use std::cmp::Ordering;

use super::slots::Key;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Sorted<T> {
    /// None is empty.
    runs: Vec<Vec<Key<T>>>,
}

/// Where in the order a key is or would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Position {
    run: usize,
    place: usize,
}

impl<T> Sorted<T> {
    const RUN_MAX: usize = 512;

    /// Where the value is that `compare` says is the one, or where it would be. `compare` says how a value compares with
    /// that.
    pub(super) fn find(
        &self,
        mut compare: impl FnMut(Key<T>) -> Ordering,
    ) -> Result<Position, Position> {
        let behind = self.runs.partition_point(|run| {
            run.first().is_some_and(|first| compare(*first) != Ordering::Greater)
        });
        let run = behind.saturating_sub(1);
        let keys = self.runs.get(run).map_or(&[][..], Vec::as_slice);
        let position = |place| Position { run, place };
        keys.binary_search_by(|key| compare(*key)).map(position).map_err(position)
    }

    pub(super) fn at(&self, position: Position) -> Key<T> {
        self.runs[position.run][position.place]
    }

    /// Adds a key where it would be.
    pub(super) fn insert(&mut self, position: Position, key: Key<T>) {
        let Position { mut run, mut place } = position;
        if self.runs.is_empty() {
            self.runs = vec![Vec::new()];
        }
        if self.runs[run].len() == Self::RUN_MAX {
            // Names often come in their order: then a run stays full.
            let at = if place == Self::RUN_MAX { place } else { Self::RUN_MAX / 2 };
            let behind = self.runs[run].split_off(at);
            self.runs.insert(run + 1, behind);
            if place > at || at == Self::RUN_MAX {
                (run, place) = (run + 1, place - at);
            }
        }
        let keys = &mut self.runs[run];
        if keys.len() == keys.capacity() {
            let room = Self::RUN_MAX - keys.len();
            keys.reserve_exact((keys.len() / 2).max(4).min(room));
        }
        keys.insert(place, key);
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, position: Position) {
        let Position { run, place } = position;
        self.runs[run].remove(place);
        let len = self.runs[run].len();
        let next = self.runs.get(run + 1).map(Vec::len);
        if len == 0 {
            self.runs.remove(run);
        } else if next.is_some_and(|next| len + next <= Self::RUN_MAX / 2) {
            let next = self.runs.remove(run + 1);
            self.runs[run].extend(next);
        } else if len < self.runs[run].capacity() / 4 {
            self.runs[run].shrink_to(2 * len);
        }
        if self.runs.len() < self.runs.capacity() / 4 {
            self.runs.shrink_to(2 * self.runs.len());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The keys in their order, from a position on.
    pub(super) fn from(&self, position: Position) -> impl Iterator<Item = Key<T>> {
        let Position { run, place } = position;
        self.runs.iter().skip(run).flatten().skip(place).copied()
    }

    /// The keys in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Key<T>> {
        self.runs.iter().flatten().copied()
    }

    /// How much memory is set aside.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let runs = self.runs.iter().map(|run| run.capacity() * size_of::<Key<T>>());
        self.runs.capacity() * size_of::<Vec<Key<T>>>() + runs.sum::<usize>()
    }
}

impl Position {
    /// The one behind.
    pub(super) fn next(self) -> Self {
        Self { place: self.place + 1, ..self }
    }
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { runs: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::slots::Slots;
    use super::*;

    /// Adds and removes values, and compares with a map after each.
    fn check(values: impl Iterator<Item = (u32, bool)>) -> Sorted<u32> {
        let (mut slots, mut sorted, mut map) =
            (Slots::default(), Sorted::default(), BTreeMap::new());
        for (nth, (value, is_added)) in values.enumerate() {
            let found = sorted.find(|key: Key<u32>| slots.get(key).cmp(&value));
            assert_eq!(found.ok().map(|at| sorted.at(at)), map.get(&value).copied());
            match (found, is_added) {
                (Err(at), true) => {
                    let key = slots.insert(value);
                    sorted.insert(at, key);
                    map.insert(value, key);
                }
                (Ok(at), false) => {
                    sorted.remove(at);
                    map.remove(&value);
                }
                (Ok(_), true) | (Err(_), false) => {}
            }
            assert_eq!(sorted.is_empty(), map.is_empty());
            if nth % 64 == 0 {
                assert!(sorted.iter().eq(map.values().copied()));
                let from = sorted.find(|key| slots.get(key).cmp(&value)).unwrap_or_else(|at| at);
                assert!(sorted.from(from).eq(map.range(value..).map(|(_, key)| *key)));
            }
        }
        assert!(sorted.runs.iter().all(|run| (1..=Sorted::<u32>::RUN_MAX).contains(&run.len())));
        sorted
    }

    #[test]
    fn keys_stay_in_order_however_they_come_and_go() {
        let all = 0..3000;
        check(all.clone().map(|value| (value, true)));
        check(all.clone().rev().map(|value| (value, true)));
        // Times a number without common divisor, this is a permutation.
        let mixed = |value: u32| value * 1237 % 3001;
        check(all.clone().map(|value| (mixed(value), true)));
        let come = all.clone().map(|value| (value, true));
        check(come.chain(all.map(|value| (mixed(value), value % 7 == 0))));
    }

    #[test]
    fn keys_that_are_gone_have_no_memory() {
        let all = 0..10_000;
        let come = all.clone().map(|value| (value, true));
        let full = check(come.clone()).bytes();
        assert!(full < 10_000 * 5, "{full} bytes for 10000 keys");
        let few = check(come.chain(all.map(|value| (value, value % 100 == 0)))).bytes();
        assert!(few < full / 10, "{few} bytes for 100 keys");
    }
}
