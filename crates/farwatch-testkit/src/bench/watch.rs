// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A plain inotify program: one watch on one directory.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// The message when the kernel has dropped events.
const TOO_SLOW: &str = "the reader is too slow for its own queue";

/// See the module's documentation.
#[derive(Debug)]
pub struct Watch(OwnedFd);

/// What one call of [`Watch::drain`] has read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Events.
    pub events: usize,
    /// The kernel's queue was full.
    pub overflow: bool,
}

impl Watch {
    /// Watches `dir` for `events`.
    pub fn new(dir: &Path, events: WatchFlags) -> anyhow::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, dir, events)?;
        Ok(Self(fd))
    }

    /// Waits until there is something to read.
    pub fn wait(&self, patience: Duration) -> anyhow::Result<Instant> {
        let timeout = Timespec::try_from(patience)?;
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => bail!("no event within {patience:?}"),
            Ok(_) => Ok(Instant::now()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads until there is an event of the entry `name`; `patience` is for the next event of any. Returns when that
    /// was.
    ///
    /// # Errors
    /// When it does not come, or events were dropped.
    pub fn read_until(&self, name: &CStr, patience: Duration) -> anyhow::Result<Instant> {
        let mut buf = [const { MaybeUninit::uninit() }; 1 << 16];
        loop {
            let now = self.wait(patience)?;
            let mut reader = Reader::new(&self.0, &mut buf);
            loop {
                match reader.next() {
                    Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                        bail!(TOO_SLOW);
                    }
                    Ok(event) if event.file_name() == Some(name) => return Ok(now),
                    Ok(_) => {}
                    Err(Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    /// Reads the names of all events that are there.
    ///
    /// # Errors
    /// When events were dropped.
    pub(super) fn drain_into(&self, names: &mut VecDeque<CString>) -> anyhow::Result<()> {
        let overflow = self.each(|name| names.extend(name.map(CStr::to_owned)))?;
        ensure!(!overflow, TOO_SLOW);
        Ok(())
    }

    /// Reads all that is there.
    pub fn drain(&self) -> anyhow::Result<Seen> {
        let mut events = 0;
        let overflow = self.each(|_| events += 1)?;
        Ok(Seen { events, overflow })
    }

    /// Reads all that is there, and returns whether events were dropped.
    fn each(&self, mut event: impl FnMut(Option<&CStr>)) -> anyhow::Result<bool> {
        let mut buf = [const { MaybeUninit::uninit() }; 1 << 16];
        let mut reader = Reader::new(&self.0, &mut buf);
        let mut overflow = false;
        loop {
            match reader.next() {
                Ok(read) if read.events().contains(ReadFlags::QUEUE_OVERFLOW) => overflow = true,
                Ok(read) => event(read.file_name()),
                Err(Errno::AGAIN) => return Ok(overflow),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ends_with_the_event_of_the_entry_that_is_named_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::new(dir.path(), WatchFlags::CREATE).unwrap();
        std::fs::write(dir.path().join("other"), "").unwrap();
        watch.read_until(c"last", Duration::from_millis(1)).unwrap_err();
        std::fs::write(dir.path().join("last"), "").unwrap();
        watch.read_until(c"last", Duration::from_secs(5)).unwrap();
    }
}
