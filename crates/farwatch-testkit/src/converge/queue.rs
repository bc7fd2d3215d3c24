// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Queue`]: an inotify instance as the kernel gives it, without any interpretation.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use inotify::{EventMask, Inotify, WatchMask};

use crate::event::Kind;

/// Room for several hundred events in one read.
const BUFFER_LEN: usize = 64 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The watch descriptor; -1 for an overflow.
    pub(super) watch: i32,
    pub(super) kind: Kind,
    pub(super) is_dir: bool,
    /// The entry of a watched directory; `None` for the watched object itself.
    pub(super) name: Option<String>,
    /// 0 for none.
    pub(super) cookie: u32,
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

    /// The events that are there; waits for none.
    pub(super) fn read(&mut self) -> Result<Vec<Told>> {
        let mut buffer = vec![0; BUFFER_LEN];
        let mut told = Vec::new();
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(told),
                Err(error) => return Err(error).context("read from inotify"),
            };
            for event in events {
                let kind = Kind::from_mask(event.mask).with_context(|| format!("{event:?}"))?;
                told.push(Told {
                    watch: event.wd.get_watch_descriptor_id(),
                    kind,
                    is_dir: event.mask.contains(EventMask::ISDIR),
                    name: event.name.map(|name| name.to_string_lossy().into_owned()),
                    cookie: event.cookie,
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
