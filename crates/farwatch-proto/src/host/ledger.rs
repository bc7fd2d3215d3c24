// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Ledger`]: the replays that this daemon has handed out, and what an agent's requests may do.
//!
//! An agent replays a notification by the system call that would cause the event, and the kernel
//! turns that into FUSE requests with the agent's marks. Each is answered from the record of that
//! very notification, from what is already true on the host: the answer never changes anything
//! there, and a request that no record asks for gets EPERM. `docs/PROTOCOL.md` has the table.

mod invariants;
mod raising;
mod record;
mod replaying;
mod request;

use std::collections::VecDeque;

use super::backlog::{Backlog, Exchanged, Moves, Pending, exchanged};
use super::tree::Tree;
use crate::{Entry, Fid, FileKind, GuestEvent, Mask, Name, NodeId, Seq};
pub(super) use raising::Raised;
use record::Message;
pub(super) use record::Record;
use replaying::Replaying;
pub use request::{Answer, Ending, MarkedRequest, Object, Refusal};

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

/// What a request of the guest is about, of which its kernel may hold locks until there is an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held<'a> {
    /// An entry that is looked up. The lock of the directory keeps changes of any name in it waiting, and who looks for
    /// the same entry waits for the answer (`d_alloc_parallel()`).
    Entry(NodeId, &'a Name),
    /// A node. While a directory is listed, the lock of its names is held (`fuse_readdir_cached()`).
    Node(NodeId),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: VecDeque<Record>,
    /// Entries of which a replay came or went unfinished: watchers were not told, or it is not known what.
    unfinished: Vec<(NodeId, Name)>,
    /// The last request has finished the replay of this notification.
    finished: Option<Seq>,
    /// Replays that never came to their end, since the daemon started.
    unreplayed: u64,
}

