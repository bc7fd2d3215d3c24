// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's view of the share, and how it changes: by replies that make a node known, by FORGET, by what
//! the guest's own programs do to names, and by what its agent replays.
//!
//! The daemon calls these before the reply goes out, while the guest's kernel holds the lock of the directory.
//! So the view changes in the order in which that kernel serialises the calls, and its watchers have been told
//! of each: a comparison with the host starts from there.

use super::super::contested::Reported;
use super::super::ledger::{Answer, Ending, MarkedRequest};
use super::super::tree::{Forgotten, Learned, Shown, Tree};
use super::{Engine, phantom};
use crate::{Fid, FileKind, Mask, Name, Node, NodeId, Seq};

/// What the guest has done to names of a directory, and what its kernel tells its watchers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnChange<'a> {
    /// An object came to a name: it was made, or linked.
    Made(NodeId, &'a Name, NodeId),
    /// A name has gone.
    Removed(NodeId, &'a Name),
    /// What was under the first name is under the second, and replaced what was there.
    Renamed((NodeId, &'a Name), (NodeId, &'a Name)),
    /// After a rename the host still has something under the old name. If both names were of one object, the host
    /// has done nothing (`rename(2)`), and the guest's kernel, which did not know that, has taken the name away.
    Kept(NodeId, &'a Name),
    /// Two have changed places (`RENAME_EXCHANGE`).
    Exchanged((NodeId, &'a Name), (NodeId, &'a Name)),
}

impl Engine {
    /// What the guest knows, to be read. Each change of it is a method here.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// A reply to LOOKUP, or to a request that makes an object, names a node: one more reference of the guest's.
    /// Returns whether the node is new to the tree.
    pub fn learn(&mut self, learned: Learned, dir: NodeId, name: &Name) -> bool {
        let id = learned.id;
        let new = self.tree.learn(learned, dir, name);
        self.contested.held(dir, name, &[id]);
        self.checked(new)
    }

    /// A reply to LOOKUP says that there is nothing under a name.
    pub fn learn_missing(&mut self, dir: NodeId, name: &Name) {
        self.tree.tell_current(dir, name, None);
        self.check_invariants();
    }

    /// A node that was learned just now is mounted on its name. What happens to the name is then about the
    /// object beneath.
    pub fn mounted(&mut self, id: NodeId) {
        self.tree.mounted(id);
    }

    /// The guest's kernel is told that a node, which is known, is mounted on its name.
    pub fn announced(&mut self, id: NodeId) {
        self.tree.announced(id);
    }

    /// A node that came with a migration has been found: how the host names its object, and the inode number.
    pub fn identify(&mut self, id: NodeId, fid: Fid, ino: u64) {
        self.tree.identify(id, fid, ino);
        self.check_invariants();
    }

    /// A replay has taken a name from `id`, of which the server has found that it is gone. The server, after the
    /// answer to the request.
    pub fn ended(&mut self, dir: NodeId, name: &Name, id: NodeId) {
        self.tree.ended(dir, name, id);
    }

    /// The nodes that the replay of notification `seq` may end at a name, oldest first: what the guest was told of
    /// there, of the type in question. The server, which looks whether they are gone.
    pub fn ending_nodes(&self, seq: Seq, dir: NodeId, name: &Name) -> Vec<NodeId> {
        // What comes to a name does not replace itself: the kernel does nothing then (`vfs_rename()`).
        let comes = match self.ledger.ending(seq, dir, name) {
            Some(Ending::Replaced) => self.ledger.known(seq, &self.tree),
            Some(Ending::Removed) => None,
            None => return Vec::new(),
        };
        let is_dir = self.kind_of(seq) == FileKind::Directory;
        let fits = |id: &NodeId| (self.tree.kind(*id) == Some(FileKind::Directory)) == is_dir;
        self.tree.held(dir, name).filter(fits).filter(|id| Some(*id) != comes).collect()
    }

    /// The link count that the guest's kernel is to be given for a node that has `links` on the host. Each removal that
    /// is yet to be replayed takes one from the count that it has. With too few it would end the watches on an
    /// object that lives, or those on one that is gone before the ATTRIB that comes first (`drop_nlink()`,
    /// `dentry_unlink_inode()`). So it is at least the number of names that the guest has.
    pub fn links_named(&mut self, id: NodeId, links: u32) -> u32 {
        self.give_links(id, links, 0)
    }

    /// The same for anybody but the agent: what a replay that may be under way takes is added, since the kernel can
    /// ask between the LOOKUP of that and the call itself.
    pub fn links_told(&mut self, id: NodeId, links: u32) -> u32 {
        let under_way = self.ledger.removals_of(id, &self.tree);
        self.give_links(id, links, under_way)
    }

    fn give_links(&mut self, id: NodeId, links: u32, under_way: u32) -> u32 {
        // A kernel that raises events itself asks for the count and takes nothing from it.
        if self.is_native() {
            self.tree.links_seen(id, links);
            return links;
        }
        if !self.is_listening() {
            return links;
        }
        let names = self.tree.names_len(id);
        if self.tree.kind(id) == Some(FileKind::Directory) {
            // It has one name and more links.
            return links.max(names.min(1));
        }
        let given = links.saturating_add(under_way).max(names);
        self.tree.give_links(id, given, links);
        given
    }

    /// The guest gives `count` references on a node back (FORGET). Returns the nodes that are gone with them.
    pub fn forget(&mut self, id: NodeId, count: u64) -> Vec<Forgotten> {
        let gone = self.tree.forget(id, count);
        if let Some(interest) = &mut self.interest {
            gone.iter().for_each(|node| interest.set(node.id, 0));
        }
        self.checked(gone)
    }

    /// The reply to a replayed request names a known node without the file server's having been asked. `false`,
    /// and nothing is counted, when the guest has forgotten the node in the meantime.
    pub fn lend(&mut self, id: NodeId, dir: NodeId, name: &Name) -> bool {
        let lent = self.tree.lend(id, dir, name);
        self.checked(lent)
    }

    /// A reply names a known node by `.` or `..`. `false` when the guest has forgotten it.
    pub fn lend_dot(&mut self, id: NodeId) -> bool {
        self.tree.lend_dot(id)
    }

    /// The reply to a replayed request names a phantom of a type under a name. Its nodeid is never given out
    /// twice within any guest's memory.
    pub fn phantom(&mut self, dir: NodeId, name: &Name, kind: FileKind) -> Node {
        self.tree.tell_current(dir, name, None);
        let generation = self.tree.generation();
        Node { id: phantom(&mut self.phantoms, kind), generation }
    }

    /// The guest has changed names itself: the call has succeeded on the host, and the guest's kernel still
    /// holds the lock of the directories.
    pub fn guest_changed(&mut self, change: OwnChange<'_>) {
        match change {
            OwnChange::Made(dir, name, id) => {
                let held = self.held(dir, name);
                self.own((dir, name), Some(id), &held);
            }
            OwnChange::Removed(dir, name) => {
                let held = self.held(dir, name);
                self.tree.cleared(dir, name);
                self.own((dir, name), None, &held);
            }
            OwnChange::Renamed(from, to) => {
                let id = self.tree.current(from.0, from.1);
                let held = [from, to].map(|(dir, name)| self.held(dir, name));
                self.tree.renamed(from, to);
                self.own(from, None, &held[0]);
                self.own_arrival(to, id, &held.concat());
            }
            OwnChange::Kept(dir, name) => self.doubt(dir, name),
            OwnChange::Exchanged(one, two) => {
                let ids = [one, two].map(|(dir, name)| self.tree.current(dir, name));
                let held = [one, two].map(|(dir, name)| self.held(dir, name)).concat();
                self.tree.exchanged(one, two);
                self.own_arrival(two, ids[0], &held);
                self.own_arrival(one, ids[1], &held);
            }
        }
        self.check_invariants();
    }

    /// The nodes that the guest was told of under a name. Nobody needs them while no agent listens.
    fn held(&self, dir: NodeId, name: &Name) -> Vec<NodeId> {
        if self.is_listening() { self.tree.told(dir, name).to_vec() } else { Vec::new() }
    }

    fn own_arrival(&mut self, (dir, name): (NodeId, &Name), id: Option<NodeId>, held: &[NodeId]) {
        match id {
            Some(id) => self.own((dir, name), Some(id), held),
            // The server does not know what the guest has moved.
            None => {
                self.doubt(dir, name);
                self.contested.held(dir, name, held);
            }
        }
    }

    /// `held` are the nodes that the guest was told of under the name before.
    fn own(&mut self, (dir, name): (NodeId, &Name), id: Option<NodeId>, held: &[NodeId]) {
        if !self.is_listening() {
            return;
        }
        let shown =
            |id| Shown { object: self.tree.fid(id), kind: self.tree.kind(id).unwrap_or_default() };
        self.nets.polls.own(dir, name, id.map(shown));
        let reported = match id {
            _ if self.is_order_unknown(dir, name) => Reported::Unknown,
            Some(id) => Reported::Present(shown(id)),
            None => Reported::Absent,
        };
        if self.contested.guest_changed(dir, name, reported) {
            self.contested.held(dir, name, held);
        } else {
            self.nets.gave_up(dir, Mask::empty(), &self.tree);
        }
    }

    /// The guest's kernel raises the event of a call when it has this answer.
    pub(super) fn replayed(&mut self, seq: Seq, request: MarkedRequest<'_>, answer: &Answer) {
        if self.contested.is_empty() || !matches!(answer, Answer::Entry(_) | Answer::Done) {
            return;
        }
        let ledger = &self.ledger;
        let present =
            |kind| Reported::Present(Shown { object: ledger.object_of(seq).cloned(), kind });
        let kind = || ledger.kind_of(seq).unwrap_or_default();
        let contested = &mut self.contested;
        match request {
            MarkedRequest::Create(dir, name, kind) => {
                contested.replayed(dir, name, || present(kind));
            }
            MarkedRequest::CreateOpen(dir, name) | MarkedRequest::Link(_, dir, name) => {
                contested.replayed(dir, name, || present(kind()));
            }
            MarkedRequest::Remove(dir, name, _) => {
                contested.left(dir, name, None);
            }
            MarkedRequest::Rename(from, old, to, new) => {
                contested.left(from, old, ledger.stays(seq));
                contested.replayed(to, new, || present(kind()));
            }
            MarkedRequest::Lookup(..)
            | MarkedRequest::SetTimes(..)
            | MarkedRequest::Open(..)
            | MarkedRequest::Read(_) => {}
        }
    }
}
