// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Marks of the directories that the guest knows: set before the guest hears of one, removed with its
//! last reference. How a mark is set is the backend's affair.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use farwatch_proto::host::Input;
use farwatch_proto::{Fid, NodeId};

use super::{Share, State};
use crate::watch::{Marked, NotMarked};

impl Share {
    /// Marks a directory. An error when it is not watched and should be. Called with the lock held, which
    /// keeps the node from being forgotten in the meantime.
    fn mark(&self, dir: &OwnedFd, fid: &Fid) -> Result<(), NotMarked> {
        let Some(backend) = &self.backend else { return Ok(()) };
        if backend.mark(dir.as_fd(), fid)? == Marked::InNewQueue {
            self.wake();
        }
        Ok(())
    }

    /// A directory becomes known, which is open as `fd`: it is marked, and its descriptor kept.
    pub(super) fn mark_known(&self, state: &mut State, id: NodeId, fd: OwnedFd, fid: &Fid) {
        state.file_systems.note(fid, &fd);
        if let Err(NotMarked { why }) = self.mark(&fd, fid) {
            state.not_marked(id, why);
            self.wake_for_work(state);
        }
        state.dirs.insert(id, fd);
    }

    /// Something was forgotten, so there may be room for the mark of a directory that has none.
    pub(super) fn mark_others(&self, state: &mut State, open: impl Fn(NodeId) -> Option<OwnedFd>) {
        while let Some(id) = state.unmarked.next() {
            let dir = state.dirs.at_hand(id).or_else(|| open(id).map(Arc::new));
            let Some(dir) = dir else { return };
            if !self.mark_late(state, id, &dir) {
                return;
            }
        }
    }

    /// Tries to mark a directory again that could not be. `true` when it is.
    pub(super) fn mark_late(&self, state: &mut State, id: NodeId, dir: &OwnedFd) -> bool {
        let fid = state.engine.tree().fid(id).filter(|_| state.unmarked.contains(id));
        let Some(fid) = fid else { return false };
        if let Err(NotMarked { why }) = self.mark(dir, &fid) {
            state.unmarked.insert(id, why);
            return false;
        }
        state.unmarked.remove(id);
        state.engine.input(Instant::now(), Input::Watched(id));
        self.wake_for_work(state);
        if state.unmarked.is_empty() {
            tracing::info!("every directory that the guest knows is watched again");
        }
        true
    }

    /// Removes the mark of a directory, which `dir` opens if that is needed.
    pub(super) fn unmark(&self, fid: &Fid, dir: impl FnOnce() -> Option<Arc<OwnedFd>>) {
        if let Some(backend) = &self.backend {
            let mut dir = Some(dir);
            backend.unmark(fid, &mut || dir.take().and_then(|dir| dir()));
        }
    }
}

impl State {
    /// A directory could not be marked, and is polled.
    fn not_marked(&mut self, id: NodeId, why: String) {
        if self.unmarked.is_empty() {
            let interval_s = self.poll_interval.as_secs();
            tracing::warn!(
                "cannot watch a directory: {why}. Such directories are listed and compared every \
                 {interval_s} s: their events are late, and changes undone in between have none"
            );
        }
        self.unmarked.insert(id, why);
        self.engine.input(Instant::now(), Input::Unwatched(id));
    }
}
