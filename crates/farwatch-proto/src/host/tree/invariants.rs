// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What holds of the tree after each change.

use super::Tree;
use super::store::State;
use crate::FileKind;

impl Tree {
    /// Asserts what holds after each change. Looks at everything.
    pub(in super::super) fn assert_invariants(&self) {
        self.assert_names_lead_here();
        self.store.assert_invariants();
        let all = self.store.iter().flat_map(|node| self.store.told_after(node.id(), None));
        let shown = all.filter(|(_, told)| told.shown.is_some()).count();
        assert_eq!(self.shown, shown, "entries that are shown are counted");
        for (fid, (dir, name)) in &self.shown_dirs {
            let shown = self.store.told(*dir, name).and_then(|told| told.shown);
            let is_it = shown.is_some_and(|shown| {
                shown.object.as_ref() == Some(fid) && shown.kind == FileKind::Directory
            });
            assert!(is_it, "a directory is shown at {dir}/{name:?}: {shown:?}");
        }
    }

    /// The names of the nodes are the inverse of the directories' entries.
    fn assert_names_lead_here(&self) {
        let mut names = 0;
        for id in self.store.iter().map(State::id) {
            for (dir, name) in self.store.names(id) {
                let here = self.told(dir, name).iter().filter(|at| **at == id).count();
                assert_eq!(here, 1, "{id} is at {dir}/{name:?}");
                names += 1;
            }
        }
        let mut entries = 0;
        for dir in self.store.iter().map(State::id) {
            let mut last = None;
            for (name, told) in self.store.told_after(dir, None) {
                let is_nothing =
                    told.nodes.is_empty() && told.current.is_none() && told.shown.is_none();
                assert!(!is_nothing, "{dir} has an entry {name:?} of nothing");
                assert!(last < Some(name), "the entries of {dir} are in order");
                entries += told.nodes.len();
                last = Some(name);
            }
        }
        assert_eq!(names, entries, "each entry of a directory is a name of its node");
    }
}
