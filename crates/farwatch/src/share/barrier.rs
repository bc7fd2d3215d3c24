// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Barriers, between a program in the guest that asks, the watch thread, and the agent. When one is
//! reached is the engine's decision; here it is waited for.

use std::time::Instant;

use farwatch_proto::NodeId;
use farwatch_proto::host::{Progress, Ticket};
use farwatch_proto::wire::sync::{Answer, State};
use rustix::io::Errno;

use super::Share;

impl Share {
    /// How far a barrier is, or a new one without a `ticket`. Waits until `deadline` for it to be
    /// reached.
    ///
    /// # Errors
    /// Those of `docs/PROTOCOL.md`, section 9.
    pub(super) fn progress(
        &self,
        ticket: Option<Ticket>,
        deadline: Option<Instant>,
    ) -> Result<Answer, Errno> {
        if self.backend.is_none() {
            return Err(Errno::OPNOTSUPP);
        }
        if self.has_lost_root() {
            return Err(Errno::NOENT);
        }
        let mut waiter = self.outbox.waiter(deadline);
        let ticket = match ticket {
            Some(ticket) => ticket,
            None => self.lock().engine.ask_barrier().ok_or(Errno::NOTCONN)?,
        };
        self.wake();
        loop {
            let locked = self.lock();
            let progress = locked.engine.progress(ticket);
            let unwatched = locked.engine.uncompared_len(progress == Progress::Reached);
            let unwatched = u32::try_from(unwatched).unwrap_or(u32::MAX);
            drop(locked);
            let state = match progress {
                Progress::Void => return Err(Errno::STALE),
                Progress::Reached => State::Reached,
                Progress::Unread => State::Unread,
                Progress::Stale => State::Stale,
                Progress::Sent => State::Sent,
            };
            if state == State::Reached || !waiter.wait() {
                return Ok(Answer { ticket, state, unwatched });
            }
        }
    }

    /// The agent looks for the node of a probe, which does not exist: it has replayed everything sent before.
    pub(crate) fn probed(&self, node: NodeId) {
        let mut state = self.lock();
        state.pace.goes_on();
        let seen = state.engine.probe_seen(node);
        drop(state);
        if seen {
            self.outbox.wake_waiters();
            // There is room for another probe.
            self.wake();
        }
    }
}
