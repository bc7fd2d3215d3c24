// SPDX-License-Identifier: Apache-2.0 OR MIT
//! System calls that change names, as the guest's kernel does them: `fs/namei.c`, `fs/fuse/dir.c`. A
//! request is sent while the lock of its directory is held, and the event is raised before the lock is
//! released: so calls on the names of one directory, those of the agent included, are made one after
//! the other.

use farwatch_proto::{FileKind, Mask, NodeId};

use crate::dcache::EntryOut;
use crate::host::{Errno, Way};
use crate::sim::{Guard, Lock, World};
use crate::vfs::{Caller, Held, Side};

impl World {
    /// `mknodat(2)`, `mkdirat(2)`, `symlinkat(2)`; with `link` `linkat(2)` of that object.
    pub(crate) async fn sys_make(
        &self,
        caller: Caller,
        at: Side<'_>,
        kind: FileKind,
        link: Option<NodeId>,
    ) -> Result<(), Errno> {
        let made = self.make(caller, at, kind, link, false).await;
        if made == Err(Errno::Stale) { self.make(caller, at, kind, link, true).await } else { made }
    }

    async fn make(
        &self,
        caller: Caller,
        at: Side<'_>,
        kind: FileKind,
        link: Option<NodeId>,
        fresh: bool,
    ) -> Result<(), Errno> {
        let (dir, name) = at;
        let _lock = self.lock(Lock::Dir(dir)).await;
        let _ = fresh;
        // `LOOKUP_EXCL`
        let new = self.lookup_locked(caller, at, true).await?;
        if new.node().is_some() {
            return Err(Errno::Exist);
        }
        if self.is_dead(dir) {
            return Err(Errno::NoEnt);
        }
        self.permission(caller, dir).await?;
        let nameless = |node| self.kernel().inode(node).is_none_or(|inode| inode.nlink == 0);
        if link.is_some_and(nameless) {
            // `vfs_link()`
            return Err(Errno::NoEnt);
        }
        let made = match link {
            Some(node) => self.serve_link(caller, node, at).await,
            None => self.serve_make(caller, at, kind).await,
        };
        self.create_new_entry(new, at, kind, made)?;
        let mut kernel = self.kernel();
        if let Some(node) = link {
            kernel.raise_itself(node, Mask::ATTRIB);
        }
        let isdir = if kind == FileKind::Directory { Mask::ISDIR } else { Mask::empty() };
        kernel.raise(dir, name, Mask::CREATE | isdir, 0);
        Ok(())
    }

    /// `create_new_entry()`
    fn create_new_entry(
        &self,
        new: Held<'_>,
        (dir, _): Side<'_>,
        kind: FileKind,
        made: Result<EntryOut, Errno>,
    ) -> Result<(), Errno> {
        let entry = match made {
            Ok(entry) => entry,
            Err(error) => {
                if error == Errno::Exist {
                    self.kernel().invalidate(new.id);
                }
                return Err(error);
            }
        };
        if entry.kind != kind {
            // The kernel forgets this reference, and so does this model at the end.
            self.kernel().leaked.push((entry.node, 1));
            return Err(Errno::Io);
        }
        {
            let mut kernel = self.kernel();
            kernel.iget(&entry, 0);
            kernel.drop_dentry(new.id);
        }
        drop(self.splice(&entry, new)?);
        self.dir_changed(dir);
        Ok(())
    }

