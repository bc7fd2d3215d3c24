// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What holds of the tree after each change.

use super::Tree;
use crate::FileKind;

impl Tree {
    /// Asserts what holds after each change. Looks at everything.
    pub(in super::super) fn assert_invariants(&self) {
        self.assert_names_lead_here();
        let by_fid = self.by_fid.iter().flat_map(|(fid, ids)| ids.iter().map(move |id| (fid, *id)));
        let by_fid: Vec<_> = by_fid.collect();
        for (fid, id) in &by_fid {
            let found = self.nodes.get(id).and_then(|node| node.fid.as_ref());
            assert_eq!(found, Some(*fid), "{id} is found by its file handle");
        }
        let identified = self.nodes.values().filter(|node| node.fid.is_some()).count();
        assert_eq!(by_fid.len(), identified, "every identified node is found once");
        let all = self.nodes.values().flat_map(|node| node.children.values());
        let shown = all.filter(|told| told.shown.is_some()).count();
        assert_eq!(self.shown, shown, "entries that are shown are counted");
        for (fid, (dir, name)) in &self.shown_dirs {
            let told = self.nodes.get(dir).and_then(|node| node.children.get(name));
            let shown = told.and_then(|told| told.shown.as_ref());
            let is_it = shown.is_some_and(|shown| {
                shown.object.as_ref() == Some(fid) && shown.kind == FileKind::Directory
            });
            assert!(is_it, "a directory is shown at {dir}/{name:?}: {shown:?}");
        }
    }

    /// The names of the nodes are the inverse of the directories' entries.
    fn assert_names_lead_here(&self) {
        let mut names = 0;
        for (id, node) in &self.nodes {
            for (dir, name) in &node.names {
                let here = self.told(*dir, name).iter().filter(|at| *at == id).count();
                assert_eq!(here, 1, "{id} is at {dir}/{name:?}");
            }
            names += node.names.len();
        }
        let mut entries = 0;
        for (dir, node) in &self.nodes {
            for (name, told) in &node.children {
                assert!(!told.is_nothing(), "{dir} has an entry {name:?} of nothing");
                entries += told.nodes.len();
            }
        }
        assert_eq!(names, entries, "each entry of a directory is a name of its node");
    }
}
