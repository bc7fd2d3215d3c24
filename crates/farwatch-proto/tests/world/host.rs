// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Host`]: the host's file system, and what its kernel reports of each change.
//!
//! A change and its report are two steps, as in the kernel: whoever looks in between sees what has
//! not been reported. Both are made under the lock of the directory, except for content
//! (`fsnotify_modify()` takes none).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroU32;
use std::time::Duration;

use farwatch_proto::{Cookie, Fid, FileKind, Mask, Name};

use crate::backend::{Backend, Told};
use crate::config::Config;
use crate::sim::{Lock, World};

/// Which object: never used again.
pub(crate) type Obj = u64;
/// Which process on the host.
pub(crate) type Pid = u32;
/// The daemon's own.
pub(crate) const DAEMON: Pid = 1;

/// Why a call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errno {
    NoEnt,
    Exist,
    Stale,
    Perm,
    NotEmpty,
    IsDir,
    NotDir,
    Io,
    Inval,
    Loop,
}

/// How two names are renamed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Over,
    Exchange,
}

#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) kind: FileKind,
    /// `st_nlink` of what is no directory.
    pub(crate) names: u32,
    /// `st_ctime`, and when it was made.
    pub(crate) changed: Duration,
    pub(crate) born: Duration,
    pub(crate) entries: BTreeMap<Name, Obj>,
    /// Of a directory: where it is.
    pub(crate) parent: Obj,
    /// Of a directory: `rmdir(2)`, or another was renamed over it.
    pub(crate) removed: bool,
    /// It had a name of which the daemon cannot know.
    pub(crate) was_out_of_view: bool,
}

impl Object {
    /// `st_nlink`
    pub(crate) fn links(&self) -> u32 {
        match (self.kind, self.removed) {
            (FileKind::Directory, true) => 0,
            (FileKind::Directory, false) => 2,
            _ => self.names,
        }
    }
}

/// Which open file: its dentry follows renames, and events bear its name.
pub(crate) type Open = usize;

/// See the module's documentation.
pub(crate) struct Host {
    pub(crate) objects: Vec<Object>,
    /// Where the dentry of each open file is.
    open: Vec<(Obj, Name)>,
    pub(crate) backend: Backend,
    cookie: u32,
    /// The step in which an entry got its object, or that got its content, last.
    pub(crate) fresh: BTreeMap<(Obj, Name), u64>,
    /// What a program on the host that watches each directory is told.
    pub(crate) local: Vec<(Obj, Mask, Name)>,
}

pub(crate) fn fid(object: Obj) -> Fid {
    Fid::new([7, 0], 1, &object.to_be_bytes()).expect("a short handle")
}

impl Host {
    const ROOT: Obj = 0;
    /// A directory beside the share, of which the guest and the daemon know nothing.
    pub(crate) const OUTSIDE: Obj = 1;

    pub(crate) fn new(config: &Config) -> Self {
        let mut host = Self {
            objects: Vec::new(),
            // The root of the share, which the daemon opens when it begins.
            open: vec![(Self::ROOT, Name::parse(b"root").expect("a name"))],
            backend: Backend::new(config),
            cookie: 0,
            fresh: BTreeMap::new(),
            local: Vec::new(),
        };
        host.add(FileKind::Directory, Duration::ZERO);
        host.add(FileKind::Directory, Duration::ZERO);
        host
    }

    pub(crate) fn root(&self) -> Obj {
        Self::ROOT
    }

    fn add(&mut self, kind: FileKind, now: Duration) -> Obj {
        let number = self.objects.len() as Obj;
        self.objects.push(Object {
            kind,
            names: 0,
            changed: now,
            born: now,
            entries: BTreeMap::new(),
            parent: number,
            removed: false,
            was_out_of_view: false,
        });
        number
    }

    pub(crate) fn object(&self, object: Obj) -> &Object {
        &self.objects[usize::try_from(object).expect("it was given out")]
    }

    pub(crate) fn object_mut(&mut self, object: Obj) -> &mut Object {
        &mut self.objects[usize::try_from(object).expect("it was given out")]
    }