    /// `open(2)` with O_CREAT, which makes a file or opens the one that is there.
    pub(crate) async fn sys_create(
        &self,
        caller: Caller,
        at: Side<'_>,
        exclusive: bool,
    ) -> Result<Held<'_>, Errno> {
        let (dir, name) = at;
        let _lock = self.lock(Lock::Dir(dir)).await;
        // `lookup_open()`, `fuse_atomic_open()`
        let held = self.lookup_locked(caller, at, exclusive).await?;
        if held.node().is_some() {
            return if exclusive { Err(Errno::Exist) } else { Ok(held) };
        }
        if self.is_dead(dir) {
            return Err(Errno::NoEnt);
        }
        self.permission(caller, dir).await?;
        let entry = self.serve_create(caller, at).await?;
        if entry.kind != FileKind::Regular {
            self.kernel().leaked.push((entry.node, 1));
            return Err(Errno::Io);
        }
        {
            let mut kernel = self.kernel();
            kernel.iget(&entry, 0);
            kernel.drop_dentry(held.id);
            kernel.add(held.id, Some(entry.node));
            kernel.set_timeout(held.id, entry.entry_timeout);
        }
        self.dir_changed(dir);
        self.kernel().raise(dir, name, Mask::CREATE, 0);
        Ok(held)
    }

    /// `unlinkat(2)`
    pub(crate) async fn sys_remove(
        &self,
        caller: Caller,
        at: Side<'_>,
        directory: bool,
    ) -> Result<(), Errno> {
        let removed = self.remove(caller, at, directory, false).await;
        if removed == Err(Errno::Stale) {
            self.remove(caller, at, directory, true).await
        } else {
            removed
        }
    }

    async fn remove(
        &self,
        caller: Caller,
        at: Side<'_>,
        directory: bool,
        fresh: bool,
    ) -> Result<(), Errno> {
        let (dir, name) = at;
        let _lock = self.lock(Lock::Dir(dir)).await;
        let held = self.lookup_locked(caller, at, fresh).await?;
        let node = held.node().ok_or(Errno::NoEnt)?;
        self.may_delete(caller, dir, node, directory).await?;
        let _victim = self.lock_directory(node).await;
        if let Err(error) = self.serve_remove(caller, at, directory).await {
            if error == Errno::NoEnt {
                self.kernel().invalidate(held.id);
            }
            return Err(error);
        }
        self.dir_changed(dir);
        let mut kernel = self.kernel();
        kernel.unlinked(held.id);
        if directory {
            kernel.shrink(node);
            kernel.bury(node);
        } else {
            // `fsnotify_link_count()`
            kernel.raise_itself(node, Mask::ATTRIB);
        }
        // `d_delete_notify()`
        kernel.delete(held.id);
        let isdir = if directory { Mask::ISDIR } else { Mask::empty() };
        kernel.raise(dir, name, Mask::DELETE | isdir, 0);
        Ok(())
    }

    /// `may_delete()`
    async fn may_delete(
        &self,
        caller: Caller,
        dir: NodeId,
        node: NodeId,
        directory: bool,
    ) -> Result<(), Errno> {
        self.permission(caller, dir).await?;
        match (directory, self.kernel().isdir(node).is_empty()) {
            (true, true) => return Err(Errno::NotDir),
            (false, false) => return Err(Errno::IsDir),
            (true, false) | (false, true) => {}
        }
        if self.is_dead(dir) { Err(Errno::NoEnt) } else { Ok(()) }
    }

    async fn lock_directory(&self, node: NodeId) -> Option<Guard<'_>> {
        let directory = !self.kernel().isdir(node).is_empty();
        if directory { Some(self.lock(Lock::Dir(node)).await) } else { None }
    }

    /// `renameat2(2)`
    pub(crate) async fn sys_rename(
        &self,
        caller: Caller,
        from: Side<'_>,
        to: Side<'_>,
        way: Way,
    ) -> Result<(), Errno> {
        let renamed = self.rename(caller, from, to, way, false).await;
        if renamed == Err(Errno::Stale) {
            self.rename(caller, from, to, way, true).await
        } else {
            renamed
        }
    }

    async fn rename(
        &self,
        caller: Caller,
        from: Side<'_>,
        to: Side<'_>,
        way: Way,
        fresh: bool,
    ) -> Result<(), Errno> {
        let _locks = self.lock_rename(from.0, to.0).await;
        let old = self.lookup_locked(caller, from, fresh).await?;
        let source = old.node().ok_or(Errno::NoEnt)?;
        // `LOOKUP_RENAME_TARGET`
        let new = self.lookup_locked(caller, to, fresh || way == Way::Over).await?;
        let target = new.node();
        if way == Way::Exchange && target.is_none() {
            return Err(Errno::NoEnt);
        }
        if self.kernel().above(to.0).contains(&source) {
            return Err(Errno::Inval);
        }
        if target.is_some_and(|target| self.kernel().above(from.0).contains(&target)) {
            return Err(Errno::NotEmpty);
        }
        if target == Some(source) {
            return Ok(());
        }
        let directory = !self.kernel().isdir(source).is_empty();
        self.may_delete(caller, from.0, source, directory).await?;
        match target {
            Some(target) if way == Way::Over => {
                self.may_delete(caller, to.0, target, directory).await?;
            }
            Some(_) | None => self.permission(caller, to.0).await?,
        }
        if self.is_dead(to.0) {
            return Err(Errno::NoEnt);
        }
        let _source = if from.0 == to.0 { None } else { self.lock_directory(source).await };
        let _target = match target {
            Some(target) => self.lock_directory(target).await,
            None => None,
        };
        if let Err(error) = self.serve_rename(caller, from, to, way).await {
            if error == Errno::NoEnt {
                self.kernel().invalidate(old.id);
                if target.is_some() {
                    self.kernel().invalidate(new.id);
                }
            }
            return Err(error);
        }
        self.renamed(from, to, (&old, &new), target, way);
        Ok(())
    }

    /// What `fuse_rename_common()` and `vfs_rename()` do when the server has done it.
    fn renamed(
        &self,
        from: Side<'_>,
        to: Side<'_>,
        (old, new): (&Held<'_>, &Held<'_>),
        target: Option<NodeId>,
        way: Way,
    ) {
        self.dir_changed(from.0);
        self.dir_changed(to.0);
        let mut kernel = self.kernel();
        let replaced = target.filter(|_| way == Way::Over);
        if let Some(target) = replaced {
            kernel.unlinked(new.id);
            if !kernel.isdir(target).is_empty() {
                kernel.shrink(target);
                kernel.bury(target);
            }
        }
        match way {
            Way::Over => kernel.d_move(old.id, new.id),
            Way::Exchange => kernel.d_exchange(old.id, new.id),
        }
        kernel.raise_move(from, old.id, replaced);
        if way == Way::Exchange {
            kernel.raise_move(to, new.id, None);
        }
    }

    /// `lock_rename()`: the one above first.
    pub(crate) async fn lock_rename(&self, one: NodeId, two: NodeId) -> Vec<Guard<'_>> {
        if one == two {
            return vec![self.lock(Lock::Dir(one)).await];
        }
        let rename = self.lock(Lock::Rename).await;
        let below = self.kernel().above(one).contains(&two);
        let above = self.kernel().above(two).contains(&one);
        let (first, second) = match (above, below) {
            (true, _) => (one, two),
            (_, true) => (two, one),
            (false, false) => (one.min(two), one.max(two)),
        };
        let first = self.lock(Lock::Dir(first)).await;
        let second = self.lock(Lock::Dir(second)).await;
        vec![second, first, rename]
    }
}
