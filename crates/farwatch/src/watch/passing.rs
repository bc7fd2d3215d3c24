// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Passing`]: a barrier on its way through the kernel's queue, and [`Queued`], by which it is seen that it has come through.
//!
//! What was in the queue when the barrier was asked for is counted, not waited for to be over: a host
//! that never pauses could keep the queue from ever being empty.

use farwatch_proto::host::ReadMark;

use super::Intake;

/// What was in the kernel's queue at a moment, until all of it has been read.
#[derive(Debug)]
pub(super) struct Queued {
    /// What is to be read yet, in the queue's unit.
    left: u64,
    /// For an observer that holds back what was read: its position when all was.
    position: Option<u64>,
}

impl Queued {
    /// So much is in the queue.
    pub(super) fn new(len: u64) -> Self {
        Self { left: len, position: None }
    }

    /// So much has been read.
    pub(super) fn read(&mut self, len: u64) {
        self.left = self.left.saturating_sub(len);
    }

    /// The position of an observer, which is `now`, when all had been read; `None` before that.
    pub(super) fn position(&mut self, now: u64) -> Option<u64> {
        (self.left == 0).then(|| *self.position.get_or_insert(now))
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Passing {
    barrier: Option<(ReadMark, Queued)>,
}

impl Passing {
    /// The queue is about to be read. `queued` says what is in it, after a barrier was asked for.
    pub(super) fn begin(&mut self, intake: &dyn Intake, queued: impl FnOnce() -> u64) {
        if self.barrier.is_none() {
            self.barrier = intake.to_read().map(|mark| (mark, Queued::new(queued())));
        }
    }

    /// Whether it is of interest what is read.
    pub(super) fn counts(&self) -> bool {
        self.barrier.as_ref().is_some_and(|(_, queued)| queued.left > 0)
    }

    /// So much has been read.
    pub(super) fn read(&mut self, len: u64) {
        if let Some((_, queued)) = &mut self.barrier {
            queued.read(len);
        }
    }

    /// The queue was empty.
    pub(super) fn drained(&mut self) {
        self.read(u64::MAX);
    }

    /// As [`Queued::position`], of what the barrier passes with.
    pub(super) fn position(&mut self, now: u64) -> Option<u64> {
        self.barrier.as_mut().and_then(|(_, queued)| queued.position(now))
    }

    /// Whether a barrier passes as soon as all that has been read is handed in.
    pub(super) fn passes(&self) -> bool {
        self.barrier.as_ref().is_some_and(|(_, queued)| queued.left == 0)
    }

    /// All that has been read is handed in. The barrier that has passed with it.
    pub(super) fn handed_in(&mut self) -> Option<ReadMark> {
        self.barrier.take_if(|(_, queued)| queued.left == 0).map(|(mark, _)| mark)
    }
}
