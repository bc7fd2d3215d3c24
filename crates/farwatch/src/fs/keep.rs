// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long the guest may keep what a reply says (`--cache events`).
//!
//! What nobody is told of is kept for as long as the file server says: with `--cache events` a second. Where each
//! change is replayed in the guest, which refreshes what its kernel has cached, it is kept for the lease. Which that
//! is, `share::keep` decides.

use std::io;
use std::time::Duration;

use farwatch_proto::NodeId;
use farwatch_proto::host::Held;
use virtiofsd::filesystem::{Context, Entry, FileSystem, OpenOptions};
use virtiofsd::fuse::Attr;

use super::Interposer;
use super::ahead::later;

impl Interposer {
    /// How long the guest may keep what the file server would have it keep for `timeout`. What is to be asked for again
    /// at once stays so.
    pub(super) fn kept(&self, timeout: Duration, is_told: impl FnOnce() -> bool) -> Duration {
        match self.lease {
            Some(lease) if !timeout.is_zero() && is_told() => timeout.max(lease),
            _ => timeout,
        }
    }

    /// Attributes of a node, as the guest is to have them.
    pub(super) fn attributes(&self, id: NodeId, attr: Attr, timeout: Duration) -> (Attr, Duration) {
        let timeout = self.kept(timeout, || self.share.keeps_attributes(id, attr.nlink));
        self.as_told(id, attr, timeout)
    }

    /// A reply that says that there is nothing under a name, which the guest may keep. `None` if it may not.
    pub(super) fn missing(&self, dir: NodeId) -> Option<Entry> {
        let lease = self.lease.filter(|_| self.share.keeps_missing(dir))?;
        // No node means that there is none, unlike ENOENT for some time (`fuse_lookup_name()`).
        Some(Entry {
            inode: 0,
            generation: 0,
            attr: Attr::default(),
            attr_timeout: Duration::ZERO,
            entry_timeout: lease,
        })
    }

    /// A node is about to be opened: `options` if the guest may go on using what it has cached of a file's content or a
    /// directory's listing, else none.
    ///
    /// # Errors
    /// [`later`] if the open is put off.
    pub(super) fn keeps_content(
        &self,
        ctx: &Context,
        id: NodeId,
        options: OpenOptions,
    ) -> io::Result<OpenOptions> {
        if self.share.agent_tid().is_none() {
            return Ok(OpenOptions::empty());
        }
        self.catch_up(ctx, Held::Node(id));
        let Ok((attr, _)) = self.inner.getattr(*ctx, id.get(), None) else {
            return Ok(OpenOptions::empty());
        };
        if self.puts_off(ctx, &attr) {
            return Err(later());
        }
        let keeps = self.lease.is_some() && self.share.keeps_content(id, attr.nlink);
        Ok(if keeps { options } else { OpenOptions::empty() })
    }
}
