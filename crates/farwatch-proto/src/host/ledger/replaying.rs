// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Replaying`]: one request of a replay, answered from the record of its notification.
//!
//! The table of [`crate::replay`] says which requests the events of the record ask for. Here is decided
//! whether the arguments are those of the event, and which object the answer names.

use super::super::backlog::{Backlog, Pending, UnderWay};
use super::super::tree::{Shown, Tree};
use super::record::{Message, Record, State};
use super::{Answer, MarkedRequest, Object, Refusal};
use crate::replay::{OpenMode, Part, RequestKind};
use crate::{Entry, Fid, FileKind, GuestEvent, Mask, Name, NodeId};

const ENOENT: Answer = Answer::Refused(Refusal::NoEntry);
const ESTALE: Answer = Answer::Refused(Refusal::Stale);

/// A record, and what the answers depend on besides.
pub(super) struct Replaying<'a> {
    pub(super) pending: &'a Pending,
    message: Message,
    state: &'a mut State,
    /// The node by which the guest knows the object, if it does now.
    pub(super) known: Option<NodeId>,
    pub(super) tree: &'a mut Tree,
    backlog: &'a Backlog,
}

impl<'a> Replaying<'a> {
    pub(super) fn new(record: &'a mut Record, tree: &'a mut Tree, backlog: &'a Backlog) -> Self {
        let Record { pending, message, state, .. } = record;
        let known = known(pending, tree);
        Self { pending, message: *message, state, known, tree, backlog }
    }

    /// `None` if nothing asks for the request.
    pub(super) fn answer(&mut self, request: MarkedRequest<'_>) -> Option<Answer> {
        match request {
            MarkedRequest::Lookup(dir, name) => self.lookup(dir, name),
            MarkedRequest::Create(dir, name, kind) => {
                let request = RequestKind::create(kind);
                let is_dir = kind == FileKind::Directory;
                let fits = self.part(dir, name) == Some(Part::Made) && is_dir == self.is_dir();
                self.asked(request, fits)?;
                self.state.grant(request);
                let known = self.known.filter(|id| self.tree.kind(*id) == Some(kind));
                self.tree.show(dir, name, self.shown(kind));
                Some(Answer::Entry(self.object(known, kind)))
            }
            MarkedRequest::CreateOpen(dir, name) => self.create_open(dir, name),
            MarkedRequest::Link(node, dir, name) => {
                let fits = self.part(dir, name) == Some(Part::Made)
                    && self.is_link()
                    && self.known == Some(node);
                self.asked(RequestKind::Link, fits)?;
                self.state.grant(RequestKind::Link);
                self.tree.show(dir, name, self.shown(self.kind()));
                Some(Answer::Entry(self.object(Some(node), self.kind())))
            }
            MarkedRequest::Remove(dir, name, is_dir) => {
                let request = RequestKind::remove(is_dir);
                let fits = matches!(self.part(dir, name), Some(Part::Made | Part::Entry));
                self.asked(request, fits && is_dir == self.is_dir())?;
                if self.is_wrong_dentry(dir, name, self.known) {
                    return Some(ESTALE);
                }
                self.state.grant(request);
                self.tree.removed(dir, name, self.known);
                if let Some(id) = self.known.filter(|_| dir == NodeId::LIMBO) {
                    self.tree.lost_all_names(id);
                }
                Some(Answer::Done)
            }
            MarkedRequest::Rename(old_dir, old, new_dir, new) => {
                let request = RequestKind::rename(old_dir, new_dir)?;
                let fits = self.part(old_dir, old) == Some(Part::Old)
                    && self.part(new_dir, new) == Some(Part::New);
                self.asked(request, fits)?;
                let leaves = old_dir != NodeId::LIMBO;
                let arrives = new_dir != NodeId::LIMBO;
                if leaves && self.is_wrong_dentry(old_dir, old, self.known) {
                    return Some(ESTALE);
                }
                if arrives {
                    let replaced = self.replaced(new_dir, new);
                    if self.is_wrong_dentry(new_dir, new, replaced) {
                        return Some(ESTALE);
                    }
                    self.state.replaced = replaced;
                    self.arrive(new_dir, new, replaced);
                }
                if leaves {
                    self.tree.removed(old_dir, old, self.known);
                }
                self.state.grant(request);
                Some(Answer::Done)
            }
            MarkedRequest::SetTimes(node, times) => {
                self.content(node, RequestKind::SetTimes(times), Answer::Attr(by_node(node)))
            }
            MarkedRequest::Open(node, mode) => {
                self.content(node, RequestKind::Open(mode), Answer::Opened)
            }
            MarkedRequest::Read(node) => self.content(node, RequestKind::Read, Answer::Done),
        }
    }

