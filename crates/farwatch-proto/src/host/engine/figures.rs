// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine has to say about its work: numbers, and the notification that was handed out or finished last.
//!
//! Nothing is decided by any of it. The share reads it for `farwatch status` and the like.

use std::time::Instant;

use super::super::ledger::Record;
use super::Engine;
use crate::{GuestEvent, Seq};

/// The state of an engine in numbers. Counts are since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Nodes that the guest knows.
    pub nodes: usize,
    /// Directories among them.
    pub directories: usize,
    /// Events that wait to be sent.
    pub backlog: usize,
    /// When the oldest of them was observed.
    pub oldest: Option<Instant>,
    /// The most that may wait.
    pub backlog_max: usize,
    /// Notifications that were sent and are not replayed yet.
    pub in_replay: usize,
    /// Replays that never came to their end: the object was gone, or the client could not do them.
    pub unreplayed: u64,
    /// Events that were dropped, for which directories were marked for rescan.
    pub dropped: u64,
    /// Directories that are marked for rescan.
    pub stale: usize,
    /// Directories that cannot be watched and are polled.
    pub polled: usize,
    /// Those among them that could not be listed the last time.
    pub unlisted: usize,
}

/// A notification that was handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandedOut<'a> {
    /// Its number.
    pub seq: Seq,
    /// The event that it carries, or half of which.
    pub event: &'a GuestEvent,
    /// When the first report that the event follows from was read. `None` if it follows from a comparison with the
    /// host.
    pub observed: Option<Instant>,
}

impl Engine {
    /// The present numbers. The cost depends on the notifications that are in replay, of which there are few.
    pub fn figures(&self) -> Figures {
        Figures {
            nodes: self.tree.len(),
            directories: self.tree.directories_len(),
            backlog: self.backlog.len(),
            oldest: self.backlog.oldest(),
            backlog_max: self.backlog.len_max(),
            in_replay: self.ledger.undone_len(),
            unreplayed: self.ledger.unreplayed(),
            dropped: self.backlog.forgotten(),
            stale: self.nets.stale_len(),
            polled: self.nets.polls.len(),
            unlisted: self.nets.polls.unlisted_len(),
        }
    }

    /// The event of the notification that [`Engine::send`] has just given. `None` for what is no event of the host, and
    /// for the second message of a rename.
    pub fn just_sent(&self) -> Option<HandedOut<'_>> {
        let record = self.ledger.last().filter(|record| record.seq.next() == self.seq)?;
        handed_out(record).filter(|_| record.is_first())
    }

    /// The notification of which the last request has finished the replay, if it did: once, and only before the next
    /// request. Whoever has answered a request calls this.
    pub fn take_finished(&mut self) -> Option<HandedOut<'_>> {
        let seq = self.ledger.take_finished()?;
        handed_out(self.ledger.record(seq)?)
    }
}

/// Nothing for a probe and for the end of a node, which nobody sees.
fn handed_out(record: &Record) -> Option<HandedOut<'_>> {
    let (seq, event, observed) = (record.seq, &record.pending.event, record.pending.observed);
    let is_probe =
        matches!(event, GuestEvent::Object { node, .. } if node.id.phantom_kind().is_some());
    (!is_probe && !event.is_end()).then_some(HandedOut { seq, event, observed })
}
