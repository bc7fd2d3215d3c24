// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Tree`]: what the guest knows, as far as its FUSE traffic tells.
//!
//! A node is in the tree from the reply that names it to the FORGET that gives the last of those
//! references back; a directory stays for as long as a known object is in it. Beside the nodes the tree keeps, for every entry that the guest was told of,
//! what the guest's dentry cache holds for it. It is no picture of the host: what changed there is
//! put in only when the guest learns of it.

mod above;
mod fids;
mod index;
mod invariants;
mod moved;
mod places;
mod slots;
mod sorted;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use self::store::{Flags, State, Store};
use super::net::Listed;
use crate::{Fid, FileKind, Generation, Name, Node, NodeId};

/// What a reply told the guest about a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Learned {
    /// The nodeid.
    pub id: NodeId,
    /// How the host's watcher will name it; `None` when it cannot be told, and then no event for it
    /// is ever delivered.
    pub fid: Option<Fid>,
    /// Its type.
    pub kind: FileKind,
    /// The inode number that the guest was told (`st_ino`).
    pub ino: u64,
}

/// A node that the guest gave up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forgotten {
    /// The nodeid.
    pub id: NodeId,
    /// The host's name of it.
    pub fid: Option<Fid>,
    /// Its type.
    pub kind: FileKind,
    /// How many references the file server below has handed to us for it: they are given back now.
    pub borrowed: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Tree {
    store: Store,
    generation: Generation,
    /// Directories that the guest has forgotten and that a replay has taken the last known entry
    /// from: they go with the next FORGET.
    emptied: Vec<NodeId>,
    /// How many entries have something in [`Told::shown`].
    shown: usize,
    /// Where the directories among them are.
    shown_dirs: BTreeMap<Fid, (NodeId, Name)>,
    /// The roots of submounts that were announced to the guest's kernel.
    announced: BTreeSet<NodeId>,
    lookout: Option<Lookout>,
}

/// What the guest was told about one entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Told {
    /// The node that its dentry cache holds; `None` for a phantom, which nobody keeps.
    current: Option<NodeId>,
    /// The nodes of the tree that it was told of and that no event has taken from this name since,
    /// oldest first. More than one when the guest looked the name up again before it heard of the
    /// change in between.
    nodes: Vec<NodeId>,
    /// What came to this name and is none of the nodes.
    shown: Option<Shown>,
}

/// An object that the guest's programs were told of and its kernel does not hold under that name: it
/// had gone from there when its CREATE or MOVED_TO was replayed, or the kernel gave it up since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shown {
    /// The object, when the watcher could tell.
    pub(super) object: Option<Fid>,
    /// Its type.
    pub(super) kind: FileKind,
}

/// Looks out for changes of what the guest was told about the names of one directory.
#[derive(Debug)]
struct Lookout {
    dir: NodeId,
    after: Option<Name>,
    first: Option<Name>,
}

impl Shown {
    /// Whether a listed entry is this object, as far as can be told.
    pub(super) fn is(&self, listed: &Listed) -> bool {
        match (&self.object, &listed.object) {
            (Some(shown), Some(listed)) => shown == listed,
            (None, _) | (_, None) => {
                let directory = FileKind::Directory;
                self.kind == listed.kind
                    || (self.kind == FileKind::Unknown && listed.kind != directory)
            }
        }
    }
}

impl Told {
    fn is_nothing(&self) -> bool {
        self.nodes.is_empty() && self.current.is_none() && self.shown.is_none()
    }
}

impl Tree {
    /// The most names for which an object that the guest does not hold is remembered. Past it the
    /// deletion of one more is not told when its own event is among those that are given up.
    const SHOWN_MAX: usize = 1 << 16;

    /// Empties the tree for a new session: the root alone is known. Nodeids may be given out again,
    /// so every node but the root has the new `generation`.
    pub fn reset(&mut self, generation: Generation, root: Option<Fid>) {
        *self = Self { generation, ..Self::default() };
        let kind = FileKind::Directory;
        self.insert(Learned { id: NodeId::ROOT, fid: root, kind, ino: 0 });
    }

