// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Ledger`]: the replays that this daemon has handed out, and what an agent's requests may do.
//!
//! An agent replays a notification by the system call that would cause the event, and the kernel
//! turns that into FUSE requests with the agent's marks. Each is answered from the record of that
//! very notification, from what is already true on the host: the answer never changes anything
//! there, and a request that no record asks for gets EPERM. `docs/PROTOCOL.md` has the table.

mod invariants;
mod opened;

use std::collections::VecDeque;

use super::backlog::{Backlog, Moves, Pending, UnderWay, exchanged};
use super::tree::{Shown, Tree};
use crate::{Entry, Fid, FileKind, GuestEvent, Mask, Name, NodeId, Seq};
use opened::Opened;
pub use opened::Opening;

/// A request that carries an agent's marks and would change something if it were executed, or a
/// LOOKUP. What the caller cannot express in this type gets EPERM without asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkedRequest<'a> {
    /// LOOKUP
    Lookup(NodeId, &'a Name),
    /// MKNOD, MKDIR or SYMLINK, with the type that it would make.
    Create(NodeId, &'a Name, FileKind),
    /// LINK of a node to a new entry.
    Link(NodeId, NodeId, &'a Name),
    /// UNLINK, or RMDIR when true.
    Remove(NodeId, &'a Name, bool),
    /// RENAME, RENAME2 without flags: old entry, new entry.
    Rename(NodeId, &'a Name, NodeId, &'a Name),
    /// SETATTR of times alone: the mtime (MODIFY), or both (ATTRIB).
    SetTimes(NodeId, Mask),
    /// OPEN or OPENDIR, or a read of what was opened so.
    Open(NodeId, Opening),
}

/// An error that the guest's kernel gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// EPERM: no record asks for this.
    NotAsked,
    /// ENOENT: at this point of the replay the entry is not there (yet, or any more).
    NoEntry,
    /// ESTALE: the guest's dentry stands for another object than the one that the change was about.
    /// The kernel looks the name up again and repeats the call (`retry_estale()`).
    Stale,
}

/// The object that an answer names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Object {
    /// A node that the guest knows. `links` is what to add to its `st_nlink` to have the count of
    /// the moment that is being replayed.
    Known {
        /// The node.
        id: NodeId,
        /// Names lost since, less names won.
        links: i64,
        /// The entry may still lead to it: then the answer is the file server's own.
        here: bool,
    },
    /// The object is not known to the guest, but the entry may still lead to it: then the answer may
    /// make it known. If it does not, a phantom of this type.
    Adopt(FileKind),
    /// An object that is not there any more, or that nobody needs to know: a stand-in of this type
    /// that lasts no longer than the call.
    Phantom(FileKind),
    /// The limbo directory.
    Limbo,
}

/// What to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An error.
    Refused(Refusal),
    /// `fuse_entry_out` of the object.
    Entry(Object),
    /// `fuse_attr_out` of the object.
    Attr(Object),
    /// Success, and a file handle that reads and writes nothing.
    Opened,
    /// Success without a body, or for a read with one that says nothing.
    Done,
}

/// What a replay that is still to come will do to a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The object comes to it.
    Arrives,
    /// The object comes to it and replaces what was there.
    Replaces,
    /// The object leaves it.
    Leaves,
}

const EPERM: Answer = Answer::Refused(Refusal::NotAsked);
const ENOENT: Answer = Answer::Refused(Refusal::NoEntry);
const ESTALE: Answer = Answer::Refused(Refusal::Stale);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: VecDeque<Record>,
    /// Entries of which a replay came or went unfinished: watchers were not told, or it is not known what.
    unfinished: Vec<(NodeId, Name)>,
}

