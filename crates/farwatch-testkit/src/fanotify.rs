// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that watch directories with fanotify: for renames, and for which object an event is about.

use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use farwatch_sys::fanotify::{
    DirRecord, EVENT_LEN_MAX, FAN_EVENT_ON_CHILD, FAN_ONDIR, FAN_RENAME, Fanotify, Record, records,
};
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
            let fd = open(dir)?;
            group.mark(fd.as_fd(), FAN_RENAME).with_context(|| dir.display().to_string())?;
            marked.push(fd);
        }
        Ok(Self { group, dirs: marked })
    }

    /// Waits for the next event, which must be the only one: `0/old 1/new` for a rename from the
    /// first of the directories to the second.
    pub fn next(&self) -> Result<String> {
        let mut buf = [0; 4 * EVENT_LEN_MAX];
        let len = read(&self.group, &mut buf)?;
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

/// A group with a mark on one directory, for what is done to its entries.
#[derive(Debug)]
pub struct Objects {
    group: Fanotify,
    dir: OwnedFd,
    /// In the order in which they were first told of, as they show themselves.
    known: Vec<String>,
}

impl Objects {
    /// `FAN_MODIFY`, of `linux/fanotify.h` as the others.
    pub const MODIFY: u64 = 0x2;
    /// `FAN_ATTRIB`
    pub const ATTRIB: u64 = 0x4;
    /// `FAN_CLOSE_WRITE`
    pub const CLOSE_WRITE: u64 = 0x8;
    /// `FAN_CREATE`
    pub const CREATE: u64 = 0x100;
    /// `FAN_DELETE`
    pub const DELETE: u64 = 0x200;
    /// `FAN_RENAME`
    pub const RENAME: u64 = FAN_RENAME;

    /// No object that the mount has under that name.
    pub const STAND_IN: usize = 0;

    /// What to do on the host in a directory with a file `f`, and what is told of each: events, the
    /// name, the number of the object.
    pub const DAY: [(&str, u64, &str, usize); 12] = [
        ("touch n", Self::CREATE | Self::CLOSE_WRITE, "n", 1),
        ("ln -s n l", Self::CREATE, "l", 2),
        ("mkfifo p", Self::CREATE, "p", 3),
        ("mknod c c 1 3", Self::CREATE, "c", 4),
        ("mknod b b 7 0", Self::CREATE, "b", 5),
        ("chmod 600 p", Self::ATTRIB, "p", 3),
        ("mv p q", Self::RENAME, "q", 3),
        ("truncate -s 1 f", Self::MODIFY | Self::CLOSE_WRITE, "f", 6),
        ("mkdir d", Self::CREATE, "d", 7),
        ("rm q", Self::DELETE, "q", 3),
        ("rmdir d", Self::DELETE, "d", 7),
        ("mv f g", Self::RENAME, "g", 6),
    ];

    /// Marks the directory's inode, in a group that names the objects of events
    /// (`FAN_REPORT_DFID_NAME_TARGET`).
    pub fn of(dir: &Path) -> Result<Self> {
        let group = Fanotify::open()?;
        ensure!(group.level().target_fid, "the kernel has no FAN_REPORT_TARGET_FID");
        let dir = open(dir)?;
        let content = Self::MODIFY | Self::ATTRIB | Self::CLOSE_WRITE;
        let names = Self::CREATE | Self::DELETE | Self::RENAME;
        group.mark(dir.as_fd(), content | names | FAN_ONDIR | FAN_EVENT_ON_CHILD)?;
        Ok(Self { group, dir, known: Vec::new() })
    }

    /// Waits until all of `mask` has been told of the entry `name`, for a rename the new name, and
    /// says which object it was: the first that was told of is 1. While the name leads to an object,
    /// that is the event's, or else the event is about a [`STAND_IN`](Self::STAND_IN).
    pub fn told(&mut self, mask: u64, name: &str) -> Result<usize> {
        let (mut missing, mut object) = (mask, None);
        while missing != 0 {
            let mut buf = [0; EVENT_LEN_MAX];
            let len = read(&self.group, &mut buf)?;
            for event in records(buf.get(..len).unwrap_or_default()) {
                let event = event?;
                let number = self.number(&event, name)?;
                ensure!(object.is_none_or(|object| object == number), "another: {event:?}");
                object = Some(number);
                missing &= !event.mask;
            }
        }
        object.context("no event was asked for")
    }

    fn number(&mut self, event: &Record<'_>, name: &str) -> Result<usize> {
        let entry = event.new.as_ref().or(event.dir.as_ref()).context("no entry")?;
        let dir = handle::fid(self.dir.as_fd())?;
        ensure!(entry.fid == dir && entry.name == name.as_bytes(), "not of {name}: {event:?}");
        let object = event.object.as_ref().context("no object")?;
        let here = handle::fid_at(self.dir.as_fd(), &CString::new(name)?, dir.fsid());
        if here.as_ref().is_ok_and(|(here, _mount)| here != object) {
            return Ok(Self::STAND_IN);
        }
        let object = format!("{object:?}");
        if !self.known.contains(&object) {
            self.known.push(object.clone());
        }
        let index = self.known.iter().position(|known| *known == object);
        Ok(index.map_or(0, |index| index + 1))
    }
}

fn open(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, dir, flags, Mode::empty()).with_context(|| dir.display().to_string())
}

/// Waits for events and reads them.
fn read(group: &Fanotify, buf: &mut [u8]) -> Result<usize> {
    let patience = Timespec::try_from(PATIENCE)?;
    let ready = poll(&mut [PollFd::new(group, PollFlags::IN)], Some(&patience))?;
    ensure!(ready == 1, "no event came");
    Ok(group.read(buf)?)
}
