// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Index`]: finds the keys of values by a hash of them. It keeps no copy of what it finds them by.
//!
//! It is in many small tables, each of which grows for itself: no look-up waits until a million keys have been put
//! elsewhere. The hash has no secret. What is hashed is given out by the file server (nodeids) and by the host's file
//! system (file handles), one after the other, and no guest can choose it.

use std::fmt;

use hashbrown::HashTable;

use super::slots::Key;

/// See the module's documentation.
pub(super) struct Index<T> {
    tables: Vec<HashTable<Key<T>>>,
}

impl<T> Index<T> {
    const TABLES: usize = 256;
    /// A table as small as this is not made smaller.
    const CAPACITY_MIN: usize = 8;

    /// The key of a value with that hash.
    pub(super) fn find(&self, hash: Hash, is: impl FnMut(&Key<T>) -> bool) -> Option<Key<T>> {
        self.tables.get(hash.table())?.find(hash.0, is).copied()
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, hash: Hash, key: Key<T>, hash_of: impl Fn(Key<T>) -> Hash) {
        if self.tables.is_empty() {
            self.tables = (0..Self::TABLES).map(|_| HashTable::new()).collect();
        }
        self.tables[hash.table()].insert_unique(hash.0, key, |key| hash_of(*key).0);
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, hash: Hash, key: Key<T>, hash_of: impl Fn(Key<T>) -> Hash) {
        let Some(table) = self.tables.get_mut(hash.table()) else { return };
        if let Ok(entry) = table.find_entry(hash.0, |other| *other == key) {
            entry.remove();
        }
        if table.capacity() > Self::CAPACITY_MIN && table.len() < table.capacity() / 4 {
            table.shrink_to(2 * table.len(), |key| hash_of(*key).0);
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }

    /// How much memory is set aside.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let tables = self.tables.iter().map(HashTable::allocation_size);
        self.tables.capacity() * size_of::<HashTable<Key<T>>>() + tables.sum::<usize>()
    }
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { tables: Vec::new() }
    }
}

impl<T> fmt::Debug for Index<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.len())
    }
}

/// What a value is looked for by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hash(u64);

impl Hash {
    /// Of nothing.
    pub(super) const EMPTY: Self = Self(0);

    /// Of this and a further number. The steps are those of `splitmix64`.
    pub(super) const fn and(self, number: u64) -> Self {
        let mixed = self.0.wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(mixed ^ (mixed >> 31))
    }

    /// A table takes the lowest bits for the place and the highest seven for its tag.
    fn table(self) -> usize {
        usize::from(self.0.to_le_bytes()[6])
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::Slots;
    use super::*;

    #[test]
    fn keys_are_found_until_removed_and_memory_is_given_back() {
        let (mut slots, mut index) = (Slots::default(), Index::default());
        let hash = |value: u64| Hash::EMPTY.and(value);
        for value in 0..50_000 {
            let key = slots.insert(value);
            index.insert(hash(value), key, |key| hash(*slots.get(key)));
        }
        let most = index.bytes();
        assert!(most < 50_000 * 12, "{most} bytes for 50000 keys");
        for value in 0..50_000 {
            let key = index.find(hash(value), |key| *slots.get(*key) == value).unwrap();
            index.remove(hash(value), key, |key| hash(*slots.get(key)));
            assert_eq!(index.find(hash(value), |key| *slots.get(*key) == value), None);
        }
        assert_eq!(index.len(), 0);
        assert!(index.bytes() < most / 10, "{} bytes for none", index.bytes());
    }

    #[test]
    fn numbers_in_sequence_go_to_all_tables_alike() {
        let mut tables = [0; Index::<u64>::TABLES];
        (0..25_600).for_each(|value| tables[Hash::EMPTY.and(value).table()] += 1);
        assert!(tables.iter().all(|len| (50..150).contains(len)), "{tables:?}");
    }
}
