// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Slots`]: values of one size, each under a small number. They are kept in pieces, so none is moved when there are
//! more, and a piece is given back when the last of its values is gone.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;

/// The number of a value that is in [`Slots`]. Another may get it when the value is taken out.
pub(super) struct Key<T>(NonZeroU32, PhantomData<fn() -> T>);

/// See the module's documentation.
pub(super) struct Slots<T> {
    pieces: Vec<Piece<T>>,
    /// The pieces that are not full.
    roomy: BTreeSet<usize>,
    len: usize,
}

struct Piece<T> {
    slots: Vec<Slot<T>>,
    used: usize,
    /// The first that is free.
    free: u16,
}

enum Slot<T> {
    /// And the next that is free.
    Free(u16),
    Used(T),
}

/// How many values are in a piece.
const PIECE_LEN: usize = 1024;
/// No slot of a piece is free that was used before.
const NO_SLOT: u16 = u16::MAX;

impl<T> Slots<T> {
    /// Adds a value.
    pub(super) fn insert(&mut self, value: T) -> Key<T> {
        let at = self.roomy.first().copied().unwrap_or_else(|| {
            self.roomy.insert(self.pieces.len());
            self.pieces.push(Piece::default());
            self.pieces.len() - 1
        });
        let piece = &mut self.pieces[at];
        let place = piece.insert(value);
        if piece.used == PIECE_LEN {
            self.roomy.remove(&at);
        }
        self.len += 1;
        Key::new(at * PIECE_LEN + place)
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, key: Key<T>) -> T {
        let (at, place) = key.place();
        let piece = &mut self.pieces[at];
        let value = piece.remove(place);
        if piece.used == 0 {
            *piece = Piece::default();
        }
        self.roomy.insert(at);
        self.len -= 1;
        value
    }

    pub(super) fn get(&self, key: Key<T>) -> &T {
        let (at, place) = key.place();
        match &self.pieces[at].slots[place] {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("a key is dropped with its value"),
        }
    }

    pub(super) fn get_mut(&mut self, key: Key<T>) -> &mut T {
        let (at, place) = key.place();
        match &mut self.pieces[at].slots[place] {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("a key is dropped with its value"),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// In the order of the keys, which is none of the values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.pieces.iter().enumerate().flat_map(|(at, piece)| {
            piece.slots.iter().enumerate().filter_map(move |(place, slot)| match slot {
                Slot::Used(value) => Some((Key::new(at * PIECE_LEN + place), value)),
                Slot::Free(_) => None,
            })
        })
    }

    /// How much memory is set aside.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let pieces = self.pieces.iter().map(|piece| piece.slots.capacity() * size_of::<Slot<T>>());
        self.pieces.capacity() * size_of::<Piece<T>>() + pieces.sum::<usize>()
    }

    /// How much a value takes.
    pub(super) const SLOT_LEN: usize = size_of::<Slot<T>>();
}

impl<T> Piece<T> {
    fn insert(&mut self, value: T) -> usize {
        self.used += 1;
        if self.free == NO_SLOT {
            if self.slots.is_empty() {
                self.slots.reserve_exact(PIECE_LEN);
            }
            self.slots.push(Slot::Used(value));
            return self.slots.len() - 1;
        }
        let place = usize::from(self.free);
        match std::mem::replace(&mut self.slots[place], Slot::Used(value)) {
            Slot::Free(next) => self.free = next,
            Slot::Used(_) => unreachable!("a free slot is free"),
        }
        place
    }

    fn remove(&mut self, place: usize) -> T {
        let free = Slot::Free(self.free);
        match std::mem::replace(&mut self.slots[place], free) {
            Slot::Used(value) => {
                self.used -= 1;
                self.free = u16::try_from(place).expect("a piece has fewer slots than 2^16");
                value
            }
            Slot::Free(_) => unreachable!("a key is dropped with its value"),
        }
    }
}

impl<T> Key<T> {
    /// The host's memory ends long before the numbers do: with its slots 2^32 values take some hundred GiB.
    fn new(at: usize) -> Self {
        let number = u32::try_from(at + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("fewer values than 2^32"), PhantomData)
    }

    fn place(self) -> (usize, usize) {
        let at = usize::try_from(self.0.get() - 1).expect("32 bits are no more than a pointer has");
        (at / PIECE_LEN, at % PIECE_LEN)
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), roomy: BTreeSet::new(), len: 0 }
    }
}

impl<T> Default for Piece<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), used: 0, free: NO_SLOT }
    }
}

impl<T: fmt::Debug> fmt::Debug for Slots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

// What could be derived would ask the same of `T`.

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Key<T> {}

impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_slot_is_used_again_before_another_piece_is_begun() {
        let mut slots = Slots::default();
        let keys: Vec<_> = (0..2 * PIECE_LEN).map(|value| slots.insert(value)).collect();
        assert_eq!(slots.len(), 2 * PIECE_LEN);
        for at in [5, PIECE_LEN + 5, 6] {
            assert_eq!(slots.remove(keys[at]), at);
        }
        let mut again: Vec<_> = (0..3).map(|_| slots.insert(0)).collect();
        again.sort();
        assert_eq!(again, [keys[5], keys[6], keys[PIECE_LEN + 5]]);
        assert_eq!(slots.pieces.len(), 2);
        assert_eq!(*slots.get(keys[7]), 7);
    }

    #[test]
    fn piece_without_values_has_no_memory() {
        let mut slots = Slots::default();
        let keys: Vec<_> = (0..=PIECE_LEN).map(|value| slots.insert(value)).collect();
        for key in &keys[..PIECE_LEN] {
            slots.remove(*key);
        }
        assert_eq!(slots.pieces[0].slots.capacity(), 0);
        let left: Vec<_> = slots.iter().collect();
        assert_eq!(left, [(keys[PIECE_LEN], &PIECE_LEN)]);
        assert_eq!(slots.insert(1), keys[0]);
    }
}
