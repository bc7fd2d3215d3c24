// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A host with two directories, as an observer of inotify's reports sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Instant;

use farwatch_proto::host::inotify::{CallId, Drained, Expected, Found, Observer, Report, WatchId};
use farwatch_proto::host::{HostChange, HostEntry, Learned, Tree};
use farwatch_proto::{Cookie, Fid, FileKind, Generation, Mask, Name, NodeId};

pub(crate) const A: WatchId = WatchId(1);
pub(crate) const B: WatchId = WatchId(2);

pub(crate) fn fid(of: &str) -> Fid {
    Fid::new([1, 2], 1, of.as_bytes()).unwrap()
}

pub(crate) fn name(name: &str) -> Name {
    Name::parse(name.as_bytes()).unwrap()
}

/// `dir/name`
pub(crate) fn entry(path: &str) -> HostEntry {
    let (dir, of) = path.split_once('/').unwrap();
    HostEntry { dir: fid(dir), name: name(of) }
}

pub(crate) fn report(watch: WatchId, of: &str, mask: Mask) -> Report {
    Report::Entry { watch, name: name(of), mask, cookie: None }
}

pub(crate) fn half(watch: WatchId, of: &str, mask: Mask, cookie: u32) -> Report {
    let cookie = Some(Cookie(NonZeroU32::new(cookie).unwrap()));
    Report::Entry { watch, name: name(of), mask, cookie }
}

pub(crate) fn pair(from: (WatchId, &str), to: (WatchId, &str), cookie: u32) -> [Report; 2] {
    [half(from.0, from.1, Mask::MOVED_FROM, cookie), half(to.0, to.1, Mask::MOVED_TO, cookie)]
}

/// Directories `a` and `b` are known and watched, and the host has objects under names.
pub(crate) struct World {
    pub(crate) observer: Observer,
    pub(crate) tree: Tree,
    /// `dir/name` → object, as a look finds it.
    pub(crate) host: BTreeMap<HostEntry, Fid>,
    /// Those of its objects that are directories.
    pub(crate) directories: BTreeSet<Fid>,
    pub(crate) now: Instant,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    pub(crate) fn new(join: bool) -> Self {
        let mut tree = Tree::default();
        tree.reset(Generation(1), Some(fid("root")));
        let mut observer = Observer::new(join);
        for (id, watch, dir) in [(2, A, "a"), (3, B, "b")] {
            let (id, kind) = (NodeId::new(id).unwrap(), FileKind::Directory);
            let learned = Learned { id, fid: Some(fid(dir)), kind, ino: id.get() };
            assert!(tree.learn(learned, NodeId::ROOT, &name(dir)));
            observer.watch(watch, fid(dir));
        }
        let (host, directories) = (BTreeMap::new(), BTreeSet::new());
        Self { observer, tree, host, directories, now: Instant::now() }
    }

    /// The guest knows directory `b` under `path`, too.
    pub(crate) fn knows_b_at(&mut self, path: &str) {
        let entry = entry(path);
        let dir = *self.tree.nodes_of(&entry.dir).first().unwrap();
        let (id, kind) = (NodeId::new(3).unwrap(), FileKind::Directory);
        let learned = Learned { id, fid: Some(fid("b")), kind, ino: id.get() };
        self.tree.learn(learned, dir, &entry.name);
    }

    /// The host has `object` under `path` and the guest knows it.
    pub(crate) fn known(mut self, path: &str, object: &str, id: u64) -> Self {
        let entry = entry(path);
        let dir = *self.tree.nodes_of(&entry.dir).first().unwrap();
        let (id, kind) = (NodeId::new(id).unwrap(), FileKind::Regular);
        let learned = Learned { id, fid: Some(fid(object)), kind, ino: id.get() };
        self.tree.learn(learned, dir, &entry.name);
        self.host.insert(entry, fid(object));
        self
    }

    /// The host has `object` under `path`, and the guest knows nothing of it.
    pub(crate) fn has(&mut self, path: &str, object: &str) {
        self.host.insert(entry(path), fid(object));
    }

    /// One read of the kernel's queue, and what is told after it.
    pub(crate) fn read(&mut self, reports: impl IntoIterator<Item = Report>) -> Vec<HostChange> {
        let _mark = self.observer.begin();
        self.observer.handle(self.now, reports);
        self.tell()
    }

    pub(crate) fn tell(&mut self) -> Vec<HostChange> {
        self.tell_before([])
    }

    /// The same, with what was in the queue after the look.
    pub(crate) fn tell_before(
        &mut self,
        reports: impl IntoIterator<Item = Report>,
    ) -> Vec<HostChange> {
        let looks = self.observer.looks(&self.tree);
        let names = looks.names.into_iter().filter_map(|entry| {
            let object = self.host.get(&entry)?.clone();
            Some((entry, object))
        });
        let links = looks.links.into_iter().map(|object| {
            let names = self.host.values().filter(|there| **there == object).count();
            (object, u32::try_from(names).unwrap())
        });
        let found = Found {
            names: names.collect(),
            directories: self.directories.clone(),
            links: links.collect(),
        };
        self.observer.read_on(self.now, reports);
        self.observer.changes(&self.tree, &found)
    }

    /// A read that finds the queue empty.
    pub(crate) fn read_empty(&mut self) -> (Vec<HostChange>, Option<Drained>) {
        let mark = self.observer.begin();
        self.observer.handle(self.now, []);
        (self.tell(), self.observer.drained(mark))
    }

    pub(crate) fn expect(&mut self, what: &Expected, events: &[Mask]) -> CallId {
        let expected = events.iter().map(|event| (what.clone(), *event)).collect();
        self.observer.expect(expected, &self.tree)
    }
}

pub(crate) fn change(path: &str, mask: Mask, object: Option<&str>) -> HostChange {
    HostChange::Entry { entry: entry(path), mask, object: object.map(fid) }
}

pub(crate) fn moved(from: Option<&str>, to: Option<&str>, object: Option<&str>) -> HostChange {
    let (from, to) = (from.map(entry), to.map(entry));
    HostChange::Move { from, to, object: object.map(fid), directory: false }
}