    /// True from the reply that names the node to its last FORGET.
    pub fn knows(&self, id: NodeId) -> bool {
        self.store.get(id).is_some()
    }

    /// How many nodes the guest knows.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// How many of them are directories.
    pub fn directories_len(&self) -> usize {
        self.store.directories_len()
    }

    /// True before the first session.
    pub fn is_empty(&self) -> bool {
        self.store.len() == 0
    }

    /// The node with its generation.
    pub fn node(&self, id: NodeId) -> Node {
        let is_root = id == NodeId::ROOT || self.is_announced(id);
        Node { id, generation: if is_root { Node::ROOT.generation } else { self.generation } }
    }

    /// The generation that every `fuse_entry_out` of this session carries, but those of announced submounts.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The type of a known node.
    pub fn kind(&self, id: NodeId) -> Option<FileKind> {
        self.store.get(id).map(|node| node.kind)
    }

    /// The file handle of a known node.
    pub fn fid(&self, id: NodeId) -> Option<Fid> {
        self.store.fid(id)
    }

    /// The nodes that one host object has: more than one when the share reaches it through two
    /// mounts, none when the guest does not know it.
    pub fn nodes_of(&self, fid: &Fid) -> &[NodeId] {
        self.store.nodes_of(fid)
    }

    /// The node of an object of that type. inotify names no object, so what is taken for it may be
    /// what has its name by now, which can be of another type: it has no node.
    pub fn node_of(&self, fid: &Fid, kind: FileKind) -> Option<NodeId> {
        self.nodes_of(fid).first().copied().filter(|id| self.is_of(*id, kind))
    }

    /// Whether a known node is of that type; any that is no directory may be of an unknown one.
    pub fn is_of(&self, id: NodeId, kind: FileKind) -> bool {
        self.kind(id).is_some_and(|found| {
            found == kind || (kind == FileKind::Unknown && found != FileKind::Directory)
        })
    }

    /// The known directories, in no order.
    pub(super) fn directories(&self) -> impl Iterator<Item = NodeId> {
        self.store.iter().filter(|node| node.kind == FileKind::Directory).map(|node| node.id())
    }

