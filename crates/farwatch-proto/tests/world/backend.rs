// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Backend`]: what the host's kernel queues for the daemon, by inotify or by fanotify.

use std::collections::{BTreeMap, VecDeque};

use farwatch_proto::host::inotify::{Report, WatchId};
use farwatch_proto::{Cookie, Mask, Name};

use crate::config::Config;
use crate::host::{Obj, Pid};

/// Something that happened to an entry.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) who: Pid,
    pub(crate) dir: Obj,
    pub(crate) name: &'a Name,
    pub(crate) object: Obj,
    pub(crate) mask: Mask,
}

/// An inotify instance: exact, but for equal neighbours that nobody has read yet.
#[derive(Debug)]
pub(crate) struct Backend {
    queue: VecDeque<Report>,
    watches: BTreeMap<Obj, WatchId>,
    last: i32,
    len_max: usize,
}

impl Backend {
    pub(crate) fn new(config: &Config) -> Self {
        let len_max = config.queue_max;
        Self { queue: VecDeque::new(), watches: BTreeMap::new(), last: 0, len_max }
    }

    /// `inotify_add_watch(2)`
    pub(crate) fn mark(&mut self, dir: Obj) -> WatchId {
        let last = &mut self.last;
        *self.watches.entry(dir).or_insert_with(|| {
            *last += 1;
            WatchId(*last)
        })
    }

    /// `inotify_rm_watch(2)`. `false` when there was no such watch.
    pub(crate) fn unmark(&mut self, watch: WatchId) -> bool {
        let dir = self.watches.iter().find_map(|(dir, id)| (*id == watch).then_some(*dir));
        let Some(dir) = dir else { return false };
        self.watches.remove(&dir);
        self.push(Report::Ignored(watch));
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How much waits, in the unit of [`Backend::read`]'s length.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// `read(2)`
    pub(crate) fn read(&mut self, len_max: usize) -> Vec<Report> {
        let len = self.queue.len().min(len_max);
        self.queue.drain(..len).collect()
    }

    pub(crate) fn entry(&mut self, told: &Told<'_>, itself: Option<Obj>) {
        if let Some(watch) = self.watches.get(&told.dir).copied() {
            self.push(Report::Entry {
                watch,
                name: told.name.clone(),
                mask: told.mask,
                cookie: None,
            });
        }
        if let Some(object) = itself {
            self.itself(told.who, object, told.mask);
        }
    }

    pub(crate) fn itself(&mut self, _who: Pid, object: Obj, mask: Mask) {
        if let Some(watch) = self.watches.get(&object).copied() {
            self.push(Report::Itself { watch, mask });
        }
    }

    /// One half of a rename.
    pub(crate) fn half(&mut self, (dir, name): (Obj, &Name), mask: Mask, cookie: Cookie) {
        if let Some(watch) = self.watches.get(&dir).copied() {
            let (name, cookie) = (name.clone(), Some(cookie));
            self.push(Report::Entry { watch, name, mask, cookie });
        }
    }

    /// A whole rename, as fanotify has it.
    #[expect(clippy::unused_self, reason = "inotify reports halves")]
    pub(crate) fn moved(
        &mut self,
        _who: Pid,
        _from: (Obj, &Name),
        _to: (Obj, &Name),
        _moved: Obj,
        _directory: bool,
    ) {
    }

    /// `fsnotify_insert_event()` with `inotify_merge()`: `event_compare()` looks at no cookie.
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
