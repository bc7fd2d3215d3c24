// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which directories are above another in the guest's dentry cache. Its kernel refuses to look a directory up, or to move
//! it, below itself: `d_splice_alias()` gives ELOOP, `lock_rename()` finds a trap and `renameat2(2)` gives EINVAL.

use std::collections::BTreeSet;

use super::Tree;
use crate::{FileKind, Name, NodeId};

impl Tree {
    /// Whether `id` is `dir`, or a directory that may be above it in the guest's dentry cache.
    pub(in super::super) fn is_above(&self, id: NodeId, dir: NodeId) -> bool {
        if self.kind(id) != Some(FileKind::Directory) {
            return false;
        }
        let mut seen = BTreeSet::new();
        let mut below = vec![dir];
        while let Some(dir) = below.pop() {
            if dir == id {
                return true;
            }
            if seen.insert(dir) {
                below.extend(self.held_in(dir));
            }
        }
        false
    }

    /// The directories in which the guest's dentry cache may hold a node.
    fn held_in(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let holds = move |(dir, name): &(NodeId, &Name)| self.current(*dir, name) == Some(id);
        self.store.names(id).filter(holds).map(|(dir, _)| dir)
    }
}
