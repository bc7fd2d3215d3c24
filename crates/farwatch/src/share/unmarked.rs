// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Unmarked`]: the known directories that could not be marked. One is tried again when there may be room,
//! each in turn, so that one that can never be marked does not keep the others waiting.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use farwatch_proto::NodeId;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Unmarked {
    dirs: BTreeSet<NodeId>,
    /// The last that was tried.
    last: Option<NodeId>,
}

impl Unmarked {
    pub(super) fn insert(&mut self, dir: NodeId) {
        self.dirs.insert(dir);
    }

    pub(super) fn contains(&self, dir: NodeId) -> bool {
        self.dirs.contains(&dir)
    }

    pub(super) fn len(&self) -> usize {
        self.dirs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// Takes the one whose turn it is.
    pub(super) fn pop(&mut self) -> Option<NodeId> {
        let after = self.last.map_or(Unbounded, Excluded);
        let next = *self.dirs.range((after, Unbounded)).next().or_else(|| self.dirs.first())?;
        self.dirs.remove(&next);
        self.last = Some(next);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_that_cannot_be_marked_does_not_keep_others_from_being_tried() {
        let dir = |id| NodeId::new(id).unwrap();
        let mut unmarked = Unmarked::default();
        for id in [2, 3, 5] {
            unmarked.insert(dir(id));
        }
        for id in [2, 3, 5, 2, 3] {
            assert_eq!(unmarked.pop(), Some(dir(id)));
            // It could not.
            unmarked.insert(dir(id));
        }
        assert_eq!([unmarked.pop(), unmarked.pop(), unmarked.pop()], [5, 2, 3].map(NodeId::new));
        assert_eq!(unmarked.pop(), None);
        assert!(unmarked.is_empty());
    }
}
