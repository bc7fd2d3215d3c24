// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch sync`: a program in the guest waits until every change made so far has been delivered.
//! [`Passing`] is the watch thread's part (`watch/passing.rs`).

use farwatch_proto::host::{Progress, ReadMark};

use crate::sim::World;

/// A mark on its way through the queue of the host's kernel.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    mark: Option<ReadMark>,
    /// How many events are still to be read.
    left: usize,
    /// The position of the observer when they had been.
    position: Option<u64>,
}

impl Passing {
    /// The queue is about to be read, and so many events are in it.
    pub(crate) fn begin(&mut self, mark: Option<ReadMark>, queued: usize) {
        if self.mark.is_none() {
            self.mark = mark;
            (self.left, self.position) = (queued, None);
        }
    }

    /// So many events were read; none if the queue was empty.
    pub(crate) fn read(&mut self, len: usize) {
        self.left = if len == 0 { 0 } else { self.left.saturating_sub(len) };
    }

    pub(crate) fn position(&mut self, now: u64) -> u64 {
        *self.position.get_or_insert(now)
    }

    pub(crate) fn passes(&self) -> bool {
        self.mark.is_some() && self.left == 0
    }

    /// Everything that was read has been handed in.
    pub(crate) fn handed_in(&mut self) -> Option<ReadMark> {
        if self.passes() { self.mark.take() } else { None }
    }
}

impl World {
    /// Waits for a barrier. If nothing is changed in the meantime, what was delivered must be true then.
    pub(crate) async fn sys_sync(&self) {
        'again: loop {
            let (busy, changes) = (self.busy.get(), self.host.borrow().changes);
            let ticket = self.server.borrow_mut().ask_barrier();
            // Without an agent there is nobody to wait for.
            let Some(ticket) = ticket else { return };
            loop {
                self.step().await;
                let progress = self.server.borrow().progress(ticket);
                match progress {
                    Progress::Reached => break,
                    Progress::Void => continue 'again,
                    Progress::Unread | Progress::Stale | Progress::Sent => {
                        let moved = || self.server.borrow().progress(ticket) != progress;
                        self.wait(moved).await;
                    }
                }
            }
            self.note(|| format!("barrier {} is reached", ticket.get()));
            let quiet = busy == 0 && self.busy.get() == 0;
            if quiet
                && self.host.borrow().changes == changes
                && let Err(wrong) = self.check_names_now()
            {
                self.fail(format!("when a barrier was reached, {wrong}"));
            }
            return;
        }
    }
}
