// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls on the host's file system, by programs and by the daemon. A change and its report are two
//! steps, as in the kernel: another process that looks in between sees what has not been reported.
//! Both are made under the lock of the directory, except for content (`fsnotify_modify()` takes none).

use std::num::NonZeroU32;

use farwatch_proto::{Cookie, FileKind, Mask, Name};

use crate::backend::Happened;
use crate::host::{DAEMON, Errno, Obj, Open, Pid, Way};
use crate::sim::{AGENT, Lock, World};

impl World {
    /// `fsnotify_create()`, `fsnotify_unlink()` and the like.
    fn report(&self, who: Pid, dir: Obj, name: &Name, object: Obj, mask: Mask) {
        self.note(|| format!("host reports {mask:?} of {dir}/{name:?}, object {object}"));
        let host = &mut *self.host.borrow_mut();
        let isdir = if host.is_directory(object) { Mask::ISDIR } else { Mask::empty() };
        let mask = mask | isdir;
        host.local.push((dir, mask, name.clone()));
        host.backend.entry(&Happened { who, dir, name, object, mask });
    }

    /// An entry has another object from this step on, or that has another content.
    fn freshen(&self, dir: Obj, name: &Name) {
        let step = self.steps();
        let host = &mut *self.host.borrow_mut();
        host.fresh.insert((dir, name.clone()), step);
        host.changes += 1;
    }

    /// An entry has another object from this step on.
    fn arrive(&self, dir: Obj, name: &Name) {
        self.freshen(dir, name);
        self.host.borrow_mut().exchanged.remove(&(dir, name.clone()));
    }

    /// Nothing that a replay does may get here.
    fn assert_not_replayed(&self) {
        assert_ne!(self.current(), AGENT, "a replay changes the host");
    }

    pub(crate) async fn host_make(
        &self,
        who: Pid,
        dir: Obj,
        name: &Name,
        kind: FileKind,
    ) -> Result<Obj, Errno> {
        self.assert_not_replayed();
        let _lock = self.lock(Lock::Host(dir)).await;
        let object = self.host.borrow_mut().make(dir, name, kind, self.clock())?;
        self.note(|| format!("host makes {dir}/{name:?} {kind:?}: object {object}"));
        self.arrive(dir, name);
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
        self.assert_not_replayed();
        let _lock = self.lock(Lock::Host(dir)).await;
        self.host.borrow_mut().link(object, dir, name, self.clock())?;
        self.note(|| format!("host links object {object} to {dir}/{name:?}"));
        self.arrive(dir, name);
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
        self.assert_not_replayed();
        let _lock = self.lock(Lock::Host(dir)).await;
        let object = self.host.borrow_mut().remove(dir, name, directory, self.clock())?;
        self.note(|| format!("host removes {dir}/{name:?}: object {object}"));
        self.host.borrow_mut().changes += 1;
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
        self.assert_not_replayed();
        // `lock_rename()`
        let across = from.0 != to.0;
        let _rename = if across { Some(self.lock(Lock::HostRename).await) } else { None };
        let _first = self.lock(Lock::Host(from.0.min(to.0))).await;
        let _second =
            if across { Some(self.lock(Lock::Host(from.0.max(to.0))).await) } else { None };
        let done = self.host.borrow_mut().rename(from, to, way, self.clock())?;
        let Some((moved, other)) = done else { return Ok(()) };
        self.note(|| format!("host renames {from:?} to {to:?}, {way:?}: object {moved}"));
        self.arrive(to.0, to.1);
        if way == Way::Exchange {
            self.freshen(from.0, from.1);
            let sides = [from, to].map(|(dir, name)| (dir, name.clone()));
            self.host.borrow_mut().exchanged.extend(sides);
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
            host.backend.leaves(who, from, to, (moved, directory), cookie);
            (directory, cookie)
        };
        self.step().await;
        let host = &mut *self.host.borrow_mut();
        host.backend.arrives(to, directory, cookie);
        if let Some(replaced) = replaced.filter(|object| host.is_directory(*object)) {
            // `fsnotify_link_count()`; of a file nobody watches it.
            host.backend.itself(who, replaced, Mask::ATTRIB | Mask::ISDIR);
        }
    }

    /// Something is written through an open file, or its attributes are changed.
    pub(crate) async fn host_change(&self, who: Pid, object: Obj, open: Open, mask: Mask) {
        self.assert_not_replayed();
        if mask != Mask::CLOSE_WRITE {
            let (dir, name) = {
                let host = &mut *self.host.borrow_mut();
                host.object_mut(object).changed = self.clock();
                host.open[open].clone()
            };
            self.note(|| format!("host changes object {object} ({mask:?})"));
            // What the guest writes itself its kernel reports, under the name that was used there.
            let others = who != DAEMON && mask == Mask::MODIFY;
            if others && self.host.borrow().at(dir, &name) == Some(object) {
                self.freshen(dir, &name);
            }
            self.step().await;
        }
        let (dir, name) = self.host.borrow().open[open].clone();
        self.report(who, dir, &name, object, mask);
    }
}
