// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Record`]: one notification that was handed out, and how far its replay is.

use super::super::backlog::{Backlog, Pending};
use crate::replay::{self, OpenMode, RequestKind};
use crate::{Entry, GuestEvent, Mask, Name, NodeId, Seq};

/// The bits that change what a name stands for.
pub(super) const NAMES: Mask = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVE);

/// See the module's documentation.
#[derive(Debug)]
pub(in super::super) struct Record {
    pub(in super::super) seq: Seq,
    pub(in super::super) pending: Pending,
    pub(super) message: Message,
    pub(super) state: State,
}

/// Which message of its event a notification is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// The only one, or the first of a rename.
    First,
    /// The second of a rename: of use only when its mate got lost, or the halves are replayed alone.
    Second,
}

/// How far a replay is.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The events that have not been replayed. Those of opening and reading stay.
    pub(super) todo: Mask,
    /// Whether an open for reading, one for writing and a read have been granted.
    granted: [bool; 3],
    /// The guest has once been told to look again: it is not told twice.
    pub(super) stale_told: bool,
    /// The guest has looked the entry up for this record, of a rename the new one.
    pub(super) looked_up: bool,
    /// The directory is created a second time: the kernel has repeated the call.
    pub(super) repeated: bool,
    /// It is not on its way any more, for the backlog.
    pub(super) settled: bool,
    /// The replay has begun once more, in another superblock.
    pub(super) again: bool,
    /// What the rename has replaced, of which the guest's view has no trace when it is replayed again.
    pub(super) replaced: Option<NodeId>,
}

impl Record {
    /// `None` for an overflow, of which no replay comes.
    pub(super) fn new(seq: Seq, pending: Pending, message: Message) -> Option<Self> {
        let state = State { todo: todo(&pending.event, message)?, ..State::default() };
        Some(Self { seq, pending, message, state })
    }

    /// Nothing of it has been replayed in the superblock that comes now.
    pub(super) fn begin_again(&mut self) {
        let Some(todo) = todo(&self.pending.event, self.message) else { return };
        let State { settled, replaced, .. } = self.state;
        self.state = State { todo, settled, replaced, again: true, ..State::default() };
    }

    /// Whether a name is still to change. The second message of a rename says what the first has said, and
    /// the end of a node, which has no name, need not come.
    pub(super) fn changes_name(&self) -> bool {
        let is_end = self.pending.event.is_end();
        self.message == Message::First && self.state.todo.intersects(NAMES) && !is_end
    }

    /// Whether this is the only message of its event, or the first.
    pub(in super::super) fn is_first(&self) -> bool {
        self.message == Message::First
    }

    /// Whether requests are to come. The second message of a rename says what the first has said.
    pub(super) fn is_undone(&self) -> bool {
        self.message == Message::First && !self.state.is_done()
    }

    /// The entries whose name a replay was to change and did not.
    pub(super) fn left(&self) -> Vec<(NodeId, Name)> {
        if !self.changes_name() {
            return Vec::new();
        }
        let at = |entry: &Entry| (entry.dir.id, entry.name.clone());
        match &self.pending.event {
            GuestEvent::Entry { entry, .. } => vec![at(entry)],
            GuestEvent::Rename { from, to, .. } => {
                let part = |bit, entry| self.state.todo.contains(bit).then(|| at(entry));
                [part(Mask::MOVED_FROM, from), part(Mask::MOVED_TO, to)]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            GuestEvent::Object { .. } | GuestEvent::Overflow => Vec::new(),
        }
    }

    /// What the event brings to its names or takes from them has been told, or will not be.
    pub(super) fn settle(&mut self, backlog: &mut Backlog) {
        if self.message == Message::First && !std::mem::replace(&mut self.state.settled, true) {
            backlog.settled(&self.pending);
        }
    }
}

impl State {
    /// Whether an event that has not been replayed asks for such a request ([`replay::TABLE`]).
    pub(super) fn asks_for(&self, request: RequestKind) -> bool {
        let granted = once(request).is_some_and(|at| self.granted[at]);
        !granted && !replay::asking(self.todo, request).is_empty()
    }

    /// Whether no request is to come that changes what the guest's kernel knows or has cached.
    pub(super) fn is_done(&self) -> bool {
        let opened = if self.granted[1] { Mask::CLOSE_WRITE } else { Mask::empty() };
        self.todo.difference(Mask::READS | opened).is_empty()
    }

    /// Whether this event is still to be replayed, and the guest's kernel has not looked at its entry for it.
    pub(super) fn is_unasked(&self, event: Mask) -> bool {
        !self.looked_up && !self.stale_told && self.todo.contains(event)
    }

    /// Such a request is granted, and not again.
    pub(super) fn grant(&mut self, request: RequestKind) {
        match once(request) {
            Some(at) => self.granted[at] = true,
            None => self.todo.remove(replay::asking(self.todo, request)),
        }
    }
}

/// What is to be replayed of a message; `None` for an overflow, of which nothing is.
fn todo(event: &GuestEvent, message: Message) -> Option<Mask> {
    let todo = match (event, message) {
        (GuestEvent::Entry { mask, .. } | GuestEvent::Object { mask, .. }, _) => *mask,
        (GuestEvent::Rename { .. }, Message::First) => Mask::MOVE,
        (GuestEvent::Rename { .. }, Message::Second) => Mask::MOVED_TO,
        (GuestEvent::Overflow, _) => return None,
    };
    Some(todo.difference(Mask::ISDIR))
}

/// The place in [`State::granted`] of a request after which its events may still need another.
fn once(request: RequestKind) -> Option<usize> {
    match request {
        RequestKind::Open(OpenMode::Read) => Some(0),
        RequestKind::Open(OpenMode::Write | OpenMode::ReadWrite) => Some(1),
        RequestKind::Read => Some(2),
        RequestKind::Lookup(_)
        | RequestKind::Mknod
        | RequestKind::Mkdir
        | RequestKind::Symlink
        | RequestKind::Link
        | RequestKind::SetTimes(_)
        | RequestKind::Close
        | RequestKind::Unlink
        | RequestKind::Rmdir
        | RequestKind::Rename
        | RequestKind::RenameOut
        | RequestKind::RenameIn => None,
    }
}
