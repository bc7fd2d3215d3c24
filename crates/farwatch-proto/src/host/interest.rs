// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Interest`]: which nodes are watched in the guest, as far as its kernel says so (FUSE_FSNOTIFY,
//! `docs/PROTOCOL.md`, 10.2). An event that nobody there watches for is not sent.

use std::collections::BTreeMap;

use super::tree::Tree;
use crate::{Entry, GuestEvent, Mask, NodeId};

/// See the module's documentation. The engine has one only if the guest's kernel tells; there is at most one
/// entry for each node that the guest knows.
#[derive(Debug, Default)]
pub(super) struct Interest {
    watched: BTreeMap<NodeId, u64>,
}

impl Interest {
    /// The guest watches a node for these `FS_*` bits from now on, 0 for none.
    pub(super) fn set(&mut self, id: NodeId, mask: u64) {
        if mask == 0 {
            self.watched.remove(&id);
        } else {
            self.watched.insert(id, mask);
        }
    }

    /// How many nodes are watched.
    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    /// Whether somebody watches for an event: in its directory, or its object, or what it replaces.
    pub(super) fn wants(&self, event: &GuestEvent, tree: &Tree) -> bool {
        // Its object ends, or is probed for.
        if event.is_end() {
            return true;
        }
        match event {
            GuestEvent::Overflow => true,
            GuestEvent::Object { node, .. } if node.id.is_reserved() => true,
            // A directory that is watched by its own name: by its parent, too.
            GuestEvent::Object { node, mask } => {
                let parent = tree.parent(node.id);
                self.is_watched(node.id) || parent.is_some_and(|dir| self.asks(dir, *mask))
            }
            GuestEvent::Entry { entry, mask, child, .. } => {
                let child = child.map(|child| child.id);
                self.asks(entry.dir.id, *mask)
                    || child.is_some_and(|id| self.is_watched(id))
                    || self.holds(entry, tree)
            }
            GuestEvent::Rename { from, to, child, .. } => {
                self.asks(from.dir.id, Mask::MOVED_FROM)
                    || self.asks(to.dir.id, Mask::MOVED_TO)
                    || child.is_some_and(|child| self.is_watched(child.id))
                    || self.holds(from, tree)
                    || self.holds(to, tree)
            }
        }
    }

    fn asks(&self, id: NodeId, mask: Mask) -> bool {
        let bits = mask.difference(Mask::ISDIR).bits();
        // Who asks for FAN_RENAME of a directory asks for both halves.
        let moved = if mask.intersects(Mask::MOVE) { FS_RENAME } else { 0 };
        self.watched.get(&id).is_some_and(|watched| watched & (bits | moved) != 0)
    }

    /// Whether anything about a node is watched for.
    pub(super) fn is_watched(&self, id: NodeId) -> bool {
        self.watched.contains_key(&id)
    }

    /// Whether a node that the guest has under a name is watched.
    fn holds(&self, entry: &Entry, tree: &Tree) -> bool {
        tree.told(entry.dir.id, &entry.name).iter().any(|id| self.is_watched(*id))
    }
}

/// `FS_RENAME` of `include/linux/fsnotify_backend.h`.
pub(super) const FS_RENAME: u64 = 0x1000_0000;
