// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Store`]: the nodes and names of the tree in little room. A million of them are common, so what most of them have is
//! kept in place, and what few have is elsewhere. That the names of nodes are the inverse of the entries of directories
//! is seen to here; what either means is the tree's affair.

mod invariants;

use std::collections::BTreeMap;

use super::fids::{self, Fids, Packed};
use super::index::{Hash, Index};
use super::slots::{Key, Slots};
use super::sorted::{Position, Sorted};
use super::{Shown, Told};
use crate::{Fid, FileKind, Name, NodeId};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Store {
    nodes: Slots<State>,
    by_id: Index<State>,
    /// The first node of each object.
    by_fid: Index<State>,
    fids: Fids,
    /// The nodes of objects that have several.
    several: BTreeMap<Fid, Vec<NodeId>>,
    /// How many nodes are directories.
    directories: usize,
    entries: Slots<Entry>,
    /// What the guest was told of entries of which it was told more than that a node is there.
    special: BTreeMap<Key<Entry>, Told>,
    /// The names of nodes that have several, in the order in which the guest was told of them.
    names: BTreeMap<Key<State>, Vec<Key<Entry>>>,
}

/// A node.
#[derive(Debug)]
pub(super) struct State {
    id: NodeId,
    pub(super) ino: u64,
    /// The guest's references (`nlookup`). The root is never forgotten and has none.
    pub(super) nlookup: u64,
    /// Ours on the file server below; at most `nlookup`, as replay hands out more than it borrows.
    pub(super) borrowed: u64,
    /// What is in it, if anything is.
    dir: Option<Box<Dir>>,
    /// The only name.
    name: Option<Key<Entry>>,
    /// The link count that the guest's kernel was last given, if it was.
    links: u32,
    fid: Packed,
    pub(super) kind: FileKind,
    flags: Flags,
}

bitflags::bitflags! {
    /// What a node is besides.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Flags: u8 {
        /// It is mounted on its name.
        const MOUNTED = 1 << 0;
        /// The guest's kernel, which raises events itself, was told to let it end if it has no links.
        const MAY_END = 1 << 1;
        /// The guest's kernel was given a link count, as it is of what is no directory.
        const LINKS = 1 << 2;
        /// Which was higher than the host's.
        const MORE_LINKS = 1 << 3;
        /// It has several names.
        const NAMES = 1 << 4;
    }
}

/// The entries of a directory of which the guest was told.
#[derive(Debug, Default)]
struct Dir {
    entries: Sorted<Entry>,
    /// How many lead to nodes.
    known: usize,
}

/// One of them.
#[derive(Debug)]
struct Entry {
    name: Name,
    dir: Key<State>,
    /// The only node that the guest was told of.
    node: Option<Key<State>>,
    /// Which is what its dentry cache holds.
    is_current: bool,
    /// This is not all, and [`Store::special`] has it.
    is_special: bool,
}

/// What the guest was told about one entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) current: Option<NodeId>,
    pub(super) nodes: &'a [NodeId],
    pub(super) shown: Option<&'a Shown>,
}

// What a known object costs. There are about 25 bytes more of it in the indexes and in its directory.
const _: () = assert!(Slots::<State>::SLOT_LEN <= 72 && Slots::<Entry>::SLOT_LEN <= 40);

impl State {
    pub(super) fn id(&self) -> NodeId {
        self.id
    }

