// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Inotify`]: an inotify instance of the host's. Its order is exact; an event that equals the one
//! before it, if that has not been read, is dropped (`inotify_handle_inode_event()`).

use std::collections::{BTreeMap, VecDeque};

use farwatch_proto::host::inotify::{Report, WatchId};
use farwatch_proto::{Cookie, Mask, Name};

use crate::host::Obj;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Inotify {
    queue: VecDeque<Report>,
    watches: BTreeMap<Obj, WatchId>,
    last: i32,
    /// `fs.inotify.max_queued_events`
    len_max: usize,
}

impl Inotify {
    pub(crate) fn new(len_max: usize) -> Self {
        Self { queue: VecDeque::new(), watches: BTreeMap::new(), last: 0, len_max }
    }

    /// `inotify_add_watch(2)`
    pub(crate) fn add(&mut self, dir: Obj) -> WatchId {
        let last = &mut self.last;
        *self.watches.entry(dir).or_insert_with(|| {
            *last += 1;
            WatchId(*last)
        })
    }

    /// `inotify_rm_watch(2)`. `false` if there was no such watch.
    pub(crate) fn remove(&mut self, watch: WatchId) -> bool {
        let dir = self.watches.iter().find_map(|(dir, id)| (*id == watch).then_some(*dir));
        let Some(dir) = dir else { return false };
        self.watches.remove(&dir);
        self.push(Report::Ignored(watch));
        true
    }

    pub(crate) fn watches(&self, dir: Obj) -> bool {
        self.watches.contains_key(&dir)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// `read(2)`: at most so many.
    pub(crate) fn read(&mut self, len_max: usize) -> Vec<Report> {
        let len = self.queue.len().min(len_max);
        self.queue.drain(..len).collect()
    }

    /// An event of an entry.
    pub(crate) fn entry(&mut self, dir: Obj, name: &Name, mask: Mask, cookie: Option<Cookie>) {
        if let Some(watch) = self.watches.get(&dir).copied() {
            self.push(Report::Entry { watch, name: name.clone(), mask, cookie });
        }
    }

    /// An event of a watched directory itself.
    pub(crate) fn itself(&mut self, dir: Obj, mask: Mask) {
        if let Some(watch) = self.watches.get(&dir).copied() {
            self.push(Report::Itself { watch, mask });
        }
    }

    fn push(&mut self, report: Report) {
        if self.queue.back().is_some_and(|last| is_equal(last, &report)) {
            return;
        }
        if self.queue.len() >= self.len_max {
            if self.queue.back() != Some(&Report::Overflow) {
                self.queue.push_back(Report::Overflow);
            }
            return;
        }
        self.queue.push_back(report);
    }
}

/// `event_compare()`, which ignores cookies.
fn is_equal(one: &Report, two: &Report) -> bool {
    match (one, two) {
        (
            Report::Entry { watch, name, mask, .. },
            Report::Entry { watch: watch2, name: name2, mask: mask2, .. },
        ) => (watch, name, mask) == (watch2, name2, mask2),
        (Report::Itself { .. }, Report::Itself { .. }) => one == two,
        _ => false,
    }
}