#[derive(Debug)]
struct Record {
    seq: Seq,
    pending: Pending,
    /// The bits that have not been replayed.
    todo: Mask,
    /// What has been opened and read.
    opened: Opened,
    /// The second message of a rename: of use only when its mate got lost.
    second: bool,
    /// The guest has once been told to look again: it is not told twice.
    stale_told: bool,
    /// The guest has looked the entry up for this record.
    looked_up: bool,
}

impl Ledger {
    /// The most records that are kept: more than any client has buffers.
    pub(super) const LEN_MAX: usize = 4096;
    /// How long after its turn the record of a rename is kept, in notifications, since its halves
    /// may have to wait for each other.
    const HALF_KEPT_MAX: u32 = 1024;

    /// A notification goes out as number `seq`. `second` is true for the second message of a rename.
    pub(super) fn hand_out(
        &mut self,
        seq: Seq,
        pending: Pending,
        second: bool,
        backlog: &mut Backlog,
    ) {
        if self.records.len() >= Self::LEN_MAX
            && let Some(oldest) = self.records.pop_front()
        {
            self.retire(&oldest, 0, backlog);
        }
        let todo = match &pending.event {
            GuestEvent::Entry { mask, .. } | GuestEvent::Object { mask, .. } => *mask,
            GuestEvent::Rename { .. } if second => Mask::MOVED_TO,
            GuestEvent::Rename { .. } => Mask::MOVE,
            GuestEvent::Overflow => return,
        };
        let todo = todo.difference(Mask::ISDIR);
        self.records.push_back(Record {
            seq,
            pending,
            todo,
            opened: Opened::default(),
            second,
            stale_told: false,
            looked_up: false,
        });
    }

    /// As [`Backlog::exchanged`], for what has been handed out.
    pub(super) fn exchanged(&mut self, from: (NodeId, &Name), moves: &Moves<'_>) -> Option<Fid> {
        let latest = self.records.iter_mut().rev().take(Backlog::EXCHANGE_MAX);
        exchanged(latest.map(|record| &mut record.pending), from, moves)
    }

    /// If notification `seq` is the second rename of an exchange: what stays at the old name.
    pub(super) fn stays(&self, seq: Seq) -> Option<&Fid> {
        self.records.iter().find(|record| record.seq == seq)?.pending.stays.as_ref()
    }