    pub(super) fn is(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    pub(super) fn set(&mut self, flag: Flags, value: bool) {
        self.flags.set(flag, value);
    }

    pub(super) fn links(&self) -> Option<u32> {
        self.is(Flags::LINKS).then_some(self.links)
    }

    pub(super) fn set_links(&mut self, links: u32, has_more: bool) {
        self.links = links;
        self.flags.insert(Flags::LINKS);
        self.flags.set(Flags::MORE_LINKS, has_more);
    }

    pub(super) fn is_identified(&self) -> bool {
        !self.fid.is_none()
    }

    /// Whether an entry of it leads to a node.
    pub(super) fn has_known_entries(&self) -> bool {
        self.dir.as_ref().is_some_and(|dir| dir.known > 0)
    }
}

impl Store {
    /// Adds a node without references, of which nothing is known. It is not there.
    pub(super) fn insert(&mut self, id: NodeId, kind: FileKind, ino: u64, fid: Option<Fid>) {
        let key = self.nodes.insert(State {
            id,
            ino,
            nlookup: 0,
            borrowed: 0,
            dir: None,
            name: None,
            links: 0,
            fid: Packed::NONE,
            kind,
            flags: Flags::empty(),
        });
        self.directories += usize::from(kind == FileKind::Directory);
        let nodes = &self.nodes;
        self.by_id.insert(hash(id), key, |key| hash(nodes.get(key).id));
        if let Some(fid) = fid {
            self.file(key, fid);
        }
    }

    /// An unidentified node is this object.
    pub(super) fn identify(&mut self, id: NodeId, fid: Fid, ino: u64) {
        if let Some(key) = self.key(id).filter(|key| !self.nodes.get(*key).is_identified()) {
            self.nodes.get_mut(key).ino = ino;
            self.file(key, fid);
        }
    }

    fn file(&mut self, key: Key<State>, fid: Fid) {
        self.nodes.get_mut(key).fid = self.fids.pack(&fid);
        let id = self.nodes.get(key).id;
        match self.key_of(&fid) {
            Some(first) => {
                let first = self.nodes.get(first).id;
                self.several.entry(fid).or_insert_with(|| vec![first]).push(id);
            }
            None => self.insert_by_fid(key, &fid),
        }
    }

    fn insert_by_fid(&mut self, key: Key<State>, fid: &Fid) {
        let (nodes, fids) = (&self.nodes, &self.fids);
        self.by_fid.insert(fids::hash(fid), key, |key| hash_of_fid(nodes.get(key), fids));
    }

    /// Takes out a node that has no names, and what is known of its entries. Returns those that were shown.
    pub(super) fn remove(&mut self, id: NodeId) -> Option<(State, Vec<(Name, Shown)>)> {
        let key = self.key(id)?;
        let mut shown = Vec::new();
        if let Some(dir) = self.nodes.get_mut(key).dir.take() {
            for entry in dir.entries.iter() {
                let Entry { name, .. } = self.entries.remove(entry);
                let told = self.special.remove(&entry);
                shown.extend(told.and_then(|told| told.shown).map(|shown| (name, shown)));
            }
        }
        if let Some(fid) = self.fids.unpack(&self.nodes.get(key).fid) {
            self.unfile(key, &fid);
        }
        let nodes = &self.nodes;
        self.by_id.remove(hash(id), key, |key| hash(nodes.get(key).id));
        let state = self.nodes.remove(key);
        self.directories -= usize::from(state.kind == FileKind::Directory);
        self.fids.forget(&state.fid);
        Some((state, shown))
    }

    fn unfile(&mut self, key: Key<State>, fid: &Fid) {
        let id = self.nodes.get(key).id;
        let is_first = self.key_of(fid) == Some(key);
        if is_first {
            let (nodes, fids) = (&self.nodes, &self.fids);
            let hash = fids::hash(fid);
            self.by_fid.remove(hash, key, |key| hash_of_fid(nodes.get(key), fids));
        }
        let Some(ids) = self.several.get_mut(fid) else { return };
        ids.retain(|other| *other != id);
        let first = ids.first().copied();
        if ids.len() < 2 {
            self.several.remove(fid);
        }
        if let Some(first) = first.filter(|_| is_first).and_then(|first| self.key(first)) {
            self.insert_by_fid(first, fid);
        }
    }

