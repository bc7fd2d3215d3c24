// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes the calls of a request that changes something, announced to the watcher: what each will be
//! reported as is in `reported`. Where reports say who caused them, nothing is announced.

use std::io;
use std::time::{Duration, SystemTime};

use farwatch_proto::NodeId;
use virtiofsd::filesystem::{Context, FileSystem};

use super::Interposer;
use super::reported::{Request, reported};
use crate::share::Announced;

/// A call that is being made.
struct Call<'a> {
    interposer: &'a Interposer,
    announced: Option<Announced>,
    succeeded: bool,
}

impl Interposer {
    /// Makes `call`, which carries out `request`.
    pub(super) fn own<T>(
        &self,
        request: &Request<'_>,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let announced = self.share.announce(|| reported(request));
        let mut making = Call { interposer: self, announced, succeeded: false };
        let result = call();
        making.succeeded = result.is_ok();
        result
    }

    /// When an object was changed last.
    fn changed(&self, node: NodeId) -> Option<SystemTime> {
        let ctx = Context { uid: 0.into(), gid: 0.into(), pid: 0 };
        let (attr, _) = self.inner.getattr(ctx, node.get(), None).ok()?;
        let since_epoch = Duration::new(attr.ctime, attr.ctimensec);
        SystemTime::UNIX_EPOCH.checked_add(since_epoch)
    }
}

/// A call that panics has ended too.
impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(announced) = &self.announced {
            let changed = || announced.object.and_then(|node| self.interposer.changed(node));
            self.interposer.share.end(announced, self.succeeded, changed);
        }
    }
}
