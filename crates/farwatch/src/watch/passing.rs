// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Passing`]: a barrier on its way through the kernel's queue.
//!
//! What was in the queue when the barrier was asked for is counted, not waited for to be over: a host
//! that never pauses could keep the queue from ever being empty.

use farwatch_proto::host::ReadMark;

use super::Intake;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Passing {
    barrier: Option<ReadMark>,
    /// What is to be read yet, in the queue's unit.
    left: u64,
    /// For an observer that holds back what was read: its position when all was.
    position: Option<u64>,
}

impl Passing {
    /// The queue is about to be read. `queued` says what is in it, after a barrier was asked for.
    pub(super) fn begin(&mut self, intake: &dyn Intake, queued: impl FnOnce() -> u64) {
        if self.barrier.is_none() {
            self.barrier = intake.to_read();
            if self.barrier.is_some() {
                (self.left, self.position) = (queued(), None);
            }
        }
    }

    /// Whether it is of interest what is read.
    pub(super) fn counts(&self) -> bool {
        self.barrier.is_some() && self.left > 0
    }

    /// So much has been read.
    pub(super) fn read(&mut self, len: u64) {
        self.left = self.left.saturating_sub(len);
    }

    /// The queue was empty.
    pub(super) fn drained(&mut self) {
        self.left = 0;
    }

    /// The position of an observer, if it is needed, when all has been read.
    pub(super) fn position(&mut self, now: u64) -> u64 {
        *self.position.get_or_insert(now)
    }

    /// Whether a barrier passes as soon as all that has been read is handed in.
    pub(super) fn passes(&self) -> bool {
        self.barrier.is_some() && self.left == 0
    }

    /// All that has been read is handed in. The barrier that has passed with it.
    pub(super) fn handed_in(&mut self) -> Option<ReadMark> {
        if self.passes() { self.barrier.take() } else { None }
    }
}