    /// Changes what the guest was told of an entry. `None` if there is no such directory.
    pub(super) fn change<R>(
        &mut self,
        dir: NodeId,
        name: &Name,
        change: impl FnOnce(&mut Told) -> R,
    ) -> Option<R> {
        let dir = self.key(dir)?;
        let at = self.find(dir, name);
        let before =
            at.map_or_else(|_| Told::default(), |at| self.view(self.entry_at(dir, at)).to_told());
        let mut told = before.clone();
        let result = change(&mut told);
        if told == before {
            return Some(result);
        }
        let entry = match at {
            Ok(at) => self.entry_at(dir, at),
            Err(at) => self.add_entry(dir, at, name),
        };
        for id in before.nodes.iter().filter(|id| !told.nodes.contains(id)) {
            self.remove_name(*id, entry);
        }
        for id in told.nodes.iter().filter(|id| !before.nodes.contains(id)) {
            self.add_name(*id, entry);
        }
        let of = self.nodes.get_mut(dir).dir.get_or_insert_default();
        of.known += usize::from(!told.nodes.is_empty());
        of.known -= usize::from(!before.nodes.is_empty());
        if told.is_nothing() {
            let (Ok(at) | Err(at)) = at;
            of.entries.remove(at);
            if of.entries.is_empty() {
                self.nodes.get_mut(dir).dir = None;
            }
            self.entries.remove(entry);
            self.special.remove(&entry);
        } else {
            self.set(entry, told);
        }
        Some(result)
    }

    fn add_entry(&mut self, dir: Key<State>, at: Position, name: &Name) -> Key<Entry> {
        let (name, node) = (name.clone(), None);
        let entry = Entry { name, dir, node, is_current: false, is_special: false };
        let entry = self.entries.insert(entry);
        self.nodes.get_mut(dir).dir.get_or_insert_default().entries.insert(at, entry);
        entry
    }

    fn set(&mut self, entry: Key<Entry>, told: Told) {
        let plain = match told.nodes[..] {
            [id] if told.shown.is_none() && told.current.is_none_or(|current| current == id) => {
                self.key(id)
            }
            _ => None,
        };
        let is_special = plain.is_none();
        let place = self.entries.get_mut(entry);
        place.node = plain;
        place.is_current = !is_special && told.current.is_some();
        let was_special = std::mem::replace(&mut place.is_special, is_special);
        if is_special {
            self.special.insert(entry, told);
        } else if was_special {
            self.special.remove(&entry);
        }
    }

    fn add_name(&mut self, id: NodeId, entry: Key<Entry>) {
        let Some(key) = self.key(id) else { return };
        let node = self.nodes.get_mut(key);
        if node.is(Flags::NAMES) {
            self.names.entry(key).or_default().push(entry);
        } else if let Some(first) = node.name.replace(entry) {
            node.name = None;
            node.set(Flags::NAMES, true);
            self.names.insert(key, vec![first, entry]);
        }
    }

    fn remove_name(&mut self, id: NodeId, entry: Key<Entry>) {
        let Some(key) = self.key(id) else { return };
        let node = self.nodes.get_mut(key);
        if !node.is(Flags::NAMES) {
            node.name.take_if(|name| *name == entry);
            return;
        }
        let Some(names) = self.names.get_mut(&key) else { return };
        names.retain(|name| *name != entry);
        if let [last] = names[..] {
            node.name = Some(last);
            node.set(Flags::NAMES, false);
            self.names.remove(&key);
        }
    }

