// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Reader`] and [`Watcher`]: read the objects in the mount, at random or after each event.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Report;
use super::history::{FILES, History, Object};
use super::writer::Places;

/// How an object is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// `stat(2)` of a path.
    Stat,
    /// `fstat(2)` of a file that is open.
    StatOpen,
    /// `open(2)` and `read(2)`.
    Open,
    /// `read(2)` of a file that is open.
    ReadOpen,
    /// A listing.
    List,
    /// `stat(2)` of a name that is there.
    Find,
    /// `stat(2)` of a name that is not there any more.
    Miss,
}

impl Way {
    /// The ways in which an object can be read.
    fn of(object: Object) -> &'static [Self] {
        match object {
            Object::Size(_) => &[Self::Stat, Self::StatOpen],
            Object::Content(_) => &[Self::Open, Self::ReadOpen],
            Object::Name | Object::Made => &[Self::List, Self::Find, Self::Miss],
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    places: Places,
    history: &'a History,
    random: fastrand::Rng,
    /// Open since before the first change.
    sizes: Vec<File>,
    contents: Vec<File>,
    /// The last change of which this reader has seen an effect.
    seen: u64,
    report: Report,
}

impl<'a> Reader<'a> {
    pub(super) fn new(mount: &Path, history: &'a History, seed: u64) -> Result<Self> {
        let places = Places::new(mount);
        let sizes = (0..FILES).map(|nth| File::open(places.size(nth)));
        let sizes = sizes.collect::<io::Result<_>>().context("the mount")?;
        let contents = (0..FILES).map(|nth| File::open(places.content(nth)));
        let contents = contents.collect::<io::Result<_>>().context("the mount")?;
        let random = fastrand::Rng::with_seed(seed);
        Ok(Self { places, history, random, sizes, contents, seen: 0, report: Report::default() })
    }

    pub(super) fn read_until(&mut self, ended: &AtomicBool) -> Result<Report> {
        while !ended.load(Ordering::Relaxed) {
            self.read_one()?;
        }
        Ok(self.take_report())
    }

    pub(super) fn take_report(&mut self) -> Report {
        std::mem::take(&mut self.report)
    }

    /// Reads an object in each way.
    pub(super) fn read_each_way(&mut self, object: Object) -> Result<()> {
        Way::of(object).iter().try_for_each(|way| self.read(object, *way))
    }

    fn read_one(&mut self) -> Result<()> {
        let object = Object::ALL[self.random.usize(..Object::ALL.len())];
        let ways = Way::of(object);
        let way = ways[self.random.usize(..ways.len())];
        self.read(object, way)
    }

    fn read(&mut self, object: Object, way: Way) -> Result<()> {
        let (seen, last) = (self.seen, self.history.last(object));
        let began = Instant::now();
        let shown = self.shown(object, way, last).with_context(|| format!("{way:?} {object:?}"))?;
        let Some(shown) = shown else { return Ok(()) };
        self.report.add(way, self.history.judge(object, shown, began, seen));
        self.seen = self.seen.max(shown);
        Ok(())
    }

    /// The number that is shown; `None` if that cannot be told.
    fn shown(&self, object: Object, way: Way, last: u64) -> io::Result<Option<u64>> {
        let dir = if object == Object::Name { self.places.names() } else { self.places.made() };
        match (object, way) {
            (Object::Size(nth), Way::StatOpen) => self.sizes[nth].metadata().map(|m| Some(m.len())),
            (Object::Size(nth), _) => fs::metadata(self.places.size(nth)).map(|m| Some(m.len())),
            (Object::Content(nth), Way::ReadOpen) => number_in(&self.contents[nth]).map(Some),
            (Object::Content(nth), _) => {
                number_in(&File::open(self.places.content(nth))?).map(Some)
            }
            (_, Way::List) => listed(&dir),
            // Whoever finds nothing sees the change before, or a later one.
            (_, Way::Find) => {
                let is_there = exists(&dir.join(last.to_string()))?;
                if is_there {
                    return Ok(Some(last));
                }
                let at_rest = self.history.is_at_rest_after(object, last);
                Ok(last.checked_sub(1).filter(|_| at_rest))
            }
            (_, _) => {
                let Some(before) = self.history.before(object, last) else { return Ok(None) };
                let is_there = exists(&dir.join(before.to_string()))?;
                Ok(Some(if is_there { before } else { last }))
            }
        }
    }
}

fn number_in(file: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The highest number in a directory. A listing while a file is renamed can show neither of its names.
fn listed(dir: &Path) -> io::Result<Option<u64>> {
    let mut highest = None;
    for entry in fs::read_dir(dir)? {
        highest = highest.max(number(&entry?.file_name()));
    }
    Ok(highest)
}

fn number(name: &OsStr) -> Option<u64> {
    name.to_str()?.parse().ok()
}

fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Watcher<'a> {
    reader: Reader<'a>,
    inotify: Inotify,
}

impl<'a> Watcher<'a> {
    /// Reads after each event.
    const READS: usize = 3;

    pub(super) fn new(mount: &Path, history: &'a History, seed: u64) -> Result<Self> {
        let reader = Reader::new(mount, history, seed)?;
        let inotify = Inotify::init()?;
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::MODIFY;
        for dir in reader.places.dirs() {
            inotify.watches().add(dir, mask)?;
        }
        Ok(Self { reader, inotify })
    }

    pub(super) fn watch_until(&mut self, ended: &AtomicBool) -> Result<Report> {
        let mut buffer = [0; 4096];
        let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !ended.load(Ordering::Relaxed) {
            poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], Some(&pause))?;
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).context("inotify"),
            };
            for event in events {
                // A name that has a number tells which change it was.
                let told = event.name.and_then(number).unwrap_or_default();
                self.reader.seen = self.reader.seen.max(told);
                (0..Self::READS).try_for_each(|_| self.reader.read_one())?;
            }
        }
        Ok(self.reader.take_report())
    }
}