    /// Two requests in one, of which neither is granted without the other.
    fn create_open(&mut self, dir: NodeId, name: &Name) -> Option<Answer> {
        let open = RequestKind::Open(OpenMode::Write);
        self.asked(open, true)?;
        let made = self.answer(MarkedRequest::Create(dir, name, FileKind::Regular))?;
        self.state.grant(open);
        Some(made)
    }

    /// `Some` if the request is one that an event asks for and its arguments fit the event.
    fn asked(&self, request: RequestKind, fits: bool) -> Option<()> {
        (fits && self.state.asks_for(request)).then_some(())
    }

    /// What the replay does to a name, as far as it is not done. `None` if it has nothing to do with it.
    /// The limbo directory is the other side of half a rename, under any name.
    fn part(&self, dir: NodeId, name: &Name) -> Option<Part> {
        let is = |entry: &Entry| entry.dir.id == dir && entry.name == *name;
        let is_limbo = dir == NodeId::LIMBO;
        let todo = self.state.todo;
        match &self.pending.event {
            GuestEvent::Entry { entry, .. } => {
                let (here, in_limbo) = if todo.contains(Mask::MOVED_FROM) {
                    (Part::Old, Some(Part::New))
                } else if todo.contains(Mask::MOVED_TO) {
                    (Part::New, Some(Part::Old))
                } else if todo.contains(Mask::CREATE) {
                    (Part::Made, None)
                } else {
                    (Part::Entry, None)
                };
                if is(entry) { Some(here) } else { in_limbo.filter(|_| is_limbo) }
            }
            GuestEvent::Rename { from, to, .. } => match self.message {
                Message::First if is(from) => Some(Part::Old),
                Message::Second if is(from) => None,
                Message::First | Message::Second if is(to) => Some(Part::New),
                Message::First => is_limbo.then_some(Part::New),
                Message::Second => is_limbo.then_some(Part::Old),
            },
            GuestEvent::Object { .. } | GuestEvent::Overflow => None,
        }
    }

    fn lookup(&mut self, dir: NodeId, name: &Name) -> Option<Answer> {
        self.take_back_a_failed_mkdir(dir, name);
        Some(match self.part(dir, name)? {
            Part::Made => {
                self.tree.tell_current(dir, name, None);
                ENOENT
            }
            Part::Entry if dir == NodeId::LIMBO => {
                self.state.looked_up = true;
                let last = |id| Answer::Entry(Object::Known { id, links: 1, here: false });
                self.known.map_or(ENOENT, last)
            }
            Part::Entry => {
                self.state.looked_up = true;
                Answer::Entry(self.object(self.known, self.kind()))
            }
            Part::Old => Answer::Entry(self.mover()),
            Part::New if dir == NodeId::LIMBO => ENOENT,
            Part::New => {
                self.state.looked_up = true;
                self.lookup_target(dir, name)
            }
        })
    }

    /// The kernel looks up a directory that it has just made: it could not bring the directory's only dentry from where
    /// it holds that (`__d_unalias()`), has raised no event, and repeats the call with another lookup
    /// (`retry_estale()`). This time it gets a stand-in.
    fn take_back_a_failed_mkdir(&mut self, dir: NodeId, name: &Name) {
        let GuestEvent::Entry { entry, mask, .. } = &self.pending.event else { return };
        let is_it = entry.dir.id == dir && entry.name == *name;
        let made = is_it && mask.contains(Mask::CREATE) && self.state.todo.is_empty();
        if made && self.is_dir() && !self.state.repeated {
            self.state.todo |= Mask::CREATE;
            self.state.repeated = true;
        }
    }

