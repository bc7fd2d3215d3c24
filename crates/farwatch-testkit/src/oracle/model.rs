// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Model`]: the tree that operations lead to, as one process can know it. It says what can be done
//! next, and what not to try since docs/SEMANTICS.md says that a mount differs there.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::op::{OUTSIDE, Op, SLOTS};

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Type {
    File,
    Directory,
    Other,
}

/// See the module's documentation. A file is known by a number, under whatever names.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    entries: BTreeMap<PathBuf, (Type, u32)>,
    /// What slots hold; 0 is a file without a name.
    open: BTreeMap<u8, u32>,
    watched: Vec<u32>,
    next: u32,
    /// Names of files that were open when they lost them.
    lost: BTreeSet<OsString>,
    /// Those files: they may have been opened under the name that they have lost.
    bereft: BTreeSet<u32>,
    /// Files that have come to one of these names since.
    successors: BTreeSet<u32>,
    /// Which names there have been, if several processes work on the tree.
    had: BTreeSet<OsString>,
    /// Which of them files with several names have had.
    links: BTreeSet<(u32, OsString)>,
    /// Files that were made without a name.
    unnamed: BTreeSet<u32>,
    /// Whether several processes work on the tree: then nobody knows what is open elsewhere.
    shared: bool,
    delivery: Delivery,
}

/// How the mount comes to its events, on which it depends what it is known to tell otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivery {
    /// The host's watcher tells names and not objects (inotify).
    pub by_name: bool,
    /// The guest's kernel raises the events itself.
    pub native: bool,
}