    /// Puts the names of a node in this order, which has each of them.
    pub(super) fn order_names(&mut self, id: NodeId, order: &[(NodeId, Name)]) {
        let order = order.iter().filter_map(|(dir, name)| self.entry(*dir, name)).collect();
        if let Some(names) = self.key(id).and_then(|key| self.names.get_mut(&key)) {
            *names = order;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn directories_len(&self) -> usize {
        self.directories
    }

    fn key(&self, id: NodeId) -> Option<Key<State>> {
        self.by_id.find(hash(id), |key| self.nodes.get(*key).id == id)
    }

    fn key_of(&self, fid: &Fid) -> Option<Key<State>> {
        let is =
            |key: &Key<State>| self.fids.unpack(&self.nodes.get(*key).fid).as_ref() == Some(fid);
        self.by_fid.find(fids::hash(fid), is)
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&State> {
        self.key(id).map(|key| self.nodes.get(key))
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut State> {
        self.key(id).map(|key| self.nodes.get_mut(key))
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &State> {
        self.nodes.iter().map(|(_, node)| node)
    }

    pub(super) fn fid(&self, id: NodeId) -> Option<Fid> {
        self.fids.unpack(&self.get(id)?.fid)
    }

    pub(super) fn nodes_of(&self, fid: &Fid) -> &[NodeId] {
        let Some(key) = self.key_of(fid) else { return &[] };
        let one = std::slice::from_ref(&self.nodes.get(key).id);
        if self.several.is_empty() { one } else { self.several.get(fid).map_or(one, Vec::as_slice) }
    }

    /// The names of a node, in the order in which the guest was told of them.
    pub(super) fn names(&self, id: NodeId) -> impl DoubleEndedIterator<Item = (NodeId, &Name)> {
        let names = self.key(id).map_or(&[][..], |key| {
            let only = self.nodes.get(key).name.as_slice();
            if only.is_empty() { self.names.get(&key).map_or(&[], Vec::as_slice) } else { only }
        });
        names.iter().map(|name| {
            let Entry { name, dir, .. } = self.entries.get(*name);
            (self.nodes.get(*dir).id, name)
        })
    }

    pub(super) fn names_len(&self, id: NodeId) -> usize {
        let several = |key| self.names.get(&key).map_or(0, Vec::len);
        self.key(id).map_or(0, |key| self.nodes.get(key).name.map_or_else(|| several(key), |_| 1))
    }

    /// What the guest was told of an entry.
    pub(super) fn told(&self, dir: NodeId, name: &Name) -> Option<View<'_>> {
        self.entry(dir, name).map(|entry| self.view(entry))
    }

    /// What it was told of the entries of a directory, behind `after`.
    pub(super) fn told_after(
        &self,
        dir: NodeId,
        after: Option<&Name>,
    ) -> impl Iterator<Item = (&Name, View<'_>)> {
        let dir = self.key(dir);
        let from = dir.zip(after).map(|(dir, after)| match self.find(dir, after) {
            Ok(at) => at.next(),
            Err(at) => at,
        });
        let entries = dir.and_then(|dir| self.nodes.get(dir).dir.as_ref()).map(|dir| &dir.entries);
        let keys = entries.map(|entries| entries.from(from.unwrap_or_default()));
        keys.into_iter().flatten().map(|key| (&self.entries.get(key).name, self.view(key)))
    }

    fn entry(&self, dir: NodeId, name: &Name) -> Option<Key<Entry>> {
        let dir = self.key(dir)?;
        self.find(dir, name).ok().map(|at| self.entry_at(dir, at))
    }

    fn find(&self, dir: Key<State>, name: &Name) -> Result<Position, Position> {
        let dir = self.nodes.get(dir).dir.as_ref().ok_or_else(Position::default)?;
        dir.entries.find(|key| self.entries.get(key).name.cmp(name))
    }

    fn entry_at(&self, dir: Key<State>, at: Position) -> Key<Entry> {
        self.nodes.get(dir).dir.as_ref().expect("a position in it").entries.at(at)
    }

    fn view(&self, key: Key<Entry>) -> View<'_> {
        let entry = self.entries.get(key);
        if let Some(told) = self.special.get(&key).filter(|_| entry.is_special) {
            let Told { current, nodes, shown } = told;
            return View { current: *current, nodes, shown: shown.as_ref() };
        }
        let node = entry.node.map(|node| &self.nodes.get(node).id);
        let current = node.copied().filter(|_| entry.is_current);
        View { current, nodes: node.map_or(&[], std::slice::from_ref), shown: None }
    }
}

impl View<'_> {
    fn to_told(self) -> Told {
        let Self { current, nodes, shown } = self;
        Told { current, nodes: nodes.to_vec(), shown: shown.cloned() }
    }
}

fn hash(id: NodeId) -> Hash {
    Hash::EMPTY.and(id.get())
}

fn hash_of_fid(node: &State, fids: &Fids) -> Hash {
    fids.unpack(&node.fid).map_or(Hash::EMPTY, |fid| fids::hash(&fid))
}

#[cfg(test)]
mod tests;