    /// The target of a rename: what the move replaced, as far as the guest knew it.
    fn lookup_target(&mut self, dir: NodeId, name: &Name) -> Answer {
        let Some(id) = self.replaced(dir, name) else {
            self.tree.tell_current(dir, name, None);
            return ENOENT;
        };
        let removals = self.tree.fid(id).map_or(0, |fid| self.under_way(&fid, dir).removals);
        Answer::Entry(Object::Known { id, links: 1 + i64::from(removals), here: false })
    }

    /// A change of content, or an open or a read, of a node.
    fn content(&mut self, node: NodeId, request: RequestKind, answer: Answer) -> Option<Answer> {
        let concerns = self.concerns(node);
        self.asked(request, concerns || self.was_found(node))?;
        // The name led there when the agent opened it, and leads to nothing or to a third object by now.
        if !concerns || self.holds_another(node) {
            return Some(ESTALE);
        }
        self.state.grant(request);
        Some(answer)
    }

    /// Whether the event is about this node.
    fn concerns(&self, node: NodeId) -> bool {
        match &self.pending.event {
            GuestEvent::Entry { entry, .. } => {
                self.known == Some(node)
                    || node.phantom_kind().is_some()
                    || self.tree.current(entry.dir.id, &entry.name) == Some(node)
            }
            GuestEvent::Object { node: object, .. } => object.id == node,
            GuestEvent::Rename { .. } | GuestEvent::Overflow => false,
        }
    }

    /// Whether the guest has found this node under the name, and no event has taken it from there.
    fn was_found(&self, node: NodeId) -> bool {
        let GuestEvent::Entry { entry, .. } = &self.pending.event else { return false };
        self.tree.told(entry.dir.id, &entry.name).contains(&node)
    }

    /// Whether the name leads to another object by now than the one that was written to: who watches
    /// that one would be told. Said until the guest has looked the name up for this record.
    fn holds_another(&self, node: NodeId) -> bool {
        let GuestEvent::Entry { kind, .. } = self.pending.event else { return false };
        // Of an object that the watcher could not tell, its type is known.
        let told = self.pending.object.is_some() || !self.tree.is_of(node, kind);
        let is_phantom = node.phantom_kind().is_some();
        !is_phantom && self.known != Some(node) && told && !self.state.looked_up
    }

    /// Whether the guest's dentry holds another node than the one that is to leave the name, so that the
    /// call would hit the wrong one. Said once for a record: a second time would not help. What a further superblock holds is
    /// not known.
    fn is_wrong_dentry(&mut self, dir: NodeId, name: &Name, leaves: Option<NodeId>) -> bool {
        let current = self.tree.current(dir, name);
        let is_other = current.is_some() && current != leaves;
        let wrong = is_other && !self.state.stale_told && !self.state.again;
        self.state.stale_told |= wrong;
        wrong
    }

    /// The node that held the target's name when the host did the rename. A node whose own arrival
    /// is still under way came later: the guest has looked ahead of the events. One that is moved away
    /// next is not replaced. Nor is a directory by anything else, or anything else by a directory: such a
    /// node came later too, and the guest's kernel would refuse the call (`may_delete()`).
    pub(super) fn replaced(&self, dir: NodeId, name: &Name) -> Option<NodeId> {
        if self.pending.exchanges {
            return None;
        }
        if self.state.again {
            return self.state.replaced.filter(|id| self.tree.knows(*id));
        }
        // Nor is one that the guest holds above the old name, which would not be empty.
        let old_dir = entry(&self.pending.event).map(|entry| entry.dir.id);
        let is_above = |id: NodeId| old_dir.is_some_and(|dir| self.tree.is_above(id, dir));
        let fits = |id: &NodeId| self.is_like(*id) && !is_above(*id);
        self.tree.held(dir, name).filter(fits).find(|id| {
            let fid = self.tree.fid(*id);
            let arrives = fid.is_some_and(|fid| self.under_way(&fid, dir).arrivals > 0);
            Some(*id) != self.known && !arrives
        })
    }

    /// The object comes to a name and replaces what is there.
    pub(super) fn arrive(&mut self, dir: NodeId, name: &Name, replaced: Option<NodeId>) {
        self.tree.removed(dir, name, replaced);
        match self.known {
            Some(id) => self.tree.arrived(dir, name, id),
            None => self.tree.show(dir, name, self.shown(self.kind())),
        }
    }

