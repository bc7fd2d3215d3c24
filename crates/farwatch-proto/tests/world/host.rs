// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Host`]: the host's file system. Each function is one change of it; `calls` has the system calls,
//! with their locks and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use farwatch_proto::{Fid, FileKind, Mask, Name};

use crate::backend::Backend;
use crate::config::Config;

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
    /// It had a name in a directory that was not watched for the daemon.
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
    pub(crate) open: Vec<(Obj, Name)>,
    pub(crate) backend: Backend,
    pub(crate) cookie: u32,
    /// The step in which an entry got its object, or that got its content, last.
    pub(crate) fresh: BTreeMap<(Obj, Name), u64>,
    /// Names that were exchanged last: the events of that add up to one of them, on any directory.
    pub(crate) exchanged: BTreeSet<(Obj, Name)>,
    /// How many changes there have been.
    pub(crate) changes: u64,
    /// What a program on the host that watches every directory receives.
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
            exchanged: BTreeSet::new(),
            changes: 0,
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
        self.look_at_view(dir, object);
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
        self.look_at_view(dir, object);
        self.lose_name(object, now);
        Ok(object)
    }

    /// What happens to a name in a directory that is not watched is not known to the daemon.
    fn look_at_view(&mut self, dir: Obj, object: Obj) {
        if !self.backend.watches(dir) {
            self.object_mut(object).was_out_of_view = true;
        }
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
        for at in &mut self.open {
            if (at.0, &at.1) == from {
                *at = (to.0, to.1.clone());
            } else if way == Way::Exchange && (at.0, &at.1) == to {
                *at = (from.0, from.1.clone());
            }
        }
    }
}
