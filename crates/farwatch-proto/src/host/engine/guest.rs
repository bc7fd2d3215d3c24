// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Changes of names in the guest: its own, and those that its agent has replayed. Its watchers have been told
//! of each, so a comparison with the host starts from them.

use super::super::contested::Reported;
use super::super::ledger::{Answer, MarkedRequest};
use super::super::tree::Shown;
use super::{Engine, OwnChange};
use crate::{Mask, Name, NodeId, Seq};

impl Engine {
    /// The guest has changed names itself: the call has succeeded on the host, and the guest's kernel still
    /// holds the lock of the directories.
    pub fn handle_own(&mut self, change: OwnChange<'_>) {
        match change {
            OwnChange::Made(dir, name, id) => self.own(dir, name, Some(id)),
            OwnChange::Removed(dir, name) => {
                self.tree.cleared(dir, name);
                self.own(dir, name, None);
            }
            OwnChange::Renamed(from, to) => {
                let id = self.tree.current(from.0, from.1);
                self.tree.renamed(from, to);
                self.own(from.0, from.1, None);
                self.own_arrival(to, id);
            }
            OwnChange::Exchanged(one, two) => {
                let ids = [one, two].map(|(dir, name)| self.tree.current(dir, name));
                self.tree.exchanged(one, two);
                self.own_arrival(two, ids[0]);
                self.own_arrival(one, ids[1]);
            }
        }
    }

    fn own_arrival(&mut self, (dir, name): (NodeId, &Name), id: Option<NodeId>) {
        match id {
            Some(id) => self.own(dir, name, Some(id)),
            // The server does not know what the guest has moved.
            None => self.doubt(dir, name),
        }
    }

    fn own(&mut self, dir: NodeId, name: &Name, id: Option<NodeId>) {
        if !self.is_listening() {
            return;
        }
        let shown = |id| Shown {
            object: self.tree.fid(id).cloned(),
            kind: self.tree.kind(id).unwrap_or_default(),
        };
        let reported = id.map_or(Reported::Absent, |id| Reported::Present(shown(id)));
        if !self.contested.guest_changed(dir, name, reported) {
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
            MarkedRequest::Link(_, dir, name) => {
                contested.replayed(dir, name, || present(kind()));
            }
            MarkedRequest::Remove(dir, name, _) => {
                contested.left(dir, name, None);
            }
            MarkedRequest::Rename(from, old, to, new) => {
                contested.left(from, old, ledger.stays(seq));
                contested.replayed(to, new, || present(kind()));
            }
            MarkedRequest::Lookup(..) | MarkedRequest::SetTimes(..) | MarkedRequest::Open(..) => {}
        }
    }
}
