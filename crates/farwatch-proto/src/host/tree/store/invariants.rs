// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What holds of the store after each change.

use super::Store;
use crate::FileKind;

impl Store {
    /// Asserts what holds after each change. Looks at everything.
    pub(in super::super) fn assert_invariants(&self) {
        assert_eq!(self.by_id.len(), self.nodes.len(), "each node is found once");
        let mut objects = 0;
        for (key, node) in self.nodes.iter() {
            assert_eq!(self.key(node.id), Some(key), "{} is found by its id", node.id);
            if let Some(fid) = self.fids.unpack(&node.fid) {
                let nodes = self.nodes_of(&fid);
                let here = nodes.iter().filter(|id| **id == node.id).count();
                assert_eq!(here, 1, "{} is found by its file handle", node.id);
                objects += usize::from(nodes.first() == Some(&node.id));
            }
            let led = node.dir.iter().flat_map(|dir| dir.entries.iter());
            let known = led.filter(|entry| !self.view(*entry).nodes.is_empty()).count();
            assert_eq!(node.dir.as_ref().map_or(0, |dir| dir.known), known, "known entries count");
        }
        let directories = self.nodes.iter().filter(|(_, node)| node.kind == FileKind::Directory);
        assert_eq!(self.directories, directories.count(), "directories are counted");
        assert_eq!(self.by_fid.len(), objects, "each object is found once");
        for ids in self.several.values() {
            assert!(ids.len() > 1, "{ids:?} are nodes of one object");
        }
        for names in self.names.values() {
            assert!(names.len() > 1, "{names:?} are names of one node");
        }
        let special = self.entries.iter().filter(|(_, entry)| entry.is_special).count();
        assert_eq!(self.special.len(), special, "what is kept elsewhere is of an entry");
    }
}
