// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Changes that programs in the guest make. The file system room calls one of these after the host has
//! carried the request out and before the reply goes out, so that the guest's view of the share follows
//! in the order in which the guest's kernel serialises them (it holds the directory's lock).
//!
//! A LOOKUP is not among them: it changes nothing and only makes known what is there
//! ([`Share::learn`], [`Share::learn_missing`]).

use farwatch_proto::host::OwnChange;
use farwatch_proto::{Name, NodeId};
use virtiofsd::fuse::Attr;

use super::{Identity, Keep, Share};

impl Share {
    /// CREATE, MKNOD, MKDIR, SYMLINK or LINK has succeeded: `name` in `dir` is now node `id`.
    ///
    /// The node is new to the guest, but for LINK, which gives a known file a further name, and for a
    /// CREATE without `O_EXCL`, which may have opened a file that was there. A directory is marked
    /// before this returns. `identity` is asked for only when the node is new to the tree. Returns what the guest may
    /// keep of the reply.
    pub(crate) fn guest_made(
        &self,
        id: NodeId,
        attr: &Attr,
        dir: NodeId,
        name: &Name,
        identity: impl FnOnce() -> Option<Identity>,
    ) -> Keep {
        let keep = self.learn(id, attr, dir, name, identity);
        self.guest_changed(OwnChange::Made(dir, name, id));
        keep
    }

    /// UNLINK or RMDIR has succeeded.
    pub(crate) fn guest_removed(&self, dir: NodeId, name: &Name) {
        self.guest_changed(OwnChange::Removed(dir, name));
    }

    /// RENAME has succeeded; whatever had the new name is replaced.
    pub(crate) fn guest_renamed(&self, from: (NodeId, &Name), to: (NodeId, &Name)) {
        self.guest_changed(OwnChange::Renamed(from, to));
    }

    /// RENAME has succeeded, and there still is something under the old name. After [`Share::guest_renamed`].
    pub(crate) fn guest_kept(&self, dir: NodeId, name: &Name) {
        self.guest_changed(OwnChange::Kept(dir, name));
    }

    /// RENAME with `RENAME_EXCHANGE` has succeeded.
    pub(crate) fn guest_exchanged(&self, one: (NodeId, &Name), two: (NodeId, &Name)) {
        self.guest_changed(OwnChange::Exchanged(one, two));
    }

    /// The host's watcher reports the call, whoever made it, so the watch thread wakes by itself. But a kernel that
    /// raises events itself may have been sent the last one about the name before, and then nothing follows the report.
    fn guest_changed(&self, change: OwnChange<'_>) {
        tracing::trace!(?change, "own");
        let mut state = self.lock();
        state.engine.guest_changed(change);
        if state.engine.is_native() {
            self.wake_for_work(&state);
        }
    }
}
