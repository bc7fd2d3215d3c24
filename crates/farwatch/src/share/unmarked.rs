// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Unmarked`]: the known directories that could not be marked, and why. One is tried again when there may be room,
//! each in turn, so that one that can never be marked does not keep the others waiting. The engine polls them.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use farwatch_proto::NodeId;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Unmarked {
    dirs: BTreeSet<NodeId>,
    /// Why the last one that was tried could not be.
    why: String,
    /// The last that was tried.
    last: Option<NodeId>,
}

impl Unmarked {
    pub(super) fn insert(&mut self, dir: NodeId, why: String) {
        self.dirs.insert(dir);
        self.why = why;
    }

    pub(super) fn remove(&mut self, dir: NodeId) {
        self.dirs.remove(&dir);
    }

    pub(super) fn contains(&self, dir: NodeId) -> bool {
        self.dirs.contains(&dir)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// The first ones.
    pub(super) fn iter(&self) -> impl Iterator<Item = NodeId> {
        self.dirs.iter().copied()
    }

    /// Why there are any.
    pub(super) fn why(&self) -> Option<&str> {
        (!self.dirs.is_empty()).then_some(self.why.as_str())
    }

    /// The one whose turn it is.
    pub(super) fn next(&mut self) -> Option<NodeId> {
        let after = self.last.map_or(Unbounded, Excluded);
        let next = *self.dirs.range((after, Unbounded)).next().or_else(|| self.dirs.first())?;
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
        assert_eq!(unmarked.why(), None);
        for id in [2, 3, 5] {
            unmarked.insert(dir(id), "no room".to_owned());
        }
        for id in [2, 3, 5, 2, 3] {
            assert_eq!(unmarked.next(), Some(dir(id)));
        }
        unmarked.remove(dir(3));
        assert_eq!([unmarked.next(), unmarked.next(), unmarked.next()], [5, 2, 5].map(NodeId::new));
        assert_eq!(unmarked.why(), Some("no room"));
        unmarked.remove(dir(2));
        unmarked.remove(dir(5));
        assert_eq!((unmarked.next(), unmarked.is_empty(), unmarked.why()), (None, true, None));
    }
}
