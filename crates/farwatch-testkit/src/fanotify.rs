// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program that watches directories for renames with fanotify.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use farwatch_sys::fanotify::{DirRecord, EVENT_LEN_MAX, FAN_RENAME, Fanotify, records};
use farwatch_sys::handle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};

use crate::PATIENCE;

/// A group with a mark for FAN_RENAME on each of some directories.
#[derive(Debug)]
pub struct Renames {
    group: Fanotify,
    dirs: Vec<OwnedFd>,
}

impl Renames {
    /// Marks the directories' inodes.
    pub fn of<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let group = Fanotify::open()?;
        let mut marked = Vec::new();
        for dir in dirs {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(CWD, dir, flags, Mode::empty())
                .with_context(|| dir.display().to_string())?;
            group.mark(fd.as_fd(), FAN_RENAME).with_context(|| dir.display().to_string())?;
            marked.push(fd);
        }
        Ok(Self { group, dirs: marked })
    }

    /// Waits for the next event, which must be the only one: `0/old 1/new` for a rename from the
    /// first of the directories to the second.
    pub fn next(&self) -> Result<String> {
        let patience = Timespec::try_from(PATIENCE)?;
        let ready = poll(&mut [PollFd::new(&self.group, PollFlags::IN)], Some(&patience))?;
        ensure!(ready == 1, "no event came");
        let mut buf = [0; 4 * EVENT_LEN_MAX];
        let len = self.group.read(&mut buf)?;
        let events = records(buf.get(..len).unwrap_or_default()).collect::<Result<Vec<_>, _>>()?;
        let [rename] = &events[..] else { bail!("one event was expected: {events:?}") };
        ensure!(rename.mask == FAN_RENAME, "not a rename: {rename:?}");
        let (old, new) = (self.entry(rename.old.as_ref())?, self.entry(rename.new.as_ref())?);
        Ok(format!("{old} {new}"))
    }

    fn entry(&self, entry: Option<&DirRecord<'_>>) -> Result<String> {
        let entry = entry.context("half of a rename")?;
        for (n, dir) in self.dirs.iter().enumerate() {
            if entry.fid == handle::fid(dir.as_fd())? {
                return Ok(format!("{n}/{}", String::from_utf8_lossy(entry.name)));
            }
        }
        bail!("of another directory: {entry:?}")
    }
}