    pub(crate) fn is_directory(&self, object: Obj) -> bool {
        self.object(object).kind == FileKind::Directory
    }

    /// What a name leads to.
    pub(crate) fn at(&self, dir: Obj, name: &Name) -> Option<Obj> {
        self.object(dir).entries.get(name).copied()
    }

    /// Opens what is under a name.
    pub(crate) fn open(&mut self, dir: Obj, name: &Name) -> Open {
        self.open.push((dir, name.clone()));
        self.open.len() - 1
    }

    pub(crate) fn make(
        &mut self,
        dir: Obj,
        name: &Name,
        kind: FileKind,
        now: Duration,
    ) -> Result<Obj, Errno> {
        if self.object(dir).removed {
            return Err(Errno::NoEnt);
        }
        if self.at(dir, name).is_some() {
            return Err(Errno::Exist);
        }
        let object = self.add(kind, now);
        let new = self.object_mut(object);
        new.names = 1;
        new.parent = dir;
        self.put(dir, name, object, now);
        Ok(object)
    }

    pub(crate) fn link(
        &mut self,
        object: Obj,
        dir: Obj,
        name: &Name,
        now: Duration,
    ) -> Result<(), Errno> {
        if self.object(dir).removed || self.object(object).names == 0 {
            return Err(Errno::NoEnt);
        }
        if self.is_directory(object) {
            return Err(Errno::Perm);
        }
        if self.at(dir, name).is_some() {
            return Err(Errno::Exist);
        }
        let linked = self.object_mut(object);
        linked.names += 1;
        linked.changed = now;
        self.put(dir, name, object, now);
        Ok(())
    }

    fn put(&mut self, dir: Obj, name: &Name, object: Obj, now: Duration) {
        if dir == Self::OUTSIDE {
            self.object_mut(object).was_out_of_view = true;
        }
        let above = self.object_mut(dir);
        above.entries.insert(name.clone(), object);
        above.changed = now;
    }

    pub(crate) fn remove(
        &mut self,
        dir: Obj,
        name: &Name,
        directory: bool,
        now: Duration,
    ) -> Result<Obj, Errno> {
        let object = self.at(dir, name).ok_or(Errno::NoEnt)?;
        match (directory, self.is_directory(object)) {
            (true, false) => return Err(Errno::NotDir),
            (false, true) => return Err(Errno::IsDir),
            (true, true) if !self.object(object).entries.is_empty() => {
                return Err(Errno::NotEmpty);
            }
            (true, true) | (false, false) => {}
        }
        self.object_mut(dir).entries.remove(name);
        self.object_mut(dir).changed = now;
        self.lose_name(object, now);
        Ok(object)
    }

    fn lose_name(&mut self, object: Obj, now: Duration) {
        let directory = self.is_directory(object);
        let gone = self.object_mut(object);
        gone.names = gone.names.saturating_sub(1);
        gone.removed = directory;
        gone.changed = now;
    }

    /// Returns what was moved, and what was replaced by it or exchanged with it. `None` if nothing was
    /// done since both names lead to one object.
    pub(crate) fn rename(
        &mut self,
        from: (Obj, &Name),
        to: (Obj, &Name),
        way: Way,
        now: Duration,
    ) -> Result<Option<(Obj, Option<Obj>)>, Errno> {
        let moved = self.at(from.0, from.1).ok_or(Errno::NoEnt)?;
        let other = self.at(to.0, to.1);
        self.may_rename(moved, other, from.0, to.0, way)?;
        if other == Some(moved) {
            return Ok(None);
        }
        self.object_mut(from.0).entries.remove(from.1);
        self.object_mut(to.0).entries.remove(to.1);
        self.put(to.0, to.1, moved, now);
        if self.is_directory(moved) {
            self.object_mut(moved).parent = to.0;
        }
        if let Some(other) = other {
            if way == Way::Exchange {
                self.put(from.0, from.1, other, now);
                self.object_mut(other).changed = now;
                if self.is_directory(other) {
                    self.object_mut(other).parent = from.0;
                }
            } else {
                self.lose_name(other, now);
            }
        }
        self.object_mut(moved).changed = now;
        self.object_mut(from.0).changed = now;
        self.move_dentries(from, to, way);
        Ok(Some((moved, other)))
    }

