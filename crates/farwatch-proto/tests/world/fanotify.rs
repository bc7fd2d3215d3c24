// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Fanotify`]: a fanotify group of the host's with inode marks, FAN_REPORT_DFID_NAME_TARGET and
//! FAN_RENAME. It names process and object, and merges: `fanotify_merge()` adds the bits of an event to
//! a queued one of the same process, entry and object, however much lies in between, so their order is
//! lost. FAN_RENAME is merged too, with an equal FAN_RENAME (`fanotify_should_merge()`).

use std::collections::{BTreeSet, VecDeque};

use farwatch_proto::host::{HostChange, HostEntry};
use farwatch_proto::{Mask, Name};

use crate::host::{DAEMON, Obj, Pid, fid};

/// A queued event.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    Event {
        about: About,
        mask: Mask,
    },
    /// FAN_Q_OVERFLOW
    Overflow,
}

/// What two events that are merged have in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct About {
    who: Pid,
    what: What,
    object: Obj,
    directory: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    Entry(Obj, Name),
    Itself,
    Rename(Option<(Obj, Name)>, Option<(Obj, Name)>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Fanotify {
    queue: VecDeque<Record>,
    marks: BTreeSet<Obj>,
    /// `fs.fanotify.max_queued_events`
    len_max: usize,
}

impl Fanotify {
    /// With how many of the newest events of a hash bucket a new one is compared
    /// (`FANOTIFY_MERGE_MAX`). A bucket has hardly more than the events of one entry.
    const MERGE_MAX: usize = 128;

    pub(crate) fn new(len_max: usize) -> Self {
        Self { queue: VecDeque::new(), marks: BTreeSet::new(), len_max }
    }

    /// `fanotify_mark(2)`
    pub(crate) fn mark(&mut self, dir: Obj) {
        self.marks.insert(dir);
    }

    pub(crate) fn unmark(&mut self, dir: Obj) {
        self.marks.remove(&dir);
    }

    pub(crate) fn watches(&self, dir: Obj) -> bool {
        self.marks.contains(&dir)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// `read(2)`: at most so many.
    pub(crate) fn read(&mut self, len_max: usize) -> Vec<Record> {
        let len = self.queue.len().min(len_max);
        self.queue.drain(..len).collect()
    }

    /// An event of an entry. What changes of a directory is reported of itself alone.
    pub(crate) fn entry(&mut self, who: Pid, (dir, name): (Obj, &Name), object: Obj, mask: Mask) {
        let directory = mask.contains(Mask::ISDIR);
        if directory && mask.intersects(Mask::CONTENT) {
            self.itself(who, object, mask);
        } else if self.watches(dir) {
            let what = What::Entry(dir, name.clone());
            self.push(About { who, what, object, directory }, mask);
        }
    }

    pub(crate) fn itself(&mut self, who: Pid, object: Obj, mask: Mask) {
        if self.watches(object) {
            self.push(About { who, what: What::Itself, object, directory: true }, mask);
        }
    }

    /// FAN_RENAME, with the sides that are marked.
    pub(crate) fn moved(
        &mut self,
        who: Pid,
        from: (Obj, &Name),
        to: (Obj, &Name),
        object: Obj,
        directory: bool,
    ) {
        let side = |(dir, name): (Obj, &Name)| self.watches(dir).then(|| (dir, name.clone()));
        let (from, to) = (side(from), side(to));
        if from.is_some() || to.is_some() {
            let what = What::Rename(from, to);
            self.push(About { who, what, object, directory }, Mask::empty());
        }
    }

    fn push(&mut self, about: About, mask: Mask) {
        let same = |record: &&mut Record| matches!(record, Record::Event { about: it, .. } if *it == about);
        let bucket = self.queue.iter_mut().rev().filter(same).take(Self::MERGE_MAX);
        for record in bucket {
            if let Record::Event { mask: merged, .. } = record {
                *merged |= mask;
                return;
            }
        }
        if self.queue.len() < self.len_max {
            self.queue.push_back(Record::Event { about, mask });
        } else if !matches!(self.queue.back(), Some(Record::Overflow)) {
            self.queue.push_back(Record::Overflow);
        }
    }
}

impl Record {
    /// `watch/fanotify.rs`: the change, unless it is the daemon's own.
    pub(crate) fn into_change(self) -> Option<HostChange> {
        let Self::Event { about, mask } = self else { return Some(HostChange::Overflow) };
        let About { who, what, object, directory } = about;
        if who == DAEMON {
            return None;
        }
        let entry = |(dir, name): (Obj, Name)| HostEntry { dir: fid(dir), name };
        let known = Some(fid(object));
        Some(match what {
            What::Entry(dir, name) => {
                HostChange::Entry { entry: entry((dir, name)), mask, object: known }
            }
            What::Itself => HostChange::Object { object: fid(object), mask },
            What::Rename(from, to) => {
                let (from, to) = (from.map(entry), to.map(entry));
                HostChange::Move { from, to, object: known, directory }
            }
        })
    }
}