    /// The object of a CREATE or of a change of content.
    fn object(&self, known: Option<NodeId>, kind: FileKind) -> Object {
        let gone = self.state.todo.contains(Mask::DELETE);
        match known.filter(|_| !self.state.repeated) {
            Some(id) => Object::Known { id, links: self.links_since(), here: !gone },
            None if gone || self.state.repeated || self.pending.object.is_none() => {
                Object::Phantom(kind)
            }
            None => Object::Adopt(kind),
        }
    }

    /// The object that a rename moves.
    fn mover(&self) -> Object {
        match self.known {
            Some(id) => Object::Known { id, links: self.links_since(), here: false },
            None => Object::Phantom(self.kind()),
        }
    }

    /// What the guest's programs are shown, until the reply makes the object known to its kernel.
    pub(super) fn shown(&self, kind: FileKind) -> Shown {
        Shown { object: self.pending.object.clone(), kind }
    }

    /// Names that the object has lost since this moment, less those it has won, in the place where it
    /// is told.
    fn links_since(&self) -> i64 {
        let (Some(fid), Some(entry)) = (&self.pending.object, entry(&self.pending.event)) else {
            return 0;
        };
        let under_way = self.under_way(fid, entry.dir.id);
        // What this notification has brought is counted until it is done with.
        let linked = self.is_link() && !self.state.todo.contains(Mask::CREATE);
        i64::from(under_way.removals) - i64::from(under_way.links) + i64::from(linked)
    }

    /// What is on its way about an object in the place where a directory is.
    fn under_way(&self, fid: &Fid, place: NodeId) -> UnderWay {
        self.backlog.under_way(fid, |dir| self.tree.is_beside(dir, place))
    }

    pub(super) fn kind(&self) -> FileKind {
        kind(&self.pending.event)
    }

    fn is_dir(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    /// Whether a node is a directory exactly if the object is.
    pub(super) fn is_like(&self, id: NodeId) -> bool {
        (self.tree.kind(id) == Some(FileKind::Directory)) == self.is_dir()
    }

    fn is_link(&self) -> bool {
        matches!(self.pending.event, GuestEvent::Entry { link: true, .. })
    }
}

/// The node by which the guest knows the object. Not a directory above the entry in the guest's dentry cache: its kernel
/// would refuse that, and watchers would miss the event. Then a watcher that names no objects has guessed wrong, or the
/// guest holds the directory at an earlier place.
pub(super) fn known(pending: &Pending, tree: &Tree) -> Option<NodeId> {
    let dirs = match &pending.event {
        GuestEvent::Entry { entry, .. } => [entry.dir.id; 2],
        GuestEvent::Rename { from, to, .. } => [from.dir.id, to.dir.id],
        GuestEvent::Object { .. } | GuestEvent::Overflow => return None,
    };
    named(pending, tree).filter(|id| !dirs.iter().any(|dir| tree.is_above(*id, *dir)))
}

fn named(pending: &Pending, tree: &Tree) -> Option<NodeId> {
    let (GuestEvent::Entry { child, .. } | GuestEvent::Rename { child, .. }) = &pending.event
    else {
        return None;
    };
    let entry = entry(&pending.event)?;
    match &pending.object {
        Some(fid) => tree.node_at(fid, kind(&pending.event), entry.dir.id, &entry.name),
        None => child.map(|child| child.id).filter(|id| tree.knows(*id)),
    }
}

/// The entry of an event, of a rename the old one.
fn entry(event: &GuestEvent) -> Option<&Entry> {
    match event {
        GuestEvent::Entry { entry, .. } | GuestEvent::Rename { from: entry, .. } => Some(entry),
        GuestEvent::Object { .. } | GuestEvent::Overflow => None,
    }
}

/// The type of its object. An event without a name tells none.
fn kind(event: &GuestEvent) -> FileKind {
    match event {
        GuestEvent::Entry { kind, .. } | GuestEvent::Rename { kind, .. } => *kind,
        GuestEvent::Object { .. } | GuestEvent::Overflow => FileKind::Unknown,
    }
}

fn by_node(node: NodeId) -> Object {
    match node.phantom_kind() {
        Some(kind) => Object::Phantom(kind),
        None => Object::Known { id: node, links: 0, here: false },
    }
}
