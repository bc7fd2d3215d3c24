// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Watcher`]: watches everything in the mount, with inotify and, where the kernel lets it, fanotify.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use farwatch_sys::fanotify::{EVENT_LEN_MAX, FAN_EVENT_ON_CHILD, FAN_ONDIR, FAN_RENAME, Fanotify};
use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::PATIENCE;
use crate::recorder::Recorder;

/// Files and directories of the server.
pub(super) const PATHS: [&str; 6] = [".", "file", "dir", "dir/leaf", "dir/sub", "dir/sub/deep"];
/// MODIFY to DELETE, as `FAN_*`: without what programs do by looking.
const FANOTIFY: u64 = 0x2ce | 0x100 | FAN_RENAME | FAN_ONDIR | FAN_EVENT_ON_CHILD;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Watcher {
    inotify: Mutex<Inotify>,
    /// None where the kernel has no fanotify for FUSE.
    fanotify: Option<Fanotify>,
    /// Of the root.
    root: i32,
}

impl Watcher {
    pub(super) fn of(at: &Path) -> Result<Self> {
        let inotify = Inotify::init().context("inotify_init")?;
        let mut root = 0;
        for path in PATHS {
            let wd = inotify.watches().add(at.join(path), Recorder::CHANGES);
            let wd = wd.with_context(|| format!("cannot watch {path}"))?.get_watch_descriptor_id();
            root = if path == "." { wd } else { root };
        }
        Ok(Self { inotify: Mutex::new(inotify), fanotify: fanotify(at).ok(), root })
    }

    /// Reads until there is an event with that name in the root. The names of those before it.
    pub(super) fn wait_for(&self, name: &str) -> Result<Vec<String>> {
        let until = Instant::now() + PATIENCE;
        let mut told = VecDeque::new();
        loop {
            let mut is_there = false;
            for (wd, event) in self.read()? {
                if event == name && (wd == self.root || name != super::SENTINEL) {
                    is_there = true;
                } else if !is_there {
                    told.push_back(event);
                }
            }
            if is_there {
                return Ok(told.into());
            }
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
            let inotify = self.inotify.lock().unwrap_or_else(PoisonError::into_inner);
            if poll(&mut [PollFd::new(&*inotify, PollFlags::IN)], Some(&left))? == 0 {
                bail!("no event of {name:?} came, but {told:?}");
            }
        }
    }

    /// The events that are there.
    pub(super) fn read(&self) -> Result<Vec<(i32, String)>> {
        if let Some(fanotify) = &self.fanotify {
            let mut buffer = [0; EVENT_LEN_MAX];
            while fanotify.read(&mut buffer).is_ok_and(|len| len > 0) {}
        }
        let mut inotify = self.inotify.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; 1 << 16];
        match inotify.read_events(&mut buffer) {
            Ok(events) => {
                let name = |name: Option<&OsStr>| {
                    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
                };
                let told =
                    events.map(|event| (event.wd.get_watch_descriptor_id(), name(event.name)));
                Ok(told.collect())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error).context("read from inotify"),
        }
    }

    /// Watches a file or directory once more, or for the first time.
    pub(super) fn watch(&self, path: &Path) {
        let inotify = self.inotify.lock().unwrap_or_else(PoisonError::into_inner);
        let all = WatchMask::ALL_EVENTS;
        drop(inotify.watches().add(path, all));
    }
}

fn fanotify(at: &Path) -> Result<Fanotify> {
    let group = Fanotify::open()?;
    for dir in [".", "dir", "dir/sub"] {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let dir = openat(CWD, at.join(dir), flags, Mode::empty())?;
        group.mark(std::os::fd::AsFd::as_fd(&dir), FANOTIFY)?;
    }
    Ok(group)
}
