// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tree on its way to another host: what of it moves, and how its objects are found again there.

use std::collections::BTreeMap;

use super::super::state::{EntryState, NodeState};
use super::store::State;
use super::{Shown, Told, Tree};
use crate::{Fid, FileKind, Generation, Name, NodeId};

impl Tree {
    /// The nodes, as far as they mean something on another host.
    pub(in super::super) fn saved_nodes(&self) -> BTreeMap<NodeId, NodeState> {
        let saved = |node: &State| {
            let &State { kind, ino, nlookup, borrowed, .. } = node;
            (node.id(), NodeState { kind, ino, nlookup, borrowed })
        };
        self.store.iter().map(saved).collect()
    }

    /// What the guest was told of names.
    pub(in super::super) fn saved_entries(&self) -> BTreeMap<(NodeId, Name), EntryState> {
        let place = |id: &NodeId, dir: NodeId, name: &Name| {
            let place = self.store.names(*id).position(|other| other == (dir, name));
            (*id, place.and_then(|place| u32::try_from(place).ok()).unwrap_or_default())
        };
        let mut entries = BTreeMap::new();
        for dir in self.store.iter().map(State::id) {
            for (name, told) in self.store.told_after(dir, None) {
                let nodes = told.nodes.iter().map(|id| place(id, dir, name)).collect();
                let shown = told.shown.map(|shown| shown.kind);
                let entry = EntryState { current: told.current, shown, nodes };
                entries.insert((dir, name.clone()), entry);
            }
        }
        entries
    }

    /// Becomes the tree that was saved. No object has a file handle yet but the root.
    pub(in super::super) fn load(
        &mut self,
        generation: Generation,
        nodes: &BTreeMap<NodeId, NodeState>,
        entries: BTreeMap<(NodeId, Name), EntryState>,
        root: Option<Fid>,
    ) {
        *self = Self { generation, ..Self::default() };
        for (id, node) in nodes {
            let NodeState { kind, ino, nlookup, borrowed } = *node;
            self.store.insert(*id, kind, ino, None);
            if let Some(node) = self.store.get_mut(*id) {
                (node.nlookup, node.borrowed) = (nlookup, borrowed);
            }
        }
        let mut names: BTreeMap<NodeId, BTreeMap<u32, (NodeId, Name)>> = BTreeMap::new();
        for ((dir, name), entry) in entries {
            for (id, place) in &entry.nodes {
                names.entry(*id).or_default().insert(*place, (dir, name.clone()));
            }
            let nodes = entry.nodes.into_iter().map(|(id, _)| id).collect();
            let shown = entry.shown.map(|kind| Shown { object: None, kind });
            self.shown += usize::from(shown.is_some());
            let told = Told { current: entry.current, nodes, shown };
            self.store.change(dir, &name, |nothing| *nothing = told);
        }
        for (id, names) in names {
            self.store.order_names(id, &names.into_values().collect::<Vec<_>>());
        }
        let is_gone = |node: &&State| {
            node.id() != NodeId::ROOT && node.nlookup == 0 && !node.has_known_entries()
        };
        self.emptied = self.store.iter().filter(is_gone).map(State::id).collect();
        self.emptied.sort();
        if let Some(fid) = root {
            let ino = self.ino(NodeId::ROOT).unwrap_or_default();
            self.identify(NodeId::ROOT, fid, ino);
        }
    }

    /// A node that was loaded has been found: how the host names it, and its inode number there.
    pub fn identify(&mut self, id: NodeId, fid: Fid, ino: u64) {
        self.store.identify(id, fid, ino);
    }

    /// The nodes of which the guest was told in a directory, each with its name and type.
    pub fn entries(&self, dir: NodeId) -> Vec<(NodeId, Name, FileKind)> {
        let told = self.told_after(dir, None);
        let nodes = told.flat_map(|(name, nodes, _)| nodes.iter().map(move |id| (*id, name)));
        nodes.map(|(id, name)| (id, name.clone(), self.kind(id).unwrap_or_default())).collect()
    }

    /// The nodes without a name: the guest holds them, and was told that they left their place.
    pub fn nameless(&self) -> Vec<NodeId> {
        let is_nameless =
            |id: &NodeId| *id != NodeId::ROOT && self.store.names(*id).next().is_none();
        let mut nameless: Vec<_> = self.store.iter().map(State::id).filter(is_nameless).collect();
        nameless.sort();
        nameless
    }
}
