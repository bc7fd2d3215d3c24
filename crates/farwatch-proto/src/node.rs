// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of objects on the FUSE session: [`NodeId`], [`Generation`], [`Node`], and the rename
//! [`Cookie`]. These are not inode numbers: the `ino` of `stat(2)` is another thing.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

use crate::FileKind;

/// FUSE's id for an inode known to the guest (`fuse_in_header.nodeid`). 1 is the root, 0 is never a
/// node.
///
/// The ids from [`NodeId::RESERVED_MIN`] up belong to farwatch itself; the file server counts its
/// own from 2 and never comes near them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The root of the share (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(NonZeroU64::MIN);
    /// The first of the ids that no object of the share has.
    pub const RESERVED_MIN: u64 = 0x7ffe_0000_0000_0000;
    /// The control node: no directory lists it, it is opened by handle.
    pub const CONTROL: Self = Self::reserved(0x7fff_ffff_0000_0001);
    /// The limbo directory: where replay moves an object that leaves the guest's view, and takes it
    /// from when one enters. Only an agent finds it.
    pub const LIMBO: Self = Self::reserved(0x7fff_ffff_0000_0002);

    const fn reserved(raw: u64) -> Self {
        match NonZeroU64::new(raw) {
            Some(id) => Self(id),
            None => panic!("a reserved nodeid is not 0"),
        }
    }

    /// How many bits of a phantom's nodeid are its number; the type is above them.
    const PHANTOM_BITS: u32 = 44;

    /// A stand-in for an object of a type, which lasts for one call. `number` counts up, and starts
    /// again long after any guest has forgotten the first.
    pub(crate) const fn phantom(kind: FileKind, number: u64) -> Self {
        let number = number % (1 << Self::PHANTOM_BITS);
        let kind = kind.dt() as u64;
        Self::reserved(Self::RESERVED_MIN | (kind << Self::PHANTOM_BITS) | number)
    }

    /// The type of a phantom; `None` for any other node.
    pub const fn phantom_kind(self) -> Option<FileKind> {
        if !self.is_reserved() || self.get() >= Self::CONTROL.get() {
            return None;
        }
        FileKind::from_dt(((self.get() - Self::RESERVED_MIN) >> Self::PHANTOM_BITS) as u32 & 0xf)
    }

    /// `None` for 0, which names no node.
    pub const fn new(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number as it travels in FUSE messages.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// True for the control node, the limbo directory and the phantoms.
    pub const fn is_reserved(self) -> bool {
        self.get() >= Self::RESERVED_MIN
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_reserved() { write!(f, "n{:#x}", self.0) } else { write!(f, "n{}", self.0) }
    }
}

/// Tells apart two objects that had the same nodeid one after the other: (nodeid, generation) is
/// unique for the life of a session. It is the low half of `fuse_entry_out.generation`; the kernel
/// keeps 32 bits of it (`inode->i_generation`) and gives the root 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub u32);

/// An object as the guest can name it: nodeid and generation (S1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node {
    /// The nodeid.
    pub id: NodeId,
    /// The generation of that nodeid.
    pub generation: Generation,
}

impl Node {
    /// The root of the share, whose generation is 0 (`fuse_get_root_inode()`).
    pub const ROOT: Self = Self { id: NodeId::ROOT, generation: Generation(0) };
}

/// A mount on the host that is announced to the guest (`FUSE_ATTR_SUBMOUNT`), as an agent can name it: the low half of the
/// nodeid of its root, and [`u32::MAX`] where that is 0. Two with the same number are a nuisance and no error: a call that
/// is made in the wrong one finds no object there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Submount(pub NonZeroU32);

impl Submount {
    /// The submount with this root.
    pub fn of(root: NodeId) -> Self {
        let [.., a, b, c, d] = root.get().to_be_bytes();
        Self(NonZeroU32::new(u32::from_be_bytes([a, b, c, d])).unwrap_or(NonZeroU32::MAX))
    }
}

/// Joins the two halves of a rename; never 0 (0 on the wire means none). Made by the server, it has
/// nothing to do with the cookie that `inotify(7)` shows, which the guest's kernel makes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cookie(pub NonZeroU32);

impl Cookie {
    /// The first cookie of a session.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The one after, which is never 0.
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).unwrap_or(NonZeroU32::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submount_is_named_by_the_low_half_of_its_root_and_never_by_0() {
        let named = |raw| Submount::of(NodeId::new(raw).unwrap()).0.get();
        assert_eq!(named(7), 7);
        assert_eq!(named(0x5_0000_0007), 7);
        assert_eq!(named(1 << 32), u32::MAX);
    }

    #[test]
    fn a_phantom_shows_its_type_and_no_other_node_has_one() {
        for dt in 0..=12 {
            let Some(kind) = FileKind::from_dt(dt) else { continue };
            let phantom = NodeId::phantom(kind, u64::MAX);
            assert!(phantom.is_reserved());
            assert_eq!(phantom.phantom_kind(), Some(kind));
        }
        for node in [NodeId::ROOT, NodeId::CONTROL, NodeId::LIMBO] {
            assert_eq!(node.phantom_kind(), None);
        }
    }
}
