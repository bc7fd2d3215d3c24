// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Area`] and [`Layout`]: how the shared memory is divided. `farwatch-interleavings` includes this file.

/// Bytes `offset..offset + len` of the memory. Only a [`Layout`] makes one, or another area it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) struct Area {
    pub(super) offset: usize,
    pub(super) len: usize,
}

impl Area {
    /// The part of `len` bytes that starts at `offset` of this area.
    ///
    /// # Panics
    /// When that part is not inside: the caller has miscounted its own layout.
    pub(in crate::driver) fn part(self, offset: usize, len: usize) -> Self {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "part is inside");
        Self { offset: self.offset + offset, len }
    }

    /// Length in bytes.
    pub(in crate::driver) fn len(self) -> usize {
        self.len
    }
}

/// A plan of areas, before there is memory.
#[derive(Debug, Default)]
pub(in crate::driver) struct Layout {
    pub(super) len: usize,
}

impl Layout {
    /// Sets aside `len` bytes at a multiple of `align`.
    pub(in crate::driver) fn take(&mut self, len: usize, align: usize) -> Area {
        let offset = self.len.next_multiple_of(align);
        self.len = offset + len;
        Area { offset, len }
    }
}
