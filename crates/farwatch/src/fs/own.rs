// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes the calls of a request that changes something, announced to the watcher: what each will be
//! reported as is in `reported`. Where reports say who caused them, nothing is announced.

use std::io;
use std::time::SystemTime;

use farwatch_proto::NodeId;
use rustix::io::Errno;
use virtiofsd::filesystem::FileSystem;

use super::reported::{Request, reported};
use super::{Interposer, attr, own_context};
use crate::share::Announced;

/// How often a call is made again that has failed for no reason.
const TRIES_MAX: u32 = 8;

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

    /// The same for a request that changes names.
    pub(super) fn own_name<T>(
        &self,
        request: &Request<'_>,
        call: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        settled(|| self.own(request, &call))
    }

    /// When an object was changed last.
    fn changed(&self, node: NodeId) -> Option<SystemTime> {
        let ctx = own_context();
        let (attr, _) = self.inner.getattr(ctx, node.get(), None).ok()?;
        attr::changed(&attr)
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

/// Changes a name. virtiofsd 1.14 reads errno after it has taken and dropped locks, which may have left EAGAIN there
/// (`after_invalidating_path()`); no file system gives that for a name. Where the call has failed, the second time
/// tells why.
fn settled<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let again = |error: &io::Error| error.raw_os_error() == Some(Errno::AGAIN.raw_os_error());
    let mut result = call();
    for _ in 0..TRIES_MAX {
        if !result.as_ref().is_err_and(again) {
            break;
        }
        result = call();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_on_a_name_that_failed_for_no_reason_is_repeated_until_it_gives_one() {
        let errors = |mut results: Vec<io::Result<()>>| {
            settled(|| results.remove(0)).map_err(|error| error.raw_os_error())
        };
        let failed = |errno: Errno| Err(io::Error::from(errno));
        let wanted = Err(Some(Errno::NOTEMPTY.raw_os_error()));
        assert_eq!(errors(vec![failed(Errno::AGAIN), failed(Errno::NOTEMPTY)]), wanted);
        assert_eq!(errors(vec![failed(Errno::AGAIN), Ok(())]), Ok(()));
        let for_ever = (0..=TRIES_MAX).map(|_| failed(Errno::AGAIN)).collect();
        assert_eq!(errors(for_ever), Err(Some(Errno::AGAIN.raw_os_error())));
    }
}
