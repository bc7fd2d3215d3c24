// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`GuestEvent`]: what the guest is to see, decided by the host, rejoined by the guest.

use crate::{FileKind, Mask, Name, Node, NodeId};

/// A directory entry of a directory that the guest knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The directory.
    pub dir: Node,
    /// The name in it.
    pub name: Name,
}

/// One thing that the guest's programs are to see. The host's engine makes it; it travels as one
/// notification, a rename as two; the guest's join gives it back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GuestEvent {
    /// Something happened to an entry. Several bits of `mask` are delivered in [`Mask::ORDER`].
    /// A plain half of a rename is one of these too, with `MOVED_FROM` or `MOVED_TO` alone.
    Entry {
        /// Where.
        entry: Entry,
        /// What: never empty but for ISDIR, never `Q_OVERFLOW`.
        mask: Mask,
        /// The object, when the guest knows it.
        child: Option<Node>,
        /// Its type, as far as known.
        kind: FileKind,
        /// The entry is a further name of `child`, which was there before (`link(2)`).
        link: bool,
    },
    /// Something happened to an object, and no name goes with it: the root of the share, or an
    /// object whose directory the guest has forgotten.
    Object {
        /// The object.
        node: Node,
        /// What: bits of [`Mask::CONTENT`], [`Mask::READS`] and ISDIR.
        mask: Mask,
    },
    /// An object got another name, both within the guest's view.
    Rename {
        /// The old name.
        from: Entry,
        /// The new one.
        to: Entry,
        /// The object, when the guest knows it.
        child: Option<Node>,
        /// Its type, as far as known; [`FileKind::Directory`] exactly for a directory.
        kind: FileKind,
    },
    /// Single events were given up here. What follows for the directories concerned is the difference
    /// between what the guest was told and what is.
    Overflow,
}

impl GuestEvent {
    /// Whether this is the end of a node: a removal in the limbo directory, which ends the watches on an object that
    /// has no name in the guest, and need not come (`docs/PROTOCOL.md`, 6.5).
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Entry { entry, mask, .. }
            if entry.dir.id == NodeId::LIMBO && mask.contains(Mask::DELETE))
    }
}
