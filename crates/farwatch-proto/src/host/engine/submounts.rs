// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mounts on the host that are announced to the guest (`FUSE_ATTR_SUBMOUNT`).
//!
//! The guest's kernel makes a superblock for each, and another one for each place where it comes across it (a bind mount of
//! the share, a mount namespace). All have the nodeids of one connection and inodes of their own. So an agent is told in
//! which submount an event is, and replays it in each superblock that it has of that: for every further one the replay
//! begins anew. If it has none, nobody there watches, and the event counts as told.

use super::super::backlog::Pending;
use super::super::ledger::{Answer, Ledger, MarkedRequest, Object, Raised, Refusal};
use super::Engine;
use crate::wire::abi::{FARWATCH_AGAIN_NAME, FARWATCH_LIMBO_NAME, FARWATCH_NOWHERE_NAME};
use crate::{GuestEvent, Mask, Node, NodeId, Seq, Submount};

impl Engine {
    /// The agent replays in submounts, too, if it is told in which. Called before [`Engine::listen`].
    pub fn tell_submounts(&mut self) {
        if let Some(agent) = &mut self.agent {
            agent.submounts = true;
        }
    }

    /// Whether the agent reaches announced submounts.
    fn tells_submounts(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.submounts)
    }

    /// Where an event is to be replayed, for an agent that has asked.
    pub(super) fn submount_of(&self, event: &GuestEvent) -> Option<Submount> {
        if !self.tells_submounts() {
            return None;
        }
        let node = match event {
            GuestEvent::Entry { entry, child: Some(Node { id, .. }), .. }
                if entry.dir.id == NodeId::LIMBO =>
            {
                *id
            }
            GuestEvent::Entry { entry, .. } | GuestEvent::Rename { from: entry, .. } => {
                entry.dir.id
            }
            GuestEvent::Object { node, .. } => node.id,
            GuestEvent::Overflow => return None,
        };
        self.tree.submount_of(node)
    }

    /// A change that does not unmount a submount of the guest. To replay CREATE its kernel drops the name, and unmounts what
    /// is mounted there and below (`d_invalidate()`). If the guest has that directory under the name, CREATE counts as
    /// told, and watchers receive ATTRIB.
    pub(super) fn spare_submounts(&mut self, mut pending: Pending) -> Pending {
        if self.is_native() || !self.would_unmount(&pending.event) {
            return pending;
        }
        let raised = Ledger::raise_unsent(pending.clone(), &mut self.tree, &mut self.backlog);
        self.note(raised);
        if let GuestEvent::Entry { mask, .. } = &mut pending.event {
            *mask = mask.difference(Mask::CREATE) | Mask::ATTRIB;
        }
        pending
    }

    fn would_unmount(&self, event: &GuestEvent) -> bool {
        let GuestEvent::Entry { entry, mask, child: Some(Node { id, .. }), .. } = event else {
            return false;
        };
        mask.contains(Mask::CREATE)
            && !mask.contains(Mask::DELETE)
            && self.tree.has_submount(*id)
            && self.tree.current(entry.dir.id, &entry.name) == Some(*id)
    }

    /// Answers what an agent looks up by a name of ours. `None` if it is none.
    pub(super) fn answer_own_name(
        &mut self,
        seq: Option<Seq>,
        request: MarkedRequest<'_>,
    ) -> Option<Answer> {
        let MarkedRequest::Lookup(dir, name) = request else { return None };
        if dir != NodeId::ROOT && !self.tree.is_announced(dir) {
            return None;
        }
        let nothing = Answer::Refused(Refusal::NoEntry);
        match name.as_bytes() {
            FARWATCH_LIMBO_NAME => Some(Answer::Entry(Object::Limbo)),
            FARWATCH_AGAIN_NAME if self.tells_submounts() => {
                self.ledger.again(seq?);
                Some(nothing)
            }
            FARWATCH_NOWHERE_NAME if self.tells_submounts() => {
                let raised = self.ledger.raise(seq?, &mut self.tree, &mut self.backlog);
                // Nobody holds what has lost its last name.
                let told = raised.into_iter().filter(|it| !matches!(it, Raised::Unnamed(_)));
                self.note(told.collect());
                Some(nothing)
            }
            _ => None,
        }
    }
}
