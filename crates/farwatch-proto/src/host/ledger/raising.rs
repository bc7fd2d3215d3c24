// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a notification does to the guest's view where the guest's kernel raises the event itself: no request
//! tells of it, so it counts as raised when it is handed out. What a replay grants one request at a time is done
//! here in one step.

use super::super::backlog::{Backlog, Pending};
use super::super::tree::{Shown, Tree};
use super::record::{Message, NAMES, Record};
use super::{Ledger, Replaying};
use crate::{Entry, Fid, GuestEvent, Mask, Name, NodeId, Seq};

/// What watchers are told of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) enum Raised {
    /// An object has come to it.
    Arrived(NodeId, Name, Shown),
    /// An object has left it; after the second rename of an exchange this one is there.
    Left(NodeId, Name, Option<Fid>),
    /// A node may have lost its last name, and the notification does not name it. Its kernel may hold it without the
    /// name.
    Unnamed(NodeId),
}

impl Ledger {
    /// The most notifications of which it is not known that the kernel has raised them, before a probe is due.
    pub(in super::super) const UNPROBED_MAX: usize = 512;

    /// Notification `seq` was handed out to a kernel that raises events itself, or there is nobody to tell: the tree becomes
    /// what the guest is told by it. Returns what it says of names, in order.
    pub(in super::super) fn raise(
        &mut self,
        seq: Seq,
        tree: &mut Tree,
        backlog: &mut Backlog,
    ) -> Vec<Raised> {
        // An overflow has none.
        let record = self.records.iter_mut().rev().find(|record| record.seq == seq);
        record.map(|record| raise(record, tree, backlog)).unwrap_or_default()
    }

    /// An event counts as told without having been sent: nobody watches for it.
    pub(in super::super) fn raise_unsent(
        pending: Pending,
        tree: &mut Tree,
        backlog: &mut Backlog,
    ) -> Vec<Raised> {
        let Some(mut record) = Record::new(Seq::FIRST, pending, Message::First) else {
            return Vec::new();
        };
        raise(&mut record, tree, backlog)
    }

    /// All that was handed out has been raised, but for the last `kept` notifications.
    pub(in super::super) fn raised_up_to(&mut self, kept: usize, backlog: &mut Backlog) {
        for mut record in self.records.drain(..self.records.len().saturating_sub(kept)) {
            record.settle(backlog);
        }
    }

    /// Whether a name is changed by a notification of which it is not known that it has been raised.
    pub(in super::super) fn is_under_way(&self, dir: NodeId, name: &Name) -> bool {
        let is = |entry: &Entry| entry.dir.id == dir && entry.name == *name;
        self.records.iter().any(|record| match &record.pending.event {
            GuestEvent::Entry { entry, mask, .. } => mask.intersects(NAMES) && is(entry),
            GuestEvent::Rename { from, to, .. } => is(from) || is(to),
            GuestEvent::Object { .. } | GuestEvent::Overflow => false,
        })
    }
}

fn raise(record: &mut Record, tree: &mut Tree, backlog: &mut Backlog) -> Vec<Raised> {
    let mut raised = Vec::new();
    // The second message of a rename says what the first has said.
    if record.message == Message::First {
        let mut replaying = Replaying::new(record, tree, backlog);
        match &replaying.pending.event {
            GuestEvent::Entry { entry, mask, .. } => {
                let (dir, name) = (entry.dir.id, &entry.name);
                if mask.contains(Mask::CREATE) {
                    raised.push(replaying.create(dir, name));
                }
                if mask.contains(Mask::MOVED_TO) {
                    raised.extend(replaying.bring(dir, name));
                }
                if mask.intersects(Mask::DELETE | Mask::MOVED_FROM) {
                    raised.extend(replaying.take(dir, name));
                }
            }
            GuestEvent::Rename { from, to, .. } => {
                let arrived = replaying.bring(to.dir.id, &to.name);
                raised.extend(replaying.take(from.dir.id, &from.name));
                raised.extend(arrived);
            }
            GuestEvent::Object { .. } | GuestEvent::Overflow => {}
        }
    }
    record.state.todo = Mask::empty();
    record.settle(backlog);
    raised
}

impl Replaying<'_> {
    fn create(&mut self, dir: NodeId, name: &Name) -> Raised {
        match self.known {
            Some(id) => self.tree.arrived(dir, name, id),
            None => {
                self.tree.tell_current(dir, name, None);
                self.tree.show(dir, name, self.shown(self.kind()));
            }
        }
        self.arrived(dir, name)
    }

    fn bring(&mut self, dir: NodeId, name: &Name) -> Vec<Raised> {
        let replaced = self.replaced(dir, name);
        self.arrive(dir, name, replaced);
        let replaced = replaced.map(Raised::Unnamed);
        [self.arrived(dir, name)].into_iter().chain(replaced).collect()
    }

    /// Nothing if the name is none of the share's.
    fn take(&mut self, dir: NodeId, name: &Name) -> Vec<Raised> {
        let told = self.tree.told(dir, name).iter().copied().filter(|id| self.is_like(*id));
        let mut raised: Vec<_> = match self.known {
            Some(_) => Vec::new(),
            None => told.map(Raised::Unnamed).collect(),
        };
        self.tree.removed(dir, name, self.known);
        if dir == NodeId::LIMBO {
            if let Some(id) = self.known {
                self.tree.may_end(id);
            }
            return Vec::new();
        }
        raised.push(Raised::Left(dir, name.clone(), self.pending.stays.clone()));
        raised
    }

    fn arrived(&self, dir: NodeId, name: &Name) -> Raised {
        Raised::Arrived(dir, name.clone(), self.shown(self.kind()))
    }
}
