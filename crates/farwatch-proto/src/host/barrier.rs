// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Barriers`]: when all that had happened on the host before a moment has been replayed.
//!
//! Somebody in the guest asks at that moment, and gets a [`Ticket`].
//!
//! ```text
//!  asked ──────▶ read ──────▶ sent ──────▶ reached
//!        │            │            └ the agent has looked for the probe's node
//!        │            └ no directory is stale that was when it was read: a probe goes to the backlog
//!        └ what was in the kernel's queue at that moment has been taken in
//! ```
//!
//! The probe is a notification about a node that nobody has: whoever replays it asks for that node and
//! does nothing else. An agent replays in order, so everything before the probe is done then, however
//! notifications are delivered. What happens after the moment is behind the probe, and is not waited
//! for.
//!
//! However many ask, what is kept is a few numbers and [`Barriers::STEPS_MAX`] probes: a ticket
//! that finds no place of its own goes with a later one.

use std::collections::VecDeque;

use crate::NodeId;

/// Stands for the moment at which it was asked for. Tickets count up for the daemon's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(u64);

impl Ticket {
    /// `None` for 0, which no ticket is.
    pub fn new(raw: u64) -> Option<Self> {
        (raw != 0).then_some(Self(raw))
    }

    /// The number as it travels.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What was owed to the guest at some moment, beside what was queued: directories to rescan and entries to
/// compare, as the marks of [`Nets`](super::net::Nets) and [`Contested`](super::contested::Contested).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Owed {
    pub(super) stale: u64,
    pub(super) contested: u64,
    /// As the mark of [`Polls`](super::poll::Polls).
    pub(super) polled: u64,
}

/// How far a barrier is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// All that happened before it has been replayed.
    Reached,
    /// The kernel's queue has not been read up to it.
    Unread,
    /// Directories of which events were given up have not been compared.
    Stale,
    /// The agent has not replayed all that it has been sent, or will be.
    Sent,
    /// It is of another link, or was never given out.
    Void,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    /// The last ticket that was given out.
    asked: u64,
    /// The last one that means nothing any more.
    void: u64,
    /// The last one that the kernel's queue has been read up to.
    read: u64,
    /// What was owed at that time.
    owed: Owed,
    /// In order. The last one's ticket is `read`, unless there was no room for it.
    steps: VecDeque<Step>,
    reached: u64,
}

#[derive(Debug)]
struct Step {
    ticket: u64,
    /// This must not be owed any more.
    owed: Owed,
    /// The node of the probe that was sent.
    probe: Option<NodeId>,
}

impl Barriers {
    /// The most barriers that are kept apart.
    pub(super) const STEPS_MAX: usize = 16;

    pub(super) fn ask(&mut self) -> Ticket {
        self.asked += 1;
        Ticket(self.asked)
    }

    /// The last ticket that the kernel's queue is to be read up to.
    pub(super) fn to_read(&self) -> Option<Ticket> {
        (self.asked > self.read).then_some(Ticket(self.asked))
    }

    pub(super) fn handle_read(&mut self, ticket: Ticket, owed: Owed) {
        if ticket.0 > self.read.max(self.void) {
            self.read = ticket.0;
            self.owed = owed;
            self.step();
        }
    }

    /// Whether a probe may be sent now; the caller then does. `is_owed` says whether something is owed still.
    pub(super) fn is_due(&mut self, is_owed: impl FnOnce(Owed) -> bool) -> bool {
        self.step();
        self.next().is_some_and(|step| !is_owed(step.owed))
    }

    /// Something that was sent before has failed, and is made up for: each barrier up to which the kernel's queue
    /// has been read waits for what is `owed` by now, and sends another probe after that.
    pub(super) fn postpone(&mut self, owed: Owed) {
        self.owed = owed;
        for step in &mut self.steps {
            (step.probe, step.owed) = (None, owed);
        }
    }

    /// The probe that was due goes out, about this node.
    pub(super) fn handle_sent(&mut self, probe: NodeId) {
        if let Some(step) = self.next() {
            step.probe = Some(probe);
        }
    }

    /// The first one of which no probe was sent.
    fn next(&mut self) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.probe.is_none())
    }

    /// The agent looks for a node. `true` when that was a probe's.
    pub(super) fn handle_probe(&mut self, node: NodeId) -> bool {
        let Some(at) = self.steps.iter().position(|step| step.probe == Some(node)) else {
            return false;
        };
        if let Some(step) = self.steps.drain(..=at).next_back() {
            self.reached = step.ticket;
        }
        true
    }

    pub(super) fn progress(&self, ticket: Ticket) -> Progress {
        let Ticket(ticket) = ticket;
        if ticket <= self.void || ticket > self.asked {
            return Progress::Void;
        }
        if ticket <= self.reached {
            return Progress::Reached;
        }
        if ticket > self.read {
            return Progress::Unread;
        }
        match self.steps.iter().find(|step| step.ticket >= ticket) {
            Some(Step { probe: None, .. }) => Progress::Stale,
            Some(Step { probe: Some(_), .. }) | None => Progress::Sent,
        }
    }

    /// The link is gone, and with it whoever would have answered.
    pub(super) fn clear(&mut self) {
        self.steps.clear();
        (self.void, self.read) = (self.asked, self.asked);
    }

    /// Asserts what holds after each input.
    pub(super) fn assert_invariants(&self) {
        assert!(self.steps.len() <= Self::STEPS_MAX, "{} probes", self.steps.len());
        let last = self.steps.iter().try_fold(self.reached.max(self.void), |last, step| {
            (last < step.ticket).then_some(step.ticket)
        });
        let last = last.expect("barriers are in the order of their tickets, and none is reached");
        assert!(last <= self.read.max(self.void) && self.read <= self.asked, "{self:?}");
    }

    /// Makes a step of what has been read. Without room the last one that has no probe yet takes it,
    /// and if each has one, it waits.
    fn step(&mut self) {
        let last = self.steps.back().map(|step| step.ticket);
        if last.unwrap_or_default().max(self.reached).max(self.void) >= self.read {
            return;
        }
        let step = Step { ticket: self.read, owed: self.owed, probe: None };
        if self.steps.len() < Self::STEPS_MAX {
            self.steps.push_back(step);
        } else if let Some(last) = self.steps.back_mut().filter(|last| last.probe.is_none()) {
            *last = step;
        }
    }
}
