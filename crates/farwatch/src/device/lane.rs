// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Lane`]: the way to a thread that may wait, for requests off a queue's own thread.

use super::gate::Gate;
use crate::sync::{Receiver, SyncSender, TrySendError, sync_channel};

/// The way to the thread, which ends when this is dropped.
pub(super) struct Lane<T>(SyncSender<Job<T>>);

/// The thread's end of it.
pub(super) struct Jobs<T>(Receiver<Job<T>>);

enum Job<T> {
    Request(T),
    /// Dropped when all that was sent before is done.
    Barrier(#[expect(dead_code, reason = "its end is the signal")] SyncSender<()>),
}

/// A lane on which `waiting_max` requests may wait for the thread.
pub(super) fn lane<T>(waiting_max: usize) -> (Lane<T>, Jobs<T>) {
    let (sender, receiver) = sync_channel(waiting_max);
    (Lane(sender), Jobs(receiver))
}

impl<T> Lane<T> {
    /// Hands a request to the thread, or gives it back when too many wait.
    pub(super) fn push(&self, request: T) -> Result<(), T> {
        match self.0.try_send(Job::Request(request)) {
            Err(TrySendError::Full(Job::Request(request))) => Err(request),
            _ => Ok(()),
        }
    }

    /// Returns when no request of the past is waiting. With the gate closed, that is soon.
    pub(super) fn drain(&self) {
        let (barrier, reached) = sync_channel(0);
        if self.0.send(Job::Barrier(barrier)).is_ok() {
            // The other end is never used: this ends with an error, when it is dropped.
            let _ = reached.recv();
        }
    }
}

impl<T> Jobs<T> {
    /// Serves requests until the lane is gone. What comes to a gate that is closed is dropped: when the session is over,
    /// so is its ring.
    pub(super) fn serve(&self, gate: &Gate, mut serve: impl FnMut(T)) {
        while let Ok(job) = self.0.recv() {
            let Job::Request(request) = job else { continue };
            let Some(_admission) = gate.admit() else { continue };
            serve(request);
        }
    }
}
