// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Barriers, and the probes by which an agent shows how far its replay is.

use std::time::{Duration, Instant};

use super::super::backlog::{Backlog, Pending};
use super::super::barrier::{Owed, Progress, Ticket};
use super::{Engine, ReadMark, phantom};
use crate::{FileKind, Generation, GuestEvent, Mask, Node, NodeId};

impl Engine {
    /// How long a replay may take before it is found out, by a probe, whether it came to its end.
    const STUCK_AFTER: Duration = Duration::from_millis(200);

    /// A program in the guest wants to know when all that has happened up to now has been replayed. `None` while
    /// no agent listens. The thread that serves its request calls this, and wakes the watch thread.
    pub fn ask_barrier(&mut self) -> Option<Ticket> {
        self.is_listening().then(|| self.barriers.ask())
    }

    /// How far that is. The same thread.
    pub fn progress(&self, ticket: Ticket) -> Progress {
        self.barriers.progress(ticket)
    }

    /// Up to where the kernel's queue is to be read, if anything waits for that. The watch thread asks before it
    /// reads, and hands the mark back by [`Input::ReadUpTo`](super::Input::ReadUpTo).
    pub fn to_read(&self) -> Option<ReadMark> {
        let (ticket, touch) = (self.barriers.to_read(), self.contested.to_read());
        let touch_now = self.contested.mark();
        (ticket.is_some() || touch.is_some()).then_some(ReadMark { ticket, touch: touch_now })
    }

    /// See [`Input::ReadUpTo`](super::Input::ReadUpTo).
    pub(super) fn handle_read(&mut self, ReadMark { ticket, touch }: ReadMark) {
        if let Some(ticket) = ticket {
            self.nets.polls.demand();
            let owed = self.owed();
            self.barriers.handle_read(ticket, owed);
        }
        let idle = self.is_idle();
        for difference in self.contested.handle_read(touch, idle) {
            self.push_difference(difference);
        }
        self.end_given_up();
    }

    /// Puts probes behind what is to be sent before them: those of barriers, of contested entries, and of
    /// replays that do not come to their end. `true` when it did.
    pub(super) fn send_probes(&mut self, now: Instant) -> bool {
        if !self.is_listening() {
            return false;
        }
        let mut sent = false;
        let (nets, contested) = (&self.nets, &self.contested);
        let is_owed = |owed: Owed| {
            nets.has_before(owed.stale)
                || contested.has_before(owed.contested)
                || nets.polls.has_before(owed.polled)
        };
        while self.barriers.is_due(is_owed) {
            let probe = probe(&mut self.phantoms, &mut self.backlog, self.tree.generation());
            self.barriers.handle_sent(probe);
            sent = true;
        }
        let unprobed = self.is_unprobed() && !self.contested.is_probing();
        if self.contested.wants_probe() || unprobed || self.is_stuck(now) {
            let probe = probe(&mut self.phantoms, &mut self.backlog, self.tree.generation());
            self.contested.probe_sent(probe);
            self.stuck = None;
            sent = true;
        }
        sent
    }

    /// When to call [`Engine::send_probes`] again, though nothing happens.
    pub(super) fn probe_timeout(&self) -> Option<Instant> {
        self.stuck.and_then(|(_, since)| since.checked_add(Self::STUCK_AFTER))
    }

    /// The agent looks for a node that nobody has, as it does for a probe: it has tried to replay everything that
    /// was sent before. `true` when something has waited for that: a barrier may be reached, and there may be work.
    pub fn probe_seen(&mut self, node: NodeId) -> bool {
        self.ledger.probed(node, &mut self.backlog);
        let unfinished = self.take_unfinished();
        let settled = self.contested.handle_probe(node);
        self.end_given_up();
        let reached = self.barriers.handle_probe(node);
        self.checked(reached || settled || unfinished)
    }

    /// Whether the last replay has not come to its end for some time, and nothing follows that would show that it never
    /// will.
    fn is_stuck(&mut self, now: Instant) -> bool {
        // No request shows what a kernel that raises events has done.
        let native = self.is_native();
        let last = if native { self.ledger.last_unfinished() } else { self.ledger.last_undone() };
        let waits = self.has_next();
        if self.contested.is_probing() || (last.is_none() && !waits) {
            self.stuck = None;
            return false;
        }
        // What is sent from now on wakes nobody when its replay fails: the time to look again is kept.
        let last = last.filter(|_| !waits);
        match self.stuck {
            Some((seq, since)) if seq == last && last.is_some() => {
                now.saturating_duration_since(since) >= Self::STUCK_AFTER
            }
            Some(_) | None => {
                self.stuck = Some((last, now));
                false
            }
        }
    }

    /// Nothing is on its way to the guest.
    fn is_idle(&self) -> bool {
        self.second_half.is_none()
            && self.backlog.is_empty()
            && self.ledger.last_unfinished().is_none()
            && (!self.is_native() || self.ledger.len() == 0)
    }

    pub(super) fn owed(&self) -> Owed {
        let polled = self.nets.polls.mark();
        Owed { stale: self.nets.mark(), contested: self.contested.mark(), polled }
    }

    /// Replays that did not come to their end are in doubt, and barriers wait for the comparison. `true` when
    /// there are any.
    pub(super) fn take_unfinished(&mut self) -> bool {
        let unfinished = self.ledger.take_unfinished();
        for (dir, name) in &unfinished {
            self.doubt(*dir, name);
        }
        if !unfinished.is_empty() {
            let owed = self.owed();
            self.barriers.postpone(owed);
        }
        !unfinished.is_empty()
    }
}

/// Puts a probe at the end of the backlog: an event of a node that nobody has, for which the agent's kernel
/// must ask when it comes to it.
fn probe(phantoms: &mut u64, backlog: &mut Backlog, generation: Generation) -> NodeId {
    let id = phantom(phantoms, FileKind::Unknown);
    let event = GuestEvent::Object { node: Node { id, generation }, mask: Mask::ATTRIB };
    backlog.push_probe(Pending::new(event, None));
    id
}