    /// Drops every record: the agent is gone, and nothing that it may still ask for is answered.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.unfinished.clear();
    }

    /// The last of the notifications that were handed out and whose change of a name has not been replayed.
    pub(super) fn last_unfinished(&self) -> Option<Seq> {
        let names = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVE);
        let waits = |record: &&Record| !record.second && record.todo.intersects(names);
        self.records.iter().rev().find(waits).map(|record| record.seq)
    }

    /// The agent has carried out, or tried to, all that was handed out before the probe of this node.
    pub(super) fn probed(&mut self, node: NodeId, backlog: &mut Backlog) {
        let is_probe = |record: &Record| matches!(&record.pending.event, GuestEvent::Object { node: probe, .. } if probe.id == node);
        for _ in 0..self.records.iter().position(is_probe).unwrap_or_default() {
            if let Some(record) = self.records.pop_front() {
                self.retire(&record, 0, backlog);
            }
        }
    }

    /// Takes the entries of which a replay was not finished.
    pub(super) fn take_unfinished(&mut self) -> Vec<(NodeId, Name)> {
        std::mem::take(&mut self.unfinished)
    }

    /// The object that notification `seq` is about, as the host names it.
    pub(super) fn object_of(&self, seq: Seq) -> Option<&Fid> {
        self.records.iter().find(|record| record.seq == seq)?.pending.object.as_ref()
    }

    /// The type of the object that notification `seq` is about.
    pub(super) fn kind_of(&self, seq: Seq) -> Option<FileKind> {
        match self.records.iter().find(|record| record.seq == seq)?.pending.event {
            GuestEvent::Entry { kind, .. } | GuestEvent::Rename { kind, .. } => Some(kind),
            GuestEvent::Object { .. } | GuestEvent::Overflow => None,
        }
    }

    /// What the replays that are still to come will do to the names of a directory, in order. `step`
    /// is called with the name, the object and its type.
    pub(super) fn outstanding<'a>(
        &'a self,
        dir: NodeId,
        mut step: impl FnMut(&'a Name, Step, Option<&'a Fid>, FileKind),
    ) {
        // The second message of a rename says what the first has said.
        for record in self.records.iter().filter(|record| !record.second) {
            let object = record.pending.object.as_ref();
            let (from, to, kind) = match &record.pending.event {
                GuestEvent::Entry { entry, kind, .. } => (entry, entry, *kind),
                GuestEvent::Rename { from, to, kind, .. } => (from, to, *kind),
                GuestEvent::Object { .. } | GuestEvent::Overflow => continue,
            };
            for (bit, entry, does) in [
                (Mask::CREATE, to, Step::Arrives),
                (Mask::DELETE, from, Step::Leaves),
                (Mask::MOVED_FROM, from, Step::Leaves),
                (Mask::MOVED_TO, to, Step::Replaces),
            ] {
                if record.todo.contains(bit) && entry.dir.id == dir {
                    step(&entry.name, does, object, kind);
                }
            }
        }
    }

    /// Answers one request that belongs to notification `seq`. An agent works in order, so the
    /// records of earlier notifications are done with.
    pub(super) fn answer(
        &mut self,
        seq: Seq,
        request: MarkedRequest<'_>,
        tree: &mut Tree,
        backlog: &mut Backlog,
    ) -> Answer {
        // First: a number that was never handed out says nothing about the others.
        if !self.records.iter().any(|record| record.seq == seq) {
            return EPERM;
        }
        self.retire_before(seq, backlog);
        let Some(record) = self.records.iter_mut().find(|record| record.seq == seq) else {
            return EPERM;
        };
        match &record.pending.event {
            GuestEvent::Entry { .. } => record.answer_entry(request, tree, backlog),
            GuestEvent::Object { .. } => record.answer_object(request),
            GuestEvent::Rename { .. } => record.answer_rename(request, tree, backlog),
            GuestEvent::Overflow => EPERM,
        }
    }

    /// Those behind the last that is before `seq` are not looked at: records are in order.
    fn retire_before(&mut self, seq: Seq, backlog: &mut Backlog) {
        let half = Seq::MAX.get() / 2;
        let mut at = 0;
        while let Some(record) = self.records.get(at) {
            let age = seq.since(record.seq);
            if age == 0 || age >= half {
                break;
            }
            if record.todo.intersects(Mask::MOVE) && age <= Self::HALF_KEPT_MAX {
                at += 1;
            } else if let Some(record) = self.records.remove(at) {
                self.retire(&record, at, backlog);
            }
        }
    }

    /// `at` is where the record was.
    fn retire(&mut self, record: &Record, at: usize, backlog: &mut Backlog) {
        let next = self.records.get(at).filter(|next| next.seq == record.seq.next());
        self.unfinished.extend(record.left(next));
        record.settle(backlog);
    }
}

