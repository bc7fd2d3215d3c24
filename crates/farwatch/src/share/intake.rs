// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The share as the [`Intake`] of the watch thread.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use farwatch_proto::NodeId;
use farwatch_proto::host::{Input, Output, ReadMark, Tree};

use super::Share;
use crate::watch::{Backend, Dropped, Intake, Observed};

impl Intake for Share {
    fn backend(&self) -> Option<&dyn Backend> {
        self.backend.as_deref()
    }

    fn watch_begins(&self, work: Arc<OwnedFd>) {
        // A second watch thread would find every directory listed by the first.
        let _first = self.work.set(work);
        self.lock().looks = true;
    }

    /// Events that wait for a look on the host are sent without one from now on.
    fn watch_ended(&self) {
        self.lock().looks = false;
        self.outbox.wake();
    }

    fn inspect(&self, look: &mut dyn FnMut(&Tree)) {
        look(self.lock().engine.tree());
    }

    fn take_in(&self, observe: &mut dyn FnMut(&Tree) -> Observed) {
        let state = &mut *self.lock();
        let Observed { changes, drained, read_at } = observe(state.engine.tree());
        let now = Instant::now();
        let read_at = read_at.unwrap_or(now);
        for change in changes {
            tracing::trace!(?change, "observed");
            state.count_observed(read_at, &change);
            state.engine.input(read_at, Input::Change(change));
        }
        if let Some(at) = drained {
            state.engine.input(now, Input::Drained(at));
        }
    }

    fn input(&self, input: Input) {
        self.lock().engine.input(Instant::now(), input);
    }

    fn poll_output(&self) -> Output {
        self.lock().engine.poll_output(Instant::now())
    }

    fn open_dir(&self, id: NodeId) -> Option<Arc<OwnedFd>> {
        self.open_known_dir(id)
    }

    fn mark_again(&self, id: NodeId) -> bool {
        let Some(fd) = self.open_known_dir(id) else { return false };
        self.mark_late(&mut self.lock(), id, &fd)
    }

    fn dir_at_hand(&self, id: NodeId) -> Option<Arc<OwnedFd>> {
        self.lock().dirs.at_hand(id)
    }

    fn wake_sinks(&self) {
        if let Some(leader) = self.leader.get() {
            leader.lock().unwrap_or_else(PoisonError::into_inner).leads(Instant::now());
        }
        self.outbox.wake();
    }

    fn dropped(&self) -> Dropped {
        let engine = &self.lock().engine;
        Dropped { dirs: engine.stale_len(), events: engine.events_forgotten() }
    }

    fn holds_opens(&self) -> bool {
        !self.is_native()
    }

    fn to_read(&self) -> Option<ReadMark> {
        self.lock().engine.to_read()
    }
}