impl Ledger {
    /// The most records that are kept: more than any client has buffers.
    pub(super) const LEN_MAX: usize = 4096;
    /// The replays that an agent may be busy with: a rename has two messages.
    const BUSY_MAX: usize = 4;
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
            self.retire(oldest, backlog);
        }
        let message = if second { Message::Second } else { Message::First };
        self.records.extend(Record::new(seq, pending, message));
    }

    /// As [`Backlog::exchanged`], for what has been handed out.
    pub(super) fn exchanged(
        &mut self,
        from: (NodeId, &Name),
        moves: &Moves<'_>,
    ) -> Option<Exchanged> {
        let latest = self.records.iter_mut().rev().take(Backlog::EXCHANGE_MAX);
        exchanged(latest.map(|record| &mut record.pending), from, moves)
    }

    /// If notification `seq` is the second rename of an exchange: what stays at the old name.
    pub(super) fn stays(&self, seq: Seq) -> Option<&Fid> {
        self.record(seq)?.pending.stays.as_ref()
    }

    /// Drops every record: the agent is gone, and nothing that it may still ask for is answered.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.unfinished.clear();
        self.finished = None;
    }

    /// Whether the first of the replays that are to come needs a lock that the guest's kernel holds over a request about
    /// `held`.
    pub(super) fn is_next_kept_by(&self, held: Held<'_>, tree: &Tree) -> bool {
        let next = self.records.iter().find(|record| record.is_undone());
        let Some(Record { pending, .. }) = next else { return false };
        let changes_name_in = |dir| match &pending.event {
            GuestEvent::Entry { entry, mask, .. } => {
                entry.dir.id == dir && mask.intersects(record::NAMES)
            }
            GuestEvent::Rename { from, to, .. } => from.dir.id == dir || to.dir.id == dir,
            GuestEvent::Object { node, .. } => node.id == dir,
            GuestEvent::Overflow => false,
        };
        match held {
            Held::Node(id) => changes_name_in(id) || replaying::known(pending, tree) == Some(id),
            Held::Entry(dir, name) => {
                let is_about_it = |entry: &Entry| entry.dir.id == dir && entry.name == *name;
                changes_name_in(dir)
                    || matches!(&pending.event, GuestEvent::Entry { entry, .. } if is_about_it(entry))
            }
        }
    }

    /// The last of the notifications that were handed out and of which more requests are to come.
    pub(super) fn last_undone(&self) -> Option<Seq> {
        self.records.iter().rev().find(|record| record.is_undone()).map(|record| record.seq)
    }

    /// The last of the notifications that were handed out and whose change of a name has not been replayed.
    pub(super) fn last_unfinished(&self) -> Option<Seq> {
        self.records.iter().rev().find(|record| record.changes_name()).map(|record| record.seq)
    }

    /// Whether all that was handed out has been replayed, as far as requests show. An agent works in order, so the last
    /// one tells; the second message of a rename says what the first has said.
    pub(super) fn is_done(&self) -> bool {
        let last = self.records.iter().rev().find(|record| record.message == Message::First);
        last.is_none_or(|record| record.state.is_done())
    }

    /// The agent has carried out, or tried to, all that was handed out before the probe of this node.
    pub(super) fn probed(&mut self, node: NodeId, backlog: &mut Backlog) {
        let is_probe = |record: &Record| matches!(&record.pending.event, GuestEvent::Object { node: probe, .. } if probe.id == node);
        for _ in 0..self.records.iter().position(&is_probe).unwrap_or_default() {
            if let Some(record) = self.records.pop_front() {
                self.retire(record, backlog);
            }
        }
        if let Some(probe) = self.records.front_mut().filter(|record| is_probe(record)) {
            probe.state.todo = Mask::empty();
        }
    }

    /// The notification of which the last request has finished the replay, if it has. Once.
    pub(super) fn take_finished(&mut self) -> Option<Seq> {
        self.finished.take()
    }

    /// How many replays never came to their end, since the daemon started.
    pub(super) fn unreplayed(&self) -> u64 {
        self.unreplayed
    }

    /// How many notifications were handed out and are not replayed.
    pub(super) fn undone_len(&self) -> usize {
        self.records.iter().filter(|record| record.is_undone()).count()
    }

    /// The notification that was handed out last.
    pub(super) fn last(&self) -> Option<&Record> {
        self.records.back()
    }

    /// Takes the entries of which a replay was not finished.
    pub(super) fn take_unfinished(&mut self) -> Vec<(NodeId, Name)> {
        std::mem::take(&mut self.unfinished)
    }

    /// The object that notification `seq` is about, as the host names it.
    pub(super) fn object_of(&self, seq: Seq) -> Option<&Fid> {
        self.record(seq)?.pending.object.as_ref()
    }

    /// The known object that a removal would take a name from, as notification `seq` has it, if the guest's
    /// kernel has not asked for the entry before and so may have a link count of long ago.
    pub(super) fn removes_unasked(&self, seq: Seq, tree: &Tree) -> Option<NodeId> {
        let record = self.record(seq).filter(|record| record.state.is_unasked(Mask::DELETE))?;
        replaying::known(&record.pending, tree)
    }

    /// What is under the new name of a rename in the guest, if its kernel has not asked for it for notification `seq`
    /// and so may have a link count of long ago.
    pub(super) fn replaces_unasked(&self, seq: Seq, tree: &Tree) -> Option<NodeId> {
        let record = self.record(seq).filter(|record| record.state.is_unasked(Mask::MOVED_TO))?;
        let to = match &record.pending.event {
            GuestEvent::Entry { entry, .. } => entry,
            GuestEvent::Rename { to, .. } => to,
            GuestEvent::Object { .. } | GuestEvent::Overflow => return None,
        };
        tree.current(to.dir.id, &to.name)
    }

    /// The node that notification `seq` is about, if the guest knows it.
    pub(super) fn known(&self, seq: Seq, tree: &Tree) -> Option<NodeId> {
        replaying::known(&self.record(seq)?.pending, tree)
    }

    /// The guest's kernel was told to look the entry of notification `seq` up again.
    pub(super) fn told_stale(&mut self, seq: Seq) {
        if let Some(record) = self.records.iter_mut().find(|record| record.seq == seq) {
            record.state.stale_told = true;
        }
    }

    /// The replay of notification `seq` begins once more, in another superblock.
    pub(super) fn again(&mut self, seq: Seq) {
        for record in &mut self.records {
            let is_second = record.message == Message::Second && record.seq == seq.next();
            if record.seq == seq || is_second {
                record.begin_again();
            }
        }
    }

    /// How many of the replays that an agent may be busy with take a name from a node in the guest.
    pub(super) fn removals_of(&self, id: NodeId, tree: &Tree) -> u32 {
        let takes = |record: &&Record| {
            let (pending, todo) = (&record.pending, record.state.todo);
            let is_mover = replaying::known(pending, tree) == Some(id);
            match &pending.event {
                event if event.is_end() => false,
                GuestEvent::Entry { entry, .. } if todo.contains(Mask::DELETE) => {
                    is_mover || tree.current(entry.dir.id, &entry.name) == Some(id)
                }
                GuestEvent::Entry { entry: to, .. } | GuestEvent::Rename { to, .. } => {
                    let arrives = todo.contains(Mask::MOVED_TO) && record.message == Message::First;
                    arrives && !is_mover && tree.told(to.dir.id, &to.name).contains(&id)
                }
                GuestEvent::Object { .. } | GuestEvent::Overflow => false,
            }
        };
        let taking = self.records.iter().take(Self::BUSY_MAX).filter(takes).count();
        u32::try_from(taking).unwrap_or(u32::MAX)
    }

    /// How the replay of notification `seq` ends what is under a name, if it does.
    pub(super) fn ending(&self, seq: Seq, dir: NodeId, name: &Name) -> Option<Ending> {
        let is = |entry: &Entry| entry.dir.id == dir && entry.name == *name;
        match &self.record(seq)?.pending.event {
            GuestEvent::Entry { entry, mask, .. } if is(entry) => {
                let replaced = mask.contains(Mask::MOVED_TO).then_some(Ending::Replaced);
                replaced.or_else(|| mask.contains(Mask::DELETE).then_some(Ending::Removed))
            }
            GuestEvent::Rename { to, .. } if is(to) => Some(Ending::Replaced),
            GuestEvent::Entry { .. }
            | GuestEvent::Rename { .. }
            | GuestEvent::Object { .. }
            | GuestEvent::Overflow => None,
        }
    }

    /// The type of the object that notification `seq` is about.
    pub(super) fn kind_of(&self, seq: Seq) -> Option<FileKind> {
        match self.record(seq)?.pending.event {
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
        for record in self.records.iter().filter(|record| record.message == Message::First) {
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
                if record.state.todo.contains(bit) && entry.dir.id == dir {
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
        self.granted(seq, request, tree, backlog).unwrap_or(Answer::Refused(Refusal::NotAsked))
    }

    /// `None` if no record asks for the request.
    fn granted(
        &mut self,
        seq: Seq,
        request: MarkedRequest<'_>,
        tree: &mut Tree,
        backlog: &mut Backlog,
    ) -> Option<Answer> {
        // First: a number that was never handed out says nothing about the others.
        self.record(seq)?;
        self.retire_before(seq, backlog);
        let record = self.records.iter_mut().find(|record| record.seq == seq)?;
        let was_undone = record.is_undone();
        let answer = Replaying::new(record, tree, backlog).answer(request);
        if was_undone && !record.is_undone() && !record.state.again {
            self.finished = Some(seq);
        }
        if record.message == Message::Second && record.state.todo.is_empty() {
            self.arrived_alone(seq);
        }
        answer
    }

    /// The second half of a rename was replayed by its own number. The first was before, or never will be, since the
    /// guest does not have the old directory any more.
    fn arrived_alone(&mut self, second: Seq) {
        let mut records = self.records.iter_mut();
        let first =
            |record: &&mut Record| record.message == Message::First && record.seq.next() == second;
        if let Some(first) = records.find(first) {
            let was_undone = first.is_undone();
            first.state.todo.remove(Mask::MOVED_TO);
            if was_undone && !first.is_undone() {
                self.finished = Some(first.seq);
            }
        }
    }

    pub(super) fn record(&self, seq: Seq) -> Option<&Record> {
        self.records.iter().find(|record| record.seq == seq)
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
            if record.state.todo.intersects(Mask::MOVE) && age <= Self::HALF_KEPT_MAX {
                at += 1;
            } else if let Some(record) = self.records.remove(at) {
                self.retire(record, backlog);
            }
        }
    }

    fn retire(&mut self, mut record: Record, backlog: &mut Backlog) {
        self.unreplayed = self.unreplayed.saturating_add(record.is_undone().into());
        self.unfinished.extend(record.left());
        record.settle(backlog);
    }
}
