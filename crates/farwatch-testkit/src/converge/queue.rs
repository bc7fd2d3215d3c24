// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Queue`]: an inotify instance as the kernel gives it, without any interpretation.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use inotify::{EventMask, Inotify, WatchMask};

use super::worker::now;
use crate::event::{Event, Kind};

/// Room for several hundred events in one read.
const BUFFER_LEN: usize = 64 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// The watch descriptor.
    pub(super) watch: i32,
    pub(super) kind: Kind,
    pub(super) is_dir: bool,
    /// The entry of a watched directory; `None` for the watched object itself.
    pub(super) name: Option<String>,
    /// 0 for none.
    pub(super) cookie: u32,
    /// When it was read.
    pub(super) at: Duration,
}

impl Received {
    /// A line of text about `object`, with the time since `begin`.
    pub(super) fn render(&self, object: String, begin: Duration) -> String {
        let cookie = usize::try_from(self.cookie).ok().filter(|cookie| *cookie != 0);
        let event = Event { kind: self.kind, is_dir: self.is_dir, object, cookie };
        format!("{:>8} us  {event}", self.at.saturating_sub(begin).as_micros())
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Queue {
    inotify: Inotify,
}

impl Queue {
    /// An instance without watches.
    pub(super) fn new() -> Result<Self> {
        let inotify = Inotify::init().context("inotify_init")?;
        Ok(Self { inotify })
    }

    /// Watches what `path` leads to, a symbolic link itself if it is one. Returns the watch
    /// descriptor, which is the known one when the object is watched already.
    pub(super) fn watch(&mut self, path: &Path, mask: WatchMask) -> io::Result<i32> {
        let watch = self.inotify.watches().add(path, mask | WatchMask::DONT_FOLLOW)?;
        Ok(watch.get_watch_descriptor_id())
    }

    /// Watches the object that is open, whatever names it has by now.
    pub(super) fn watch_open(
        &mut self,
        object: BorrowedFd<'_>,
        mask: WatchMask,
    ) -> io::Result<i32> {
        let path = format!("/proc/self/fd/{}", object.as_raw_fd());
        Ok(self.inotify.watches().add(path, mask)?.get_watch_descriptor_id())
    }

    /// The events that are there; waits for none.
    ///
    /// # Errors
    /// When the queue has overflowed, or cannot be read.
    pub(super) fn read(&mut self) -> Result<Vec<Received>> {
        let mut buffer = vec![0; BUFFER_LEN];
        let mut received = Vec::new();
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(received),
                Err(error) => return Err(error).context("read from inotify"),
            };
            let at = now();
            for event in events {
                let kind = Kind::from_mask(event.mask).with_context(|| format!("{event:?}"))?;
                ensure!(kind != Kind::QOverflow, "the queue of a client has overflowed");
                received.push(Received {
                    watch: event.wd.get_watch_descriptor_id(),
                    kind,
                    is_dir: event.mask.contains(EventMask::ISDIR),
                    name: event.name.map(|name| name.to_string_lossy().into_owned()),
                    cookie: event.cookie,
                    at,
                });
            }
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
