// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Fids`]: file handles of many objects in little room. Those of one file system begin alike: what they have in
//! common is kept once.

use std::collections::BTreeMap;

use super::index::Hash;
use crate::Fid;

/// A [`Fid`] as it is kept, or none.
#[derive(Debug)]
pub(super) struct Packed {
    class: u16,
    /// The end of the handle.
    tail: [u8; Self::TAIL_MAX],
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Fids {
    classes: Vec<Class>,
    numbers: BTreeMap<Class, u16>,
    /// Those that are of no class, since there are so many.
    apart: BTreeMap<u64, Fid>,
    next: u64,
}

/// What handles have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Class {
    /// Of which the handle is the beginning only.
    head: Fid,
    tail_len: usize,
}

impl Packed {
    /// Enough for the handles of the common file systems; of those of overlayfs this much differs.
    const TAIL_MAX: usize = 20;
    const NO_CLASS: u16 = u16::MAX;
    const APART: u16 = u16::MAX - 1;

    pub(super) const NONE: Self = Self { class: Self::NO_CLASS, tail: [0; Self::TAIL_MAX] };

    pub(super) fn is_none(&self) -> bool {
        self.class == Self::NO_CLASS
    }

    /// The number of one that is of no class.
    fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.tail;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl Fids {
    /// The most classes: file systems and subvolumes. What is of another is kept whole.
    const CLASSES_MAX: usize = 1 << 12;

    pub(super) fn pack(&mut self, fid: &Fid) -> Packed {
        let handle = fid.handle();
        let (head, end) = handle.split_at(handle.len().saturating_sub(Packed::TAIL_MAX));
        let head = Fid::new(fid.fsid(), fid.handle_type(), head).expect("a part of a handle");
        let class = Class { head, tail_len: end.len() };
        let mut tail = [0; Packed::TAIL_MAX];
        let number = match self.numbers.get(&class) {
            Some(number) => *number,
            None if self.classes.len() < Self::CLASSES_MAX => {
                let number = u16::try_from(self.classes.len()).expect("at most CLASSES_MAX");
                self.classes.push(class.clone());
                self.numbers.insert(class, number);
                number
            }
            None => {
                self.next += 1;
                self.apart.insert(self.next, fid.clone());
                tail[..8].copy_from_slice(&self.next.to_le_bytes());
                return Packed { class: Packed::APART, tail };
            }
        };
        tail[..end.len()].copy_from_slice(end);
        Packed { class: number, tail }
    }

    pub(super) fn unpack(&self, packed: &Packed) -> Option<Fid> {
        match packed.class {
            Packed::NO_CLASS => None,
            Packed::APART => self.apart.get(&packed.number()).cloned(),
            class => {
                let Class { head, tail_len } = self.classes.get(usize::from(class))?;
                let tail = &packed.tail[..*tail_len];
                if head.handle().is_empty() {
                    return Fid::new(head.fsid(), head.handle_type(), tail).ok();
                }
                let handle = [head.handle(), tail].concat();
                Fid::new(head.fsid(), head.handle_type(), &handle).ok()
            }
        }
    }

    /// It will not be unpacked again.
    pub(super) fn forget(&mut self, packed: &Packed) {
        if packed.class == Packed::APART {
            self.apart.remove(&packed.number());
        }
    }
}

/// Of a file handle.
pub(super) fn hash(fid: &Fid) -> Hash {
    let [low, high] = fid.fsid().map(u64::from);
    let kind = u64::from(fid.handle_type().unsigned_abs());
    let hash = Hash::EMPTY.and(low | (high << 32)).and(kind);
    fid.handle().chunks(8).fold(hash, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.and(u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fid(fsid: u32, handle: &[u8]) -> Fid {
        Fid::new([fsid, 1], 0x4d, handle).unwrap()
    }

    #[test]
    fn handle_of_any_length_is_unpacked_as_it_was_packed() {
        let mut fids = Fids::default();
        let handle: Vec<u8> = (0..128).collect();
        let all: Vec<Fid> = (0..=128).map(|len| fid(1, &handle[..len])).collect();
        let packed: Vec<Packed> = all.iter().map(|fid| fids.pack(fid)).collect();
        for (fid, packed) in all.iter().zip(&packed) {
            assert_eq!(fids.unpack(packed).as_ref(), Some(fid));
        }
        assert_eq!(fids.unpack(&Packed::NONE), None);
    }

    #[test]
    fn handles_that_begin_alike_are_of_one_class() {
        let mut fids = Fids::default();
        for end in 0..=255 {
            fids.pack(&fid(1, &[[9; 20], [end; 20]].concat()));
        }
        assert_eq!(fids.classes.len(), 1);
    }

    #[test]
    fn handles_of_too_many_file_systems_are_kept_until_forgotten() {
        let mut fids = Fids::default();
        let number = u32::try_from(Fids::CLASSES_MAX).unwrap();
        let packed: Vec<_> = (0..number + 2).map(|fsid| fids.pack(&fid(fsid, &[1]))).collect();
        for (fsid, packed) in (0..).zip(&packed) {
            assert_eq!(fids.unpack(packed), Some(fid(fsid, &[1])));
        }
        assert_eq!(fids.apart.len(), 2);
        packed.iter().for_each(|packed| fids.forget(packed));
        assert_eq!(fids.apart.len(), 0);
    }
}