impl Model {
    /// An empty tree.
    pub(super) fn new(shared: bool, delivery: Delivery) -> Self {
        Self { next: 1, shared, delivery, ..Self::default() }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&PathBuf, Type)> {
        self.entries.iter().map(|(path, (kind, _))| (path, *kind))
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    pub(super) fn held(&self) -> Vec<u8> {
        self.open.keys().copied().collect()
    }

    /// False for what a mount is known to tell otherwise: docs/SEMANTICS.md, "Where a mount differs".
    pub(super) fn is_fair(&self, op: &Op) -> bool {
        let busy = |path: &Path| self.below(path).any(|id| self.is_watched(id) && self.is_busy(id));
        match op {
            // DELETE_SELF does not wait for a program on the host. A file that is open there and has
            // no name holds the directory that it was in.
            Op::Unlink(path) => !busy(path),
            Op::Rmdir(_) => !self.has_nameless(),
            // Nor for one where something is replaced; and an open file that has left the share is
            // told of nowhere.
            Op::Rename(from, to) => {
                let comes_back = self.has_been_linked_as(from, to);
                let leaves = !is_inside(to) && self.below(from).any(|id| self.is_open(id));
                let replaces = self.entries.get(to).map(|entry| entry.0);
                let covers = replaces == Some(Type::Directory) && self.has_nameless();
                let hides = self.delivery.by_name && self.is_directory(from) && self.was_lost(to);
                let unknown = hides || self.is_mistaken(from, to) || self.is_stale_in_mount(from);
                let unheard = self.is_one_name_of_a_watched_file(to);
                !(busy(to) || leaves || covers || unknown || comes_back || unheard)
            }
            // A known fault: the CREATE of a file under a name that it has had can be merged with what was
            // told of it there before.
            Op::Link(from, to) => {
                let merged = self.shared && self.had(to);
                !(merged || self.is_mistaken(from, to))
            }
            Op::LinkSlot(_, to) => !(self.shared && self.had(to)),
            Op::RenameNoreplace(from, to) => {
                !(self.is_mistaken(from, to) || self.is_stale_in_mount(from))
            }
            // inotify tells of a file by the name that it was opened by, of which that has none, or which it has
            // lost.
            Op::Watch(path) => {
                let nameless = self.was_unnamed(path) || self.is_bereft(path);
                !(self.is_mistaken(path, path) || nameless)
            }
            // What was written to it on the host under a name that it has lost is seen in the mount when caches time out.
            Op::CopyTo(_, from) => !(self.delivery.by_name && self.lost_a_name_while_open(from)),
            // inotify tells of the name, which leads to a directory by now.
            Op::Mkdir(path) => !(self.delivery.by_name && self.was_lost(path)),
            // What is open in the mount keeps the name that it had, and by inotify it is only guessed
            // what several programs have exchanged. A recorder of all below calls a directory by its old
            // name or its new one, depending on when it looks.
            Op::RenameExchange(one, two) => {
                let known = |id| self.is_watched(id) || self.is_open(id);
                let is_fair = |path: &PathBuf| {
                    (self.shared || !self.is_directory(path)) && !self.below(path).any(known)
                };
                is_fair(one) && is_fair(two)
            }
            _ => true,
        }
    }

    /// The files at a path and below it.
    fn below(&self, path: &Path) -> impl Iterator<Item = u32> {
        let entries = self.entries.range(path.to_owned()..);
        let below = entries.take_while(move |(other, _)| other.starts_with(path));
        below.filter(|(_, entry)| entry.0 != Type::Directory).map(|(_, entry)| entry.1)
    }

    /// The number of what is under a path.
    fn id(&self, path: &Path) -> Option<u32> {
        self.entries.get(path).map(|entry| entry.1)
    }

    fn is_watched(&self, id: u32) -> bool {
        self.watched.contains(&id)
    }

    fn is_open(&self, id: u32) -> bool {
        self.shared || self.open.values().any(|open| *open == id)
    }

    fn was_lost(&self, path: &Path) -> bool {
        !self.shared && path.file_name().is_some_and(|name| self.lost.contains(name))
    }

    fn had(&self, path: &Path) -> bool {
        path.file_name().is_some_and(|name| self.had.contains(name))
    }

    /// A known fault: a file with several names comes back to one that it has lost, by what happened to
    /// the name or to the file.
    fn has_been_linked_as(&self, path: &Path, name: &Path) -> bool {
        self.id(path)
            .zip(name.file_name())
            .is_some_and(|(id, name)| self.links.contains(&(id, name.to_owned())))
    }

    /// Whether inotify would tell of a watched file what is done to another that has lost a name
    /// which it has or had since, or is about to get.
    fn is_mistaken(&self, from: &Path, to: &Path) -> bool {
        if !self.delivery.by_name || self.shared {
            return false;
        }
        let Some((_, id)) = self.entries.get(from) else { return false };
        let replaced = self.below(to).any(|other| other != *id && self.is_busy(other));
        (from == to || self.is_watched(*id))
            && (replaced || self.was_lost(to) || self.successors.contains(id))
    }

    /// Nobody says what a rename has replaced, unless the guest has looked it up.
    fn is_one_name_of_a_watched_file(&self, path: &Path) -> bool {
        let names = |id: u32| self.entries.values().filter(|entry| entry.1 == id).count();
        self.id(path).is_some_and(|id| self.is_watched(id) && names(id) > 1)
    }

    fn was_unnamed(&self, path: &Path) -> bool {
        self.delivery.by_name
            && self.id(path).is_some_and(|id| self.unnamed.contains(&id) && self.is_open(id))
    }

    fn lost_a_name_while_open(&self, path: &Path) -> bool {
        !self.shared && self.id(path).is_some_and(|id| self.bereft.contains(&id))
    }

    /// Whether a program may have a file open under a name that it has lost.
    fn is_bereft(&self, path: &Path) -> bool {
        let bereft = |id: u32| self.bereft.contains(&id) && self.is_open(id);
        self.delivery.by_name && !self.shared && self.id(path).is_some_and(bereft)
    }

    /// Whether a program in the mount has a file open under a name of which another that is open on
    /// the host may have made a stand-in: it does not hear of the file's next name.
    fn is_stale_in_mount(&self, path: &Path) -> bool {
        self.was_lost(path) && self.id(path).is_some_and(|id| self.is_open_in_mount(id))
    }

    fn is_open_in_mount(&self, id: u32) -> bool {
        self.open.iter().any(|(slot, open)| *slot >= SLOTS && *open == id)
    }

    /// Open in a program on the host.
    fn is_busy(&self, id: u32) -> bool {
        self.shared || self.open.iter().any(|(slot, open)| *slot < SLOTS && *open == id)
    }

    fn has_nameless(&self) -> bool {
        let named = |id: u32| self.entries.values().any(|entry| entry.1 == id);
        let nameless =
            |id: u32| !named(id) || self.bereft.contains(&id) || self.unnamed.contains(&id);
        self.open.iter().any(|(slot, id)| *slot < SLOTS && nameless(*id))
    }

    /// The operation has been done.
    pub(super) fn follow(&mut self, op: &Op) {
        self.change(op);
        let lost = |path: &Path| path.file_name().is_some_and(|name| self.lost.contains(name));
        let came = self.entries.iter().filter(|(path, _)| lost(path));
        self.successors.extend(came.map(|(_, entry)| entry.1));
        if self.shared {
            op.with_paths(|path| {
                self.had.extend(path.file_name().map(OsStr::to_owned));
                path.to_owned()
            });
            if let Op::Link(from, to) = op {
                let id = self.id(to);
                let names = [from, to].into_iter().filter_map(|path| path.file_name());
                self.links.extend(names.filter_map(|name| Some((id?, name.to_owned()))));
            }
        }
    }

    fn change(&mut self, op: &Op) {
        match op {
            Op::Create(at) => drop(self.make(at, Type::File)),
            Op::Mkdir(at) => drop(self.make(at, Type::Directory)),
            Op::Mkfifo(at) | Op::Symlink(at) => drop(self.make(at, Type::Other)),
            Op::Link(from, to) => {
                if let Some(entry) = self.entries.get(from).copied()
                    && self.has_place(to)
                {
                    self.entries.entry(to.clone()).or_insert(entry);
                }
            }
            Op::Unlink(at) => {
                self.remember(at);
                self.entries.remove(at);
            }
            Op::Rmdir(at) if self.is_empty(at) => {
                self.entries.remove(at);
            }
            Op::Rename(from, to) => self.rename(from, to),
            Op::RenameNoreplace(from, to) if !self.has(to) => self.rename(from, to),
            Op::RenameExchange(one, two)
                if self.has(one)
                    && self.has(two)
                    && !one.starts_with(two)
                    && !two.starts_with(one) =>
            {
                let hold = PathBuf::from("\0");
                self.shift(one, &hold);
                self.shift(two, one);
                self.shift(&hold, two);
            }
            Op::Open(slot, at) | Op::OpenTruncate(slot, at) => {
                if let Some((_, id)) = self.entries.get(at) {
                    self.open.insert(*slot, *id);
                }
            }
            Op::OpenTmpfile(slot, dir) if self.is_directory(dir) => {
                self.open.insert(*slot, 0);
            }
            Op::LinkSlot(slot, to) => self.name(*slot, to),
            Op::Close(slot) => {
                self.open.remove(slot);
            }
            Op::Watch(at) => {
                self.watched.extend(self.entries.get(at).map(|(_, id)| *id));
            }
            _ => {}
        }
    }

    /// `false` where it fails.
    fn make(&mut self, at: &Path, kind: Type) -> bool {
        let made = !self.has(at) && self.has_place(at);
        if made {
            self.entries.insert(at.to_owned(), (kind, self.next));
            self.next += 1;
        }
        made
    }

    /// An open file gets a name: one that has none, or another beside those it has. One that has lost them all gets
    /// no more (`linkat(2)`, ENOENT).
    fn name(&mut self, slot: u8, at: &Path) {
        match self.open.get(&slot).copied() {
            Some(0) if self.make(at, Type::File) => {
                self.open.insert(slot, self.next - 1);
                self.unnamed.insert(self.next - 1);
            }
            Some(id) if !self.has(at) && self.has_place(at) => {
                let entry = self.entries.values().find(|entry| entry.1 == id).copied();
                self.entries.extend(entry.map(|entry| (at.to_owned(), entry)));
            }
            _ => {}
        }
    }

    /// Whether there is a directory for it.
    fn has_place(&self, path: &Path) -> bool {
        path.parent().is_some_and(|dir| {
            dir.as_os_str().is_empty() || dir == Path::new(OUTSIDE) || self.is_directory(dir)
        })
    }

    /// A file loses a name while a program on the host may have it open.
    fn remember(&mut self, path: &Path) {
        let busy: Vec<u32> = self.below(path).filter(|id| self.is_busy(*id)).collect();
        if !busy.is_empty() {
            self.lost.extend(path.file_name().map(OsStr::to_owned));
            self.bereft.extend(busy);
        }
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.entries.get(path).is_some_and(|entry| entry.0 == Type::Directory)
    }

    fn is_empty(&self, dir: &Path) -> bool {
        !self.entries.keys().any(|path| path != dir && path.starts_with(dir))
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let (Some(moved), target) = (self.entries.get(from), self.entries.get(to)) else { return };
        let same = target.is_some_and(|target| target.1 == moved.1);
        let fits = target.is_none_or(|target| {
            (target.0 == Type::Directory) == (moved.0 == Type::Directory)
                && (target.0 != Type::Directory || self.is_empty(to))
        });
        if fits && !same && !to.starts_with(from) && self.has_place(to) {
            self.remember(to);
            self.entries.remove(to);
            self.shift(from, to);
        }
    }

    fn shift(&mut self, from: &Path, to: &Path) {
        let moved: Vec<PathBuf> =
            self.entries.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let Some(entry) = self.entries.remove(&path) else { continue };
            let rest = path.strip_prefix(from).unwrap_or_else(|_| Path::new(""));
            let new = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            self.entries.insert(new, entry);
        }
    }
}