    fn may_rename(
        &self,
        moved: Obj,
        other: Option<Obj>,
        from: Obj,
        to: Obj,
        way: Way,
    ) -> Result<(), Errno> {
        if self.object(to).removed {
            return Err(Errno::NoEnt);
        }
        if self.is_above(moved, to) {
            return Err(Errno::Inval);
        }
        let Some(other) = other else {
            return if way == Way::Exchange { Err(Errno::NoEnt) } else { Ok(()) };
        };
        if self.is_above(other, from) {
            return Err(Errno::NotEmpty);
        }
        if way == Way::Over {
            match (self.is_directory(moved), self.is_directory(other)) {
                (true, false) => return Err(Errno::NotDir),
                (false, true) => return Err(Errno::IsDir),
                (true, true) if !self.object(other).entries.is_empty() => {
                    return Err(Errno::NotEmpty);
                }
                (true, true) | (false, false) => {}
            }
        }
        Ok(())
    }

    /// Whether one directory is another, or above it.
    pub(crate) fn is_above(&self, above: Obj, mut below: Obj) -> bool {
        while below != above {
            let parent = self.object(below).parent;
            if parent == below || self.object(below).removed {
                return false;
            }
            below = parent;
        }
        true
    }

    /// `d_move()`, `d_exchange()`. The dentry of what was replaced is no longer found, and gets the
    /// old name of what replaced it.
    fn move_dentries(&mut self, from: (Obj, &Name), to: (Obj, &Name), way: Way) {
        let _ = way;
        for at in &mut self.open {
            if (at.0, &at.1) == from {
                *at = (to.0, to.1.clone());
            } else if way == Way::Exchange && (at.0, &at.1) == to {
                *at = (from.0, from.1.clone());
            }
        }
    }
}

/// What is reported.
impl Host {
    /// Somebody did something to an entry.
    fn report(&mut self, who: Pid, dir: Obj, name: &Name, object: Obj, mask: Mask) {
        let isdir = if self.is_directory(object) { Mask::ISDIR } else { Mask::empty() };
        self.local.push((dir, mask | isdir, name.clone()));
        let itself = (mask == Mask::ATTRIB && !isdir.is_empty()).then_some(object);
        let told = Told { who, dir, name, object, mask: mask | isdir };
        self.backend.entry(&told, itself);
    }
}

impl World {
    /// `fsnotify_create()`, `fsnotify_unlink()` and the like.
    fn report(&self, who: Pid, dir: Obj, name: &Name, object: Obj, mask: Mask) {
        self.note(|| format!("host reports {mask:?} of {dir}/{name:?}, object {object}"));
        self.host.borrow_mut().report(who, dir, name, object, mask);
    }

    /// An entry has got another object, or that another content.
    fn freshen(&self, dir: Obj, name: &Name) {
        let step = self.steps();
        match self.host.borrow_mut().fresh.entry((dir, name.clone())) {
            Entry::Vacant(slot) => drop(slot.insert(step)),
            Entry::Occupied(mut slot) => *slot.get_mut() = step,
        }
    }

    pub(crate) async fn host_make(
        &self,
        who: Pid,
        dir: Obj,
        name: &Name,
        kind: FileKind,
    ) -> Result<Obj, Errno> {
        let _lock = self.lock(Lock::Host(dir)).await;
        let object = self.host.borrow_mut().make(dir, name, kind, self.clock())?;
        self.note(|| format!("host makes {dir}/{name:?} {kind:?}: object {object}"));
        self.freshen(dir, name);
        self.step().await;
        self.report(who, dir, name, object, Mask::CREATE);
        Ok(object)
    }

    pub(crate) async fn host_link(
        &self,
        who: Pid,
        object: Obj,
        dir: Obj,
        name: &Name,
    ) -> Result<(), Errno> {
        let _lock = self.lock(Lock::Host(dir)).await;
        self.host.borrow_mut().link(object, dir, name, self.clock())?;
        self.note(|| format!("host links object {object} to {dir}/{name:?}"));
        self.freshen(dir, name);
        self.step().await;
        self.report(who, dir, name, object, Mask::CREATE);
        Ok(())
    }

