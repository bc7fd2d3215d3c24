// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program that watches files and directories with inotify and writes down what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use inotify::{EventMask, EventOwned, Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::PATIENCE;
use crate::event::{Event, Kind, render};
use crate::share::Share;

/// Of all recorders, since those of one share see each other's sentinels.
static BARRIERS_MADE: AtomicU32 = AtomicU32::new(0);

/// Room for several hundred events in one read.
const BUFFER_LEN: usize = 64 * 1024;

/// An inotify instance on the mount side of a [`Share`].
///
/// It reads only inside [`wait_until`](Self::wait_until) and [`barrier`](Self::barrier): between
/// them events wait in the kernel's queue, as with any busy program.
#[derive(Debug)]
pub struct Recorder {
    inotify: Inotify,
    share: Share,
    mask: WatchMask,
    recursive: bool,
    /// Watch descriptor → what it watches, relative to the mount side.
    watched: BTreeMap<i32, PathBuf>,
    barrier: i32,
    sentinels: BTreeSet<OsString>,
    events: Vec<Event>,
    /// Kernel cookies in order of appearance.
    cookies: Vec<u32>,
    listed: BTreeSet<PathBuf>,
}

impl Recorder {
    /// Every change; not OPEN, ACCESS and CLOSE_NOWRITE, which change nothing.
    pub const CHANGES: WatchMask = WatchMask::CREATE
        .union(WatchMask::MODIFY)
        .union(WatchMask::ATTRIB)
        .union(WatchMask::CLOSE_WRITE)
        .union(WatchMask::DELETE)
        .union(WatchMask::MOVE)
        .union(WatchMask::DELETE_SELF)
        .union(WatchMask::MOVE_SELF);

    /// What `--events all` tells: reads too.
    pub const ALL: WatchMask = Self::CHANGES
        .union(WatchMask::OPEN)
        .union(WatchMask::ACCESS)
        .union(WatchMask::CLOSE_NOWRITE);

    /// A recorder that watches nothing yet but the barrier directory of `share`.
    pub fn new(share: &Share, mask: WatchMask) -> Result<Self> {
        let inotify = Inotify::init().context("inotify_init")?;
        let barrier = share.barrier_in_mount();
        let wd = inotify
            .watches()
            .add(&barrier, WatchMask::CREATE)
            .with_context(|| format!("cannot watch {}", barrier.display()))?;
        Ok(Self {
            inotify,
            share: share.clone(),
            mask,
            recursive: false,
            watched: BTreeMap::new(),
            barrier: wd.get_watch_descriptor_id(),
            sentinels: BTreeSet::new(),
            events: Vec::new(),
            cookies: Vec::new(),
            listed: BTreeSet::new(),
        })
    }

    /// Watches one file or directory, given relative to the mount side of the share.
    pub fn watch(&mut self, path: &Path) -> Result<()> {
        self.add(path).with_context(|| format!("cannot watch {}", path.display()))
    }

    /// Watches a directory and all below it, now and as they appear, like `inotifywait -r`.
    pub fn watch_recursively(&mut self, path: &Path) -> Result<()> {
        self.recursive = true;
        self.watch(path)?;
        self.watch_below(path)
    }

    /// The events since the last [`take_events`](Self::take_events).
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Hands out the events and starts over; cookies are numbered on.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The same with those that are there and have not been read, without waiting for any.
    pub fn take_events_now(&mut self) -> Result<Vec<Event>> {
        self.read()?;
        Ok(self.take_events())
    }

    /// What a recursive recorder found when it listed a directory that it had just begun to watch.
    #[must_use]
    pub fn listed(&self) -> &BTreeSet<PathBuf> {
        &self.listed
    }

    /// Reads events until `done`, or fails with the events so far when `patience` is over.
    pub fn wait_until(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            self.read()?;
            if done(self) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {patience:?} in vain; events so far:\n{}", render(&self.events));
            }
            match poll(
                &mut [PollFd::new(&self.inotify, PollFlags::IN)],
                Some(&Timespec::try_from(left)?),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).context("poll on inotify"),
            }
        }
    }

    /// Waits until all that was changed on the host side before this call has been reported.
    ///
    /// A new file in a directory that only this recorder knows is the last change: once its
    /// creation is seen, everything before has been seen.
    pub fn barrier(&mut self) -> Result<()> {
        let nth = BARRIERS_MADE.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!("sentinel-{nth}"));
        let sentinel = self.share.make_sentinel(&name)?;
        self.wait_for_sentinel(&name)?;
        fs::remove_file(&sentinel).context("cannot remove the sentinel")
    }

    /// The mount's half of [`barrier`](Self::barrier): waits for a sentinel that somebody makes.
    pub(crate) fn wait_for_sentinel(&mut self, name: &OsStr) -> Result<()> {
        self.wait_until(PATIENCE, |recorder| recorder.sentinels.contains(name))
            .context("the barrier's own event did not come")
    }

    fn add(&mut self, path: &Path) -> std::io::Result<()> {
        let wd = self.inotify.watches().add(self.share.mount().join(path), self.mask)?;
        let path: PathBuf = path.iter().filter(|part| *part != ".").collect();
        self.watched.insert(wd.get_watch_descriptor_id(), path);
        Ok(())
    }

    /// Watches the directories below `path`, which is watched already. What has gone again in the
    /// meantime is passed over, as in any such program.
    fn watch_below(&mut self, path: &Path) -> Result<()> {
        let entries = match fs::read_dir(self.share.mount().join(path)) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error).context("cannot list a watched directory"),
        };
        for entry in entries {
            let entry = entry?;
            let below = path.join(entry.file_name());
            self.listed.insert(below.clone());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.watch_new(&below)?;
            }
        }
        Ok(())
    }

    fn watch_new(&mut self, path: &Path) -> Result<()> {
        match self.add(path) {
            Ok(()) => self.watch_below(path),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot watch {}", path.display())),
        }
    }

    fn read(&mut self) -> Result<()> {
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            let batch: Vec<EventOwned> = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events.map(|event| event.to_owned()).collect(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("read from inotify"),
            };
            for event in batch {
                self.record(event)?;
            }
        }
    }

    fn record(&mut self, raw: EventOwned) -> Result<()> {
        let wd = raw.wd.get_watch_descriptor_id();
        if wd == self.barrier {
            self.sentinels.extend(raw.name);
            return Ok(());
        }
        let watched = match self.watched.get(&wd) {
            Some(watched) => watched.clone(),
            None if raw.mask.contains(EventMask::Q_OVERFLOW) => PathBuf::new(),
            None => bail!("an event for a watch that has ended: {raw:?}"),
        };
        let kind = Kind::from_mask(raw.mask).with_context(|| format!("what is {raw:?}?"))?;
        let is_dir = raw.mask.contains(EventMask::ISDIR);
        let cookie = kind.is_move().then(|| self.number_of(raw.cookie));
        let object = Event::object_of(&watched, raw.name.as_deref());
        self.events.push(Event { kind, is_dir, object, cookie });
        if kind == Kind::Ignored {
            self.watched.remove(&wd);
        }
        match raw.name {
            Some(name) if self.recursive && is_dir && appears(kind) => {
                self.watch_new(&watched.join(name))
            }
            _ => Ok(()),
        }
    }

    fn number_of(&mut self, cookie: u32) -> usize {
        let known = self.cookies.iter().position(|seen| *seen == cookie);
        1 + known.unwrap_or_else(|| {
            self.cookies.push(cookie);
            self.cookies.len() - 1
        })
    }
}

fn appears(kind: Kind) -> bool {
    matches!(kind, Kind::Create | Kind::MovedTo)
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
