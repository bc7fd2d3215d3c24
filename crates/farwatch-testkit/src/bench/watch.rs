// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A plain inotify program: one watch on one directory.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

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

    /// Reads all that is there.
    pub fn drain(&self) -> anyhow::Result<Seen> {
        let mut buf = [const { MaybeUninit::uninit() }; 1 << 16];
        let mut reader = Reader::new(&self.0, &mut buf);
        let mut seen = Seen::default();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    seen.overflow = true;
                }
                Ok(_) => seen.events += 1,
                Err(Errno::AGAIN) => return Ok(seen),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