/// Whether a path is below the directory of the run.
pub(super) fn is_inside(path: &Path) -> bool {
    !path.starts_with(OUTSIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_gets_another_name_which_is_not_taken_while_it_is_watched_and_open() {
        let path = |name: &str| PathBuf::from(name);
        let mut model = Model::new(false, Delivery { by_name: true, native: false });
        let ops = [
            Op::Create(path("a")),
            Op::Open(1, path("a")),
            Op::LinkSlot(1, path("b")),
            Op::Watch(path("a")),
            Op::Unlink(path("a")),
        ];
        ops.iter().for_each(|op| model.follow(op));
        assert!(!model.is_fair(&Op::Unlink(path("b"))));
        model.follow(&Op::Close(1));
        assert!(model.is_fair(&Op::Unlink(path("b"))));
        model.follow(&Op::Unlink(path("b")));
        model.follow(&Op::LinkSlot(1, path("c")));
        assert!(!model.has(&path("c")), "nothing is open");
    }

    #[test]
    fn nothing_replaces_one_name_of_several_of_a_watched_file() {
        let path = |name: &str| PathBuf::from(name);
        let mut model = Model::new(false, Delivery { by_name: true, native: false });
        let ops = [
            Op::Create(path("a")),
            Op::Create(path("c")),
            Op::Watch(path("a")),
            Op::Link(path("a"), path("b")),
        ];
        let rename = Op::Rename(path("c"), path("b"));
        ops.iter().for_each(|op| model.follow(op));
        assert!(!model.is_fair(&rename));
        model.follow(&Op::Unlink(path("a")));
        assert!(model.is_fair(&rename));
    }

    #[test]
    fn content_that_was_written_under_a_lost_name_is_not_copied() {
        let path = |name: &str| PathBuf::from(name);
        let mut model = Model::new(false, Delivery { by_name: true, native: false });
        for op in [Op::Create(path("a")), Op::Link(path("a"), path("b")), Op::Create(path("c"))] {
            model.follow(&op);
        }
        let copy = Op::CopyTo(2, path("a"));
        model.follow(&Op::Open(1, path("b")));
        assert!(model.is_fair(&copy));
        model.follow(&Op::Rename(path("c"), path("b")));
        assert!(!model.is_fair(&copy));
    }
}
