// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Dirs`]: descriptors of directories that the guest knows. Their entries are resolved from them, and
//! they are marked by them.
//!
//! This is a cache, not a list of the known directories: a user may have fewer descriptors than the
//! guest knows directories. `Share` opens a missing one again.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use farwatch_proto::NodeId;

/// The most directories that are kept open. `serve` leaves them out of what the guest's files may have.
pub(crate) const DIRS_OPEN_MAX: usize = 4096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Dirs {
    open: BTreeMap<NodeId, Arc<OwnedFd>>,
    /// The directory that was closed last to make room; the next to be closed comes after it.
    hand: Option<NodeId>,
}

impl Dirs {
    /// Adds a descriptor. At the limit another one is closed.
    pub(super) fn insert(&mut self, id: NodeId, fd: OwnedFd) -> Arc<OwnedFd> {
        if self.open.len() >= DIRS_OPEN_MAX {
            // Never the root, from which the others can be found again.
            let behind = |id| self.open.range((Excluded(id), Unbounded)).next();
            let next = self.hand.and_then(behind).or_else(|| behind(NodeId::ROOT));
            self.hand = next.map(|(id, _)| *id);
            if let Some(id) = self.hand {
                self.open.remove(&id);
            }
        }
        let fd = Arc::new(fd);
        self.open.insert(id, Arc::clone(&fd));
        fd
    }

    /// The descriptor of a directory, if it is open.
    pub(super) fn at_hand(&self, id: NodeId) -> Option<Arc<OwnedFd>> {
        self.open.get(&id).cloned()
    }

    /// Takes the descriptor of a directory out.
    pub(super) fn remove(&mut self, id: NodeId) -> Option<Arc<OwnedFd>> {
        self.open.remove(&id)
    }
}
