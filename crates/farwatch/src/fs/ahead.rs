// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replies that would show a change of the host before the guest has been told of earlier ones: they wait, on a thread
//! that may. When and for how long, `share::ahead` decides.

use std::io;

use farwatch_proto::NodeId;
use farwatch_proto::host::Held;
use rustix::io::Errno;
use virtiofsd::filesystem::{Context, FileSystem};
use virtiofsd::fuse::Attr;

use super::{Interposer, attr};
use crate::device::{may_wait, put_off};

/// What the guest never sees: the request is served again.
pub(super) fn later() -> io::Error {
    Errno::AGAIN.into()
}

impl Interposer {
    /// A request is about to be served that shows how something is on the host, while the guest's kernel may hold the
    /// locks of `held`. If it was put off, this waits.
    pub(super) fn catch_up(&self, ctx: &Context, held: Held<'_>) {
        if may_wait() && !self.is_marked(ctx) {
            self.share.catch_up(held);
        }
    }

    /// Whether a reply that shows an object with these attributes is put off: then [`later`] is the answer.
    pub(super) fn puts_off(&self, ctx: &Context, attr: &Attr) -> bool {
        let is_ahead = || attr::changed(attr).is_some_and(|changed| self.share.is_ahead(changed));
        self.may_put_off(ctx) && is_ahead() && put_off()
    }

    /// The same of a reply that shows that there is nothing under a name of `dir`.
    pub(super) fn puts_off_missing(&self, ctx: &Context, dir: NodeId) -> bool {
        let changed = || {
            let (attr, _) = self.inner.getattr(*ctx, dir.get(), None).ok()?;
            attr::changed(&attr)
        };
        self.may_put_off(ctx) && self.share.would_be_ahead(changed) && put_off()
    }

    /// Whether a reply to a request could wait: a program's, while there is an agent, and not for the second time.
    fn may_put_off(&self, ctx: &Context) -> bool {
        self.share.agent_tid().is_some() && !may_wait() && !self.is_marked(ctx)
    }
}
