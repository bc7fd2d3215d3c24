// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Marks of the directories that the guest knows: set before the guest hears of one, removed with its
//! last reference. How a mark is set is the backend's affair.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use farwatch_proto::host::Input;
use farwatch_proto::{Fid, NodeId};

use super::{Share, State};
use crate::watch::{Marked, NotMarked};

impl Share {
    /// Marks a directory. `false` when it is not watched and should be. Called with the lock held, which
    /// keeps the node from being forgotten in the meantime.
    pub(super) fn mark(&self, dir: &OwnedFd, fid: &Fid) -> bool {
        let Some(backend) = &self.backend else { return true };
        match backend.mark(dir.as_fd(), fid) {
            Ok(Marked::InKnownQueue) => true,
            Ok(Marked::InNewQueue) => {
                self.wake();
                true
            }
            Err(NotMarked { error, remedy }) => {
                let before = self.unwatched.fetch_add(1, Ordering::Relaxed);
                if before == 0 {
                    tracing::warn!(%error, "a directory cannot be watched: changes in it will not be \
                        seen by the guest ({remedy})");
                }
                false
            }
        }
    }

    /// A directory becomes known, which is open as `fd`: it is marked, and its descriptor kept.
    pub(super) fn mark_known(&self, state: &mut State, id: NodeId, fd: OwnedFd, fid: &Fid) {
        state.file_systems.note(fid, &fd);
        if !self.mark(&fd, fid) {
            state.unmarked.insert(id);
        }
        state.dirs.insert(id, fd);
    }

    /// Something was forgotten, so there may be room for the mark of a directory that has none.
    pub(super) fn mark_late(&self, state: &mut State, open: impl Fn(NodeId) -> Option<OwnedFd>) {
        while let Some(id) = state.unmarked.pop() {
            let Some(fid) = state.engine.tree().fid(id) else { continue };
            let dir = state.dirs.at_hand(id).or_else(|| open(id).map(Arc::new));
            let Some(dir) = dir else { continue };
            if !self.mark(&dir, &fid) {
                state.unmarked.insert(id);
                return;
            }
            // What has happened in it in the meantime.
            state.engine.input(Instant::now(), Input::Lost(fid));
            self.wake_for_work(state);
            tracing::info!(%id, "a directory is watched at last");
        }
    }

    /// Removes the mark of a directory, which `dir` opens if that is needed.
    pub(super) fn unmark(&self, fid: &Fid, dir: impl FnOnce() -> Option<Arc<OwnedFd>>) {
        if let Some(backend) = &self.backend {
            let mut dir = Some(dir);
            backend.unmark(fid, &mut || dir.take().and_then(|dir| dir()));
        }
    }
}