impl Record {
    /// The entries whose name a replay was to change and did not. `mate` is the record of the next
    /// notification, which is the other half if this is a rename.
    fn left(&self, mate: Option<&Self>) -> Vec<(NodeId, Name)> {
        let names = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVE);
        if self.second || !self.todo.intersects(names) {
            return Vec::new();
        }
        let at = |entry: &Entry| (entry.dir.id, entry.name.clone());
        match &self.pending.event {
            GuestEvent::Entry { entry, .. } => vec![at(entry)],
            GuestEvent::Rename { to, .. } if self.todo == Mask::MOVED_TO => {
                // It was moved out, and in again by the number of its second half.
                let done = mate.is_some_and(|mate| mate.second && mate.todo.is_empty());
                if done { Vec::new() } else { vec![at(to)] }
            }
            GuestEvent::Rename { from, to, .. } => vec![at(from), at(to)],
            GuestEvent::Object { .. } | GuestEvent::Overflow => Vec::new(),
        }
    }

    fn settle(&self, backlog: &mut Backlog) {
        if !self.second {
            backlog.settled(&self.pending);
        }
    }

    /// The node by which the guest knows the object, if it does now.
    fn known(&self, tree: &Tree) -> Option<NodeId> {
        let (GuestEvent::Entry { child, kind, entry, .. }
        | GuestEvent::Rename { child, kind, from: entry, .. }) = &self.pending.event
        else {
            return None;
        };
        match &self.pending.object {
            Some(fid) => tree.node_at(fid, *kind, entry.dir.id, &entry.name),
            None => child.map(|child| child.id).filter(|id| tree.knows(*id)),
        }
    }

    /// Names that the object has lost since this moment, less those it has won, in the place where it
    /// is told.
    fn links_since(&self, tree: &Tree, backlog: &Backlog) -> i64 {
        let Some(fid) = &self.pending.object else { return 0 };
        let (GuestEvent::Entry { entry, .. } | GuestEvent::Rename { from: entry, .. }) =
            &self.pending.event
        else {
            return 0;
        };
        let under_way = under_way(fid, entry.dir.id, tree, backlog);
        // What this notification has brought is counted until it is done with.
        let linked = matches!(self.pending.event, GuestEvent::Entry { link: true, .. })
            && !self.todo.contains(Mask::CREATE);
        i64::from(under_way.removals) - i64::from(under_way.links) + i64::from(linked)
    }

    fn answer_entry(
        &mut self,
        request: MarkedRequest<'_>,
        tree: &mut Tree,
        backlog: &Backlog,
    ) -> Answer {
        let GuestEvent::Entry { entry, kind, link, .. } = self.pending.event.clone() else {
            return EPERM;
        };
        if self.todo.intersects(Mask::MOVE) {
            return self.answer_half(&entry, kind, request, tree, backlog);
        }
        let is = |dir: NodeId, name: &Name| entry.dir.id == dir && entry.name == *name;
        let known = self.known(tree);
        match request {
            MarkedRequest::Lookup(dir, name) if is(dir, name) => {
                if self.todo.contains(Mask::CREATE) {
                    tree.tell_current(dir, name, None);
                    return ENOENT;
                }
                self.looked_up = true;
                Answer::Entry(self.object(known, kind, tree, backlog))
            }
            MarkedRequest::Create(dir, name, made)
                if is(dir, name) && self.todo.contains(Mask::CREATE) =>
            {
                if (made == FileKind::Directory) != (kind == FileKind::Directory) {
                    return EPERM;
                }
                self.todo.remove(Mask::CREATE);
                let known = known.filter(|id| tree.kind(*id) == Some(made));
                tree.show(dir, name, self.shown(made));
                Answer::Entry(self.object(known, made, tree, backlog))
            }
            MarkedRequest::Link(node, dir, name)
                if is(dir, name)
                    && link
                    && known == Some(node)
                    && self.todo.contains(Mask::CREATE) =>
            {
                self.todo.remove(Mask::CREATE);
                tree.show(dir, name, self.shown(kind));
                Answer::Entry(self.object(Some(node), kind, tree, backlog))
            }
            MarkedRequest::Remove(dir, name, directory)
                if is(dir, name)
                    && self.todo.contains(Mask::DELETE)
                    && directory == (kind == FileKind::Directory) =>
            {
                if self.wrong_dentry(dir, name, known, tree) {
                    return ESTALE;
                }
                self.todo.remove(Mask::DELETE);
                tree.removed(dir, name, known);
                Answer::Done
            }
            MarkedRequest::SetTimes(node, event) if concerns(node, known, &entry, tree) => {
                let other = self.holds_another(node, known, kind, tree);
                self.change(event, other, Answer::Attr(by_node(node)))
            }
            MarkedRequest::Open(node, opening) if concerns(node, known, &entry, tree) => {
                let other = self.holds_another(node, known, kind, tree);
                if self.opened.grants(opening, self.todo) && other {
                    return ESTALE;
                }
                self.open(opening)
            }
            MarkedRequest::Lookup(..)
            | MarkedRequest::Create(..)
            | MarkedRequest::Link(..)
            | MarkedRequest::Remove(..)
            | MarkedRequest::Rename(..)
            | MarkedRequest::SetTimes(..)
            | MarkedRequest::Open(..) => EPERM,
        }
    }

    /// A change of content under a name, which may lead to an `other` object.
    fn change(&mut self, event: Mask, other: bool, answer: Answer) -> Answer {
        if !self.todo.contains(event) {
            return EPERM;
        }
        if other {
            return ESTALE;
        }
        self.todo.remove(event);
        answer
    }

    fn open(&mut self, opening: Opening) -> Answer {
        if !self.opened.grants(opening, self.todo) {
            return EPERM;
        }
        self.opened.grant(opening);
        if opening == Opening::Access { Answer::Done } else { Answer::Opened }
    }

    fn answer_object(&mut self, request: MarkedRequest<'_>) -> Answer {
        let GuestEvent::Object { node, .. } = self.pending.event else { return EPERM };
        match request {
            MarkedRequest::SetTimes(id, event) if id == node.id && self.todo.contains(event) => {
                self.todo.remove(event);
                Answer::Attr(Object::Known { id, links: 0, here: false })
            }
            MarkedRequest::Open(id, opening) if id == node.id => self.open(opening),
            MarkedRequest::SetTimes(..)
            | MarkedRequest::Lookup(..)
            | MarkedRequest::Create(..)
            | MarkedRequest::Link(..)
            | MarkedRequest::Remove(..)
            | MarkedRequest::Rename(..)
            | MarkedRequest::Open(..) => EPERM,
        }
    }

    fn answer_rename(
        &mut self,
        request: MarkedRequest<'_>,
        tree: &mut Tree,
        backlog: &Backlog,
    ) -> Answer {
        let GuestEvent::Rename { from, to, kind, .. } = self.pending.event.clone() else {
            return EPERM;
        };
        let known = self.known(tree);
        let is =
            |entry: &Entry, dir: NodeId, name: &Name| entry.dir.id == dir && entry.name == *name;
        match request {
            MarkedRequest::Lookup(dir, name) if is(&from, dir, name) => {
                if self.second {
                    EPERM
                } else {
                    Answer::Entry(self.mover(known, kind, tree, backlog))
                }
            }
            MarkedRequest::Lookup(dir, name) if is(&to, dir, name) => {
                self.lookup_target(&to, known, tree, backlog)
            }
            MarkedRequest::Lookup(NodeId::LIMBO, _) if self.second => {
                Answer::Entry(self.mover(known, kind, tree, backlog))
            }
            MarkedRequest::Lookup(NodeId::LIMBO, _) => ENOENT,
            MarkedRequest::Rename(dir, name, NodeId::LIMBO, _)
                if is(&from, dir, name) && self.todo.contains(Mask::MOVED_FROM) =>
            {
                self.move_out(&from, known, tree)
            }
            MarkedRequest::Rename(NodeId::LIMBO, _, dir, name)
                if is(&to, dir, name) && self.second && self.todo.contains(Mask::MOVED_TO) =>
            {
                self.move_in(&to, known, kind, tree, backlog)
            }
            MarkedRequest::Rename(dir, name, dir2, name2)
                if is(&from, dir, name) && is(&to, dir2, name2) && self.todo == Mask::MOVE =>
            {
                if self.wrong_dentry(dir, name, known, tree) {
                    return ESTALE;
                }
                let answer = self.move_in(&to, known, kind, tree, backlog);
                if answer == Answer::Done {
                    tree.removed(dir, name, known);
                    self.todo = Mask::empty();
                }
                answer
            }
            MarkedRequest::Lookup(..)
            | MarkedRequest::Create(..)
            | MarkedRequest::Link(..)
            | MarkedRequest::Remove(..)
            | MarkedRequest::Rename(..)
            | MarkedRequest::SetTimes(..)
            | MarkedRequest::Open(..) => EPERM,
        }
    }

    /// One side of a rename is out of the guest's view: replay moves the object into limbo, or out
    /// of it.
    fn answer_half(
        &mut self,
        entry: &Entry,
        kind: FileKind,
        request: MarkedRequest<'_>,
        tree: &mut Tree,
        backlog: &Backlog,
    ) -> Answer {
        let known = self.known(tree);
        let out = self.todo.contains(Mask::MOVED_FROM);
        let is = |dir: NodeId, name: &Name| entry.dir.id == dir && entry.name == *name;
        match request {
            MarkedRequest::Lookup(dir, name) if is(dir, name) => {
                if out {
                    Answer::Entry(self.mover(known, kind, tree, backlog))
                } else {
                    self.lookup_target(entry, known, tree, backlog)
                }
            }
            MarkedRequest::Lookup(NodeId::LIMBO, _) => {
                if out {
                    ENOENT
                } else {
                    Answer::Entry(self.mover(known, kind, tree, backlog))
                }
            }
            MarkedRequest::Rename(dir, name, NodeId::LIMBO, _) if out && is(dir, name) => {
                self.move_out(entry, known, tree)
            }
            MarkedRequest::Rename(NodeId::LIMBO, _, dir, name) if !out && is(dir, name) => {
                self.move_in(entry, known, kind, tree, backlog)
            }
            MarkedRequest::Lookup(..)
            | MarkedRequest::Create(..)
            | MarkedRequest::Link(..)
            | MarkedRequest::Remove(..)
            | MarkedRequest::Rename(..)
            | MarkedRequest::SetTimes(..)
            | MarkedRequest::Open(..) => EPERM,
        }
    }

    fn move_out(&mut self, from: &Entry, known: Option<NodeId>, tree: &mut Tree) -> Answer {
        if self.wrong_dentry(from.dir.id, &from.name, known, tree) {
            return ESTALE;
        }
        self.todo.remove(Mask::MOVED_FROM);
        tree.removed(from.dir.id, &from.name, known);
        Answer::Done
    }

    fn move_in(
        &mut self,
        to: &Entry,
        known: Option<NodeId>,
        kind: FileKind,
        tree: &mut Tree,
        backlog: &Backlog,
    ) -> Answer {
        let (dir, name) = (to.dir.id, &to.name);
        let replaced = self.replaced(to, known, tree, backlog);
        let current = tree.current(dir, name);
        if current.is_some() && current != replaced && !self.stale_told {
            self.stale_told = true;
            return ESTALE;
        }
        self.todo.remove(Mask::MOVED_TO);
        tree.removed(dir, name, replaced);
        match known {
            Some(id) => tree.arrived(dir, name, id),
            None => tree.show(dir, name, self.shown(kind)),
        }
        Answer::Done
    }

    /// What the guest's programs are shown, until the reply makes the object known to its kernel.
    fn shown(&self, kind: FileKind) -> Shown {
        Shown { object: self.pending.object.clone(), kind }
    }

    /// The target of a rename: what the move replaced, as far as the guest knew it.
    fn lookup_target(
        &self,
        to: &Entry,
        known: Option<NodeId>,
        tree: &mut Tree,
        backlog: &Backlog,
    ) -> Answer {
        match self.replaced(to, known, tree, backlog) {
            Some(id) => {
                let removals =
                    tree.fid(id).map_or(0, |fid| under_way(fid, to.dir.id, tree, backlog).removals);
                Answer::Entry(Object::Known { id, links: 1 + i64::from(removals), here: false })
            }
            None => {
                tree.tell_current(to.dir.id, &to.name, None);
                ENOENT
            }
        }
    }

    /// The node that held the target's name when the host did the rename. A node whose own arrival
    /// is still under way came later: the guest has looked ahead of the events. One that is moved away
    /// next is not replaced. Nor is a directory by anything else, or anything else by a directory: such a
    /// node came later too, and the guest's kernel would refuse the call (`may_delete()`).
    fn replaced(
        &self,
        to: &Entry,
        known: Option<NodeId>,
        tree: &Tree,
        backlog: &Backlog,
    ) -> Option<NodeId> {
        if self.pending.exchanges {
            return None;
        }
        let (GuestEvent::Entry { kind, .. } | GuestEvent::Rename { kind, .. }) = self.pending.event
        else {
            return None;
        };
        let directory = kind == FileKind::Directory;
        let fits = |id: &NodeId| (tree.kind(*id) == Some(FileKind::Directory)) == directory;
        tree.held(to.dir.id, &to.name).filter(fits).find(|id| {
            let arrives = tree
                .fid(*id)
                .is_some_and(|fid| under_way(fid, to.dir.id, tree, backlog).arrivals > 0);
            Some(*id) != known && !arrives
        })
    }

    /// The object of a CREATE or of a change of content.
    fn object(
        &self,
        known: Option<NodeId>,
        kind: FileKind,
        tree: &Tree,
        backlog: &Backlog,
    ) -> Object {
        let gone = self.todo.contains(Mask::DELETE);
        match known {
            Some(id) => Object::Known { id, links: self.links_since(tree, backlog), here: !gone },
            None if gone || self.pending.object.is_none() => Object::Phantom(kind),
            None => Object::Adopt(kind),
        }
    }

    /// The object that a rename moves.
    fn mover(
        &self,
        known: Option<NodeId>,
        kind: FileKind,
        tree: &Tree,
        backlog: &Backlog,
    ) -> Object {
        match known {
            Some(id) => Object::Known { id, links: self.links_since(tree, backlog), here: false },
            None => Object::Phantom(kind),
        }
    }

    /// Whether the guest's dentry holds another node than the one that left the name, so that the
    /// call would hit the wrong one. Said once for a record: a second time would not help.
    fn wrong_dentry(
        &mut self,
        dir: NodeId,
        name: &Name,
        known: Option<NodeId>,
        tree: &Tree,
    ) -> bool {
        let current = tree.current(dir, name);
        let wrong = current.is_some() && current != known && !self.stale_told;
        self.stale_told |= wrong;
        wrong
    }

    /// Whether the name leads to another object by now than the one that was written to: who watches
    /// that one would be told. Said until the guest has looked the name up for this record.
    fn holds_another(
        &self,
        node: NodeId,
        known: Option<NodeId>,
        kind: FileKind,
        tree: &Tree,
    ) -> bool {
        // Of an object that the watcher could not tell, its type is known.
        let told = self.pending.object.is_some() || !tree.is_of(node, kind);
        node.phantom_kind().is_none() && known != Some(node) && told && !self.looked_up
    }
}

/// What is on its way about an object in the place where a directory is.
fn under_way(fid: &Fid, place: NodeId, tree: &Tree, backlog: &Backlog) -> UnderWay {
    backlog.under_way(fid, |dir| tree.is_beside(dir, place))
}

/// Whether a request on `node` is about an entry.
fn concerns(node: NodeId, known: Option<NodeId>, entry: &Entry, tree: &Tree) -> bool {
    known == Some(node)
        || node.phantom_kind().is_some()
        || tree.current(entry.dir.id, &entry.name) == Some(node)
}

fn by_node(node: NodeId) -> Object {
    match node.phantom_kind() {
        Some(kind) => Object::Phantom(kind),
        None => Object::Known { id: node, links: 0, here: false },
    }
}