    /// A directory in which the guest was told of the node: its answer to LOOKUP "..".
    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.entry(id).map(|(dir, _)| dir)
    }

    /// The inode number by which the guest knows the node.
    pub fn ino(&self, id: NodeId) -> Option<u64> {
        self.store.get(id).map(|node| node.ino)
    }

    /// The entry under which the guest was told of the node last, unless that was taken from it.
    pub fn entry(&self, id: NodeId) -> Option<(NodeId, &Name)> {
        self.store.names(id).next_back()
    }

    /// The directories in which the node has a name for the guest, as often as it has.
    pub(super) fn named_in(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.store.names(id).map(|(dir, _)| dir)
    }

    /// What the guest's dentry cache holds for an entry: the node it was told last.
    pub fn current(&self, dir: NodeId, name: &Name) -> Option<NodeId> {
        self.store.told(dir, name)?.current
    }

    /// The nodes that the guest was told of under this name and that no event has taken from it,
    /// oldest first.
    pub fn told(&self, dir: NodeId, name: &Name) -> &[NodeId] {
        self.store.told(dir, name).map_or(&[], |told| told.nodes)
    }

    /// The entries of a directory that the guest believes to be there, from the name behind `after`
    /// on: the nodes that it was told of, and what it was shown without holding it.
    pub(super) fn told_after(
        &self,
        dir: NodeId,
        after: Option<&Name>,
    ) -> impl Iterator<Item = (&Name, &[NodeId], Option<&Shown>)> {
        self.store.told_after(dir, after).filter_map(|(name, told)| {
            let there = !told.nodes.is_empty() || told.shown.is_some();
            there.then_some((name, told.nodes, told.shown))
        })
    }

    /// Looks out, from now on, for the first name behind `after` in `dir` of which something else
    /// is told.
    pub(super) fn look_out(&mut self, dir: NodeId, after: Option<Name>) {
        self.lookout = Some(Lookout { dir, after, first: None });
    }

    /// Ends what [`Tree::look_out`] began, and says what it has seen.
    pub(super) fn seen(&mut self) -> Option<Name> {
        self.lookout.take()?.first
    }

    /// Something else is told of a name, or will be: an event about it is on its way.
    pub(super) fn touch(&mut self, dir: NodeId, name: &Name) {
        if let Some(lookout) = &mut self.lookout
            && lookout.dir == dir
            && lookout.after.as_ref().is_none_or(|after| name > after)
            && lookout.first.as_ref().is_none_or(|first| name < first)
        {
            lookout.first = Some(name.clone());
        }
    }

    /// Under how many names the guest was told of the node and has not been told otherwise.
    pub fn names_len(&self, id: NodeId) -> u32 {
        u32::try_from(self.store.names_len(id)).unwrap_or(u32::MAX)
    }

    /// The guest's kernel is given a link count for what is no directory; the host has `links`.
    pub(super) fn give_links(&mut self, id: NodeId, given: u32, links: u32) {
        if let Some(node) = self.store.get_mut(id) {
            node.set_links(given, given > links);
        }
    }

    /// The guest's kernel lets it end if the host has no links to it, for which it asks.
    pub(super) fn may_end(&mut self, id: NodeId) {
        if let Some(node) = self.store.get_mut(id) {
            node.set(Flags::MAY_END, true);
        }
    }

    /// The guest's kernel is given the host's link count. Without links it lets the node end, if it has been told to.
    pub(super) fn links_seen(&mut self, id: NodeId, links: u32) {
        let node = self.store.get_mut(id).filter(|_| links == 0);
        if let Some(node) = node.filter(|node| node.is(Flags::MAY_END)) {
            node.set(Flags::MAY_END, false);
            self.lost_all_names(id);
        }
    }

    /// The link count that the guest's kernel was last given for what is no directory.
    pub(super) fn links_given(&self, id: NodeId) -> Option<u32> {
        self.store.get(id)?.links()
    }

    /// Whether the guest's kernel was last given a higher link count than the host's.
    pub(super) fn has_more_links(&self, id: NodeId) -> bool {
        self.store.get(id).is_some_and(|node| node.is(Flags::MORE_LINKS))
    }

    /// Whether the node has a name other than this one.
    pub fn has_other_name(&self, id: NodeId, dir: NodeId, name: &Name) -> bool {
        self.store.names(id).any(|other| other != (dir, name))
    }

    /// A reply with the file server's own entry goes out: one more reference of the guest's, and one
    /// of ours. Returns whether the node is new to the tree.
    pub fn learn(&mut self, learned: Learned, dir: NodeId, name: &Name) -> bool {
        let id = learned.id;
        let new = !self.knows(id);
        if new {
            self.insert(learned);
        }
        if let Some(node) = self.store.get_mut(id) {
            node.nlookup = node.nlookup.saturating_add(1);
            node.borrowed = node.borrowed.saturating_add(1);
        }
        self.tell(dir, name, id);
        new
    }

    /// A replay's reply names a known node without having asked the file server for it. `false`, and
    /// nothing is counted, when the guest has forgotten the node meanwhile.
    pub fn lend(&mut self, id: NodeId, dir: NodeId, name: &Name) -> bool {
        let lent = self.lend_dot(id);
        if lent {
            self.tell_current(dir, name, Some(id));
        }
        lent
    }

    /// A reply names a known node by `.` or `..`. `false` when the guest has forgotten it.
    pub fn lend_dot(&mut self, id: NodeId) -> bool {
        let Some(node) = self.store.get_mut(id) else { return false };
        node.nlookup = node.nlookup.saturating_add(1);
        true
    }

    /// The guest was told that `name` leads to `id`, a node of the tree.
    fn tell(&mut self, dir: NodeId, name: &Name, id: NodeId) {
        let known = self.store.told(dir, name);
        if known.is_some_and(|told| {
            told.nodes == [id] && told.current == Some(id) && told.shown.is_none()
        }) {
            return;
        }
        let changed = self.store.change(dir, name, |told| {
            told.current = Some(id);
            let is_new = !told.nodes.contains(&id);
            if is_new {
                told.nodes.push(id);
            }
            (told.shown.take(), is_new)
        });
        let Some((shown, is_new)) = changed else { return };
        self.not_shown(dir, name, shown);
        if is_new {
            self.touch(dir, name);
        }
    }

    /// An object is at a name, to those who watch. If a reply makes it known there, [`Tree::learn`]
    /// takes this back.
    pub(super) fn show(&mut self, dir: NodeId, name: &Name, shown: Shown) {
        if !self.knows(dir) {
            return;
        }
        let known = self.store.told(dir, name).is_some_and(|told| told.shown.is_some());
        if !known && self.shown >= Self::SHOWN_MAX {
            return;
        }
        let before = self.store.change(dir, name, |told| told.shown.replace(shown.clone()));
        self.not_shown(dir, name, before.flatten());
        self.shown += 1;
        if let Shown { object: Some(fid), kind: FileKind::Directory } = shown {
            self.shown_dirs.insert(fid, (dir, name.clone()));
        }
    }

    /// What was shown at a name is so no more.
    fn not_shown(&mut self, dir: NodeId, name: &Name, shown: Option<Shown>) {
        let Some(shown) = shown else { return };
        self.shown -= 1;
        if let Some(fid) = &shown.object
            && self.shown_dirs.get(fid).is_some_and(|place| (place.0, &place.1) == (dir, name))
        {
            self.shown_dirs.remove(fid);
        }
    }

    /// Where a directory is that the guest's programs were told of and its kernel does not hold.
    pub(super) fn shown_at(&self, fid: &Fid) -> Option<&(NodeId, Name)> {
        self.shown_dirs.get(fid)
    }

    /// A replay's reply says what the dentry cache is to hold for an entry: a node of the tree, or
    /// `None` for a phantom or nothing.
    pub fn tell_current(&mut self, dir: NodeId, name: &Name, id: Option<NodeId>) {
        self.store.change(dir, name, |told| told.current = id);
    }

    /// The guest has replayed that `id`, or an object that it does not know, left this name. What it
    /// was told of the name's later holders stays.
    pub fn removed(&mut self, dir: NodeId, name: &Name, id: Option<NodeId>) {
        let shown = self.store.change(dir, name, |told| told.shown.take());
        self.not_shown(dir, name, shown.flatten());
        self.tell_current(dir, name, None);
        if let Some(id) = id {
            self.untell(dir, name, id);
        }
    }

    /// A replay has taken the name from `id`, which is gone, whatever else has it now.
    pub(super) fn ended(&mut self, dir: NodeId, name: &Name, id: NodeId) {
        let current = self.current(dir, name).filter(|current| *current != id);
        self.untell(dir, name, id);
        if current.is_some() {
            self.tell_current(dir, name, current);
        }
    }

    /// `id`, which is gone, has ended in the guest. Those who watch the directories of its names have heard of nothing.
    pub(super) fn lost_all_names(&mut self, id: NodeId) {
        let Some(kind) = self.kind(id) else { return };
        let shown = Shown { object: self.fid(id), kind };
        for (dir, name) in self.names(id) {
            self.ended(dir, &name, id);
            if self.told(dir, &name).is_empty() {
                self.show(dir, &name, shown.clone());
            }
        }
    }

    /// The guest removed the entry itself: nothing that it was told of the name holds any longer.
    pub fn cleared(&mut self, dir: NodeId, name: &Name) {
        for id in self.told(dir, name).to_vec() {
            self.removed(dir, name, Some(id));
        }
        self.removed(dir, name, None);
    }

    /// The guest renamed the entry itself, replacing what the target held.
    pub fn renamed(&mut self, from: (NodeId, &Name), to: (NodeId, &Name)) {
        let id = self.current(from.0, from.1);
        self.cleared(from.0, from.1);
        self.cleared(to.0, to.1);
        if let Some(id) = id.filter(|id| self.knows(*id)) {
            self.tell(to.0, to.1, id);
        }
    }

    /// The guest exchanged two entries itself (`RENAME_EXCHANGE`).
    pub fn exchanged(&mut self, one: (NodeId, &Name), two: (NodeId, &Name)) {
        let ids = [self.current(one.0, one.1), self.current(two.0, two.1)];
        self.cleared(one.0, one.1);
        self.cleared(two.0, two.1);
        for (id, (dir, name)) in ids.into_iter().zip([two, one]) {
            if let Some(id) = id.filter(|id| self.knows(*id)) {
                self.tell(dir, name, id);
            }
        }
    }

    /// The guest has replayed that `id` came to this name.
    pub fn arrived(&mut self, dir: NodeId, name: &Name, id: NodeId) {
        if self.knows(id) {
            self.tell(dir, name, id);
        }
    }

    /// The guest gives `count` references back. Returns the nodes that are gone with them.
    ///
    /// A directory stays while anything in it is known: a watched file is told of changes by its
    /// directory, and a guest short of memory gives that up while it keeps the file. It goes with
    /// the last of its known entries, and so may its own directory.
    pub fn forget(&mut self, id: NodeId, count: u64) -> Vec<Forgotten> {
        let Some(node) = self.store.get_mut(id) else { return Vec::new() };
        node.nlookup = node.nlookup.saturating_sub(count);
        let mut gone = Vec::new();
        let mut unreferenced = vec![id];
        unreferenced.append(&mut self.emptied);
        while let Some(id) = unreferenced.pop() {
            let Some(node) = self.store.get(id) else { continue };
            if id == NodeId::ROOT || node.nlookup > 0 || node.has_known_entries() {
                continue;
            }
            unreferenced.extend(self.store.names(id).map(|(dir, _)| dir));
            gone.extend(self.drop_node(id));
        }
        gone
    }

    fn drop_node(&mut self, id: NodeId) -> Option<Forgotten> {
        let (kind, fid) = (self.kind(id)?, self.fid(id));
        for (dir, name) in self.names(id) {
            // The kernel's memory was short; those who watch the directory have forgotten nothing.
            self.show(dir, &name, Shown { object: fid.clone(), kind });
            self.untell(dir, &name, id);
        }
        let (state, shown) = self.store.remove(id)?;
        self.announced.remove(&id);
        for (name, shown) in shown {
            self.not_shown(id, &name, Some(shown));
        }
        Some(Forgotten { id, fid, kind, borrowed: state.borrowed })
    }

    fn names(&self, id: NodeId) -> Vec<(NodeId, Name)> {
        self.store.names(id).map(|(dir, name)| (dir, name.clone())).collect()
    }

    fn untell(&mut self, dir: NodeId, name: &Name, id: NodeId) {
        if self.store.told(dir, name).is_none() {
            return;
        }
        self.store.change(dir, name, |told| {
            told.nodes.retain(|other| *other != id);
            told.current.take_if(|current| *current == id);
        });
        let is_empty = |parent: &State| parent.nlookup == 0 && !parent.has_known_entries();
        if dir != NodeId::ROOT && self.store.get(dir).is_some_and(is_empty) {
            self.emptied.push(dir);
        }
        self.touch(dir, name);
    }

    fn insert(&mut self, learned: Learned) {
        let Learned { id, fid, kind, ino } = learned;
        self.store.insert(id, kind, ino, fid);
    }
}
