// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the shared directory is still there. Nothing that the kernel reports says so as long as it is open, and what is
//! made in its place is another directory.

use std::sync::atomic::Ordering;

use farwatch_proto::NodeId;

use super::Share;

impl Share {
    /// Whether the shared directory has been deleted on the host. Looks, and logs it the first time. Called where
    /// somebody asks how the share is.
    pub(crate) fn has_lost_root(&self) -> bool {
        // Looked at without the lock.
        let root = { self.lock().dirs.at_hand(NodeId::ROOT) };
        // A directory that has been removed has no name, and none in it.
        let is_lost = root
            .and_then(|root| rustix::fs::fstat(&*root).ok())
            .is_some_and(|root| root.st_nlink == 0);
        if is_lost && !self.lost_root.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the shared directory has been deleted: it stays empty, and a new directory of \
                 the same name is not shared; mount again, or restart `farwatch serve`"
            );
        }
        is_lost
    }
}