    pub(crate) async fn host_remove(
        &self,
        who: Pid,
        dir: Obj,
        name: &Name,
        directory: bool,
    ) -> Result<(), Errno> {
        let _lock = self.lock(Lock::Host(dir)).await;
        let object = self.host.borrow_mut().remove(dir, name, directory, self.clock())?;
        self.note(|| format!("host removes {dir}/{name:?}: object {object}"));
        self.step().await;
        self.report(who, dir, name, object, Mask::DELETE);
        Ok(())
    }

    pub(crate) async fn host_rename(
        &self,
        who: Pid,
        from: (Obj, &Name),
        to: (Obj, &Name),
        way: Way,
    ) -> Result<(), Errno> {
        // `lock_rename()`
        let across = from.0 != to.0;
        let _rename = if across { Some(self.lock(Lock::HostRename).await) } else { None };
        let _first = self.lock(Lock::Host(from.0.min(to.0))).await;
        let _second =
            if across { Some(self.lock(Lock::Host(from.0.max(to.0))).await) } else { None };
        let done = self.host.borrow_mut().rename(from, to, way, self.clock())?;
        let Some((moved, other)) = done else { return Ok(()) };
        self.note(|| format!("host renames {from:?} to {to:?}, {way:?}: object {moved}"));
        self.freshen(to.0, to.1);
        if way == Way::Exchange {
            self.freshen(from.0, from.1);
        }
        self.step().await;
        let replaced = other.filter(|_| way == Way::Over);
        self.report_move(who, from, to, moved, replaced).await;
        if let Some(other) = other.filter(|_| way == Way::Exchange) {
            self.report_move(who, to, from, other, None).await;
        }
        Ok(())
    }

    /// `fsnotify_move()`
    async fn report_move(
        &self,
        who: Pid,
        from: (Obj, &Name),
        to: (Obj, &Name),
        moved: Obj,
        replaced: Option<Obj>,
    ) {
        self.note(|| format!("host reports the move of object {moved}"));
        let (directory, cookie) = {
            let host = &mut *self.host.borrow_mut();
            host.cookie += 1;
            let cookie = Cookie(NonZeroU32::new(host.cookie).expect("not 0"));
            let directory = host.is_directory(moved);
            let isdir = if directory { Mask::ISDIR } else { Mask::empty() };
            host.local.push((from.0, Mask::MOVED_FROM | isdir, from.1.clone()));
            host.local.push((to.0, Mask::MOVED_TO | isdir, to.1.clone()));
            host.backend.moved(who, from, to, moved, directory);
            host.backend.half(from, Mask::MOVED_FROM | isdir, cookie);
            (directory, cookie)
        };
        self.step().await;
        let host = &mut *self.host.borrow_mut();
        let isdir = if directory { Mask::ISDIR } else { Mask::empty() };
        host.backend.half(to, Mask::MOVED_TO | isdir, cookie);
        if let Some(replaced) = replaced.filter(|object| host.is_directory(*object)) {
            // `fsnotify_link_count()`; of a file nobody watches it.
            host.backend.itself(who, replaced, Mask::ATTRIB | Mask::ISDIR);
        }
    }

    /// Something is written through an open file, or its attributes are changed.
    pub(crate) async fn host_change(&self, who: Pid, object: Obj, open: Open, mask: Mask) {
        if mask != Mask::CLOSE_WRITE {
            let (dir, name) = {
                let host = &mut *self.host.borrow_mut();
                host.object_mut(object).changed = self.clock();
                host.open[open].clone()
            };
            self.note(|| format!("host changes object {object} ({mask:?})"));
            if mask == Mask::MODIFY && self.host.borrow().at(dir, &name) == Some(object) {
                self.freshen(dir, &name);
            }
            self.step().await;
        }
        let (dir, name) = self.host.borrow().open[open].clone();
        self.report(who, dir, &name, object, mask);
    }
}
