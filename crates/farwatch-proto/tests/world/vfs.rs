// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the guest's kernel finds what is under a name, up to the requests that it sends for it:
//! `fs/namei.c`, `fs/fuse/dir.c`.

use farwatch_proto::{FileKind, Name, NodeId, Seq};

use crate::dcache::{DentryId, EntryOut, Kernel};
use crate::host::Errno;
use crate::sim::{Lock, World};

/// Who makes a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Caller {
    Program,
    /// The agent, which replays the notification with this number.
    Agent(Option<Seq>),
}

/// A reference on a dentry.
pub(crate) struct Held<'a> {
    world: &'a World,
    pub(crate) id: DentryId,
}

impl<'a> Held<'a> {
    /// Another reference on the same dentry.
    pub(crate) fn again(&self) -> Held<'a> {
        self.world.kernel().get(self.id);
        Held { world: self.world, id: self.id }
    }

    /// The inode to which it leads.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.world.kernel().dentry(self.id).inode
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.world.kernel().put(self.id);
    }
}

/// One side of a rename.
pub(crate) type Side<'a> = (NodeId, &'a Name);

impl World {
    pub(crate) fn hold(&self, id: DentryId) -> Held<'_> {
        Held { world: self, id }
    }

    /// `fuse_dentry_revalidate()`: whether a dentry may be used as it is. Asks the server if it is out
    /// of date or is to be `fresh` (`LOOKUP_EXCL`, `LOOKUP_REVAL`, `LOOKUP_RENAME_TARGET`).
    async fn revalidate(&self, caller: Caller, id: DentryId, fresh: bool) -> bool {
        let (dir, name, node, asked) = {
            let kernel = self.kernel();
            let dentry = kernel.dentry(id);
            let (Some(node), Some(dir)) = (dentry.inode, dentry.parent) else { return false };
            if !fresh && dentry.until >= kernel.now {
                return true;
            }
            (dir, dentry.name.clone(), node, kernel.attr_version())
        };
        match self.serve_lookup(caller, dir, &name).await {
            Ok(entry) if entry.node == node => {
                let mut kernel = self.kernel();
                kernel.iget(&entry, asked);
                kernel.set_timeout(id, entry.entry_timeout);
                true
            }
            Ok(entry) => {
                self.kernel().forgets.push_back((entry.node, 1));
                false
            }
            Err(_) => false,
        }
    }

    /// `fuse_lookup()`, into a new dentry.
    async fn fuse_lookup(
        &self,
        caller: Caller,
        dir: NodeId,
        name: &Name,
    ) -> Result<Held<'_>, Errno> {
        let (new, asked) = {
            let mut kernel = self.kernel();
            (self.hold(kernel.alloc(Some(dir), name.clone())), kernel.attr_version())
        };
        match self.serve_lookup(caller, dir, name).await {
            Ok(entry) => {
                self.kernel().iget(&entry, asked);
                self.splice(&entry, new)
            }
            Err(Errno::NoEnt) => {
                self.kernel().add(new.id, None);
                Ok(new)
            }
            Err(error) => Err(error),
        }
    }

    /// `d_splice_alias()`, and the time for which the entry may be kept. A directory has one dentry: if
    /// it is found in another place, that moves there.
    pub(crate) fn splice<'a>(&'a self, entry: &EntryOut, new: Held<'a>) -> Result<Held<'a>, Errno> {
        let spliced = self.splice_directory(&mut self.kernel(), entry, new.id);
        let held = match spliced {
            Err(error) => {
                self.kernel().iput(entry.node);
                return Err(error);
            }
            Ok(Some(alias)) => self.hold(alias),
            Ok(None) => {
                self.kernel().add(new.id, Some(entry.node));
                new
            }
        };
        self.kernel().set_timeout(held.id, entry.entry_timeout);
        Ok(held)
    }

    fn splice_directory(
        &self,
        kernel: &mut Kernel,
        entry: &EntryOut,
        new: DentryId,
    ) -> Result<Option<DentryId>, Errno> {
        let Some(alias) = kernel.alias(entry.node).filter(|_| entry.kind == FileKind::Directory)
        else {
            return Ok(None);
        };
        let dir = kernel.dentry(new).parent.expect("it is looked up in a directory");
        if kernel.above(dir).contains(&entry.node) {
            return Err(Errno::Loop);
        }
        // `__d_unalias()`: who looks something up may not wait for locks.
        if let Some(parent) = kernel.dentry(alias).parent
            && parent != dir
            && !(self.is_free(&Lock::Rename) && self.is_free_to_read(&Lock::Dir(parent)))
        {
            self.note(|| format!("a lock is held: {} stays where it is", entry.node));
            return Err(Errno::Stale);
        }
        kernel.get(alias);
        kernel.d_move(alias, new);
        Ok(Some(alias))
    }

    /// `lookup_one_qstr_excl()`: under the lock of the directory.
    pub(crate) async fn lookup_locked(
        &self,
        caller: Caller,
        (dir, name): Side<'_>,
        fresh: bool,
    ) -> Result<Held<'_>, Errno> {
        let cached = self.kernel().lookup(dir, name).map(|id| self.hold(id));
        if let Some(cached) = cached {
            if self.revalidate(caller, cached.id, fresh).await {
                return Ok(cached);
            }
            self.kernel().invalidate(cached.id);
        }
        if self.is_dead(dir) {
            return Err(Errno::NoEnt);
        }
        self.fuse_lookup(caller, dir, name).await
    }

    /// `walk_component()`: `lookup_fast()`, `lookup_slow()`.
    async fn walk(
        &self,
        caller: Caller,
        (dir, name): Side<'_>,
        fresh: bool,
    ) -> Result<Held<'_>, Errno> {
        let cached = self.kernel().lookup(dir, name).map(|id| self.hold(id));
        if let Some(cached) = cached {
            if self.revalidate(caller, cached.id, fresh).await {
                return Ok(cached);
            }
            self.kernel().invalidate(cached.id);
        }
        let _lock = self.lock_shared(Lock::Dir(dir)).await;
        let _lookup = self.lock(Lock::Lookup(dir, name.clone())).await;
        self.lookup_locked(caller, (dir, name), fresh).await
    }

    /// What a name leads to. `retry_estale()`: the second time without what the kernel believes.
    pub(crate) async fn find(&self, caller: Caller, at: Side<'_>) -> Result<Held<'_>, Errno> {
        let mut found = self.walk(caller, at, false).await;
        if matches!(found, Err(Errno::Stale)) {
            found = self.walk(caller, at, true).await;
        }
        found.and_then(|held| if held.node().is_some() { Ok(held) } else { Err(Errno::NoEnt) })
    }

    pub(crate) fn is_dead(&self, dir: NodeId) -> bool {
        self.kernel().inode(dir).is_none_or(|inode| inode.dead)
    }

    /// `fuse_permission()` for a directory, with `default_permissions`.
    pub(crate) async fn permission(&self, caller: Caller, dir: NodeId) -> Result<(), Errno> {
        let old = {
            let kernel = self.kernel();
            kernel.inode(dir).is_some_and(|inode| inode.attr_until < kernel.now)
        };
        if old { self.fuse_getattr(caller, dir).await } else { Ok(()) }
    }

    /// `fuse_do_getattr()`
    pub(crate) async fn fuse_getattr(&self, caller: Caller, node: NodeId) -> Result<(), Errno> {
        let asked = self.kernel().attr_version();
        let attr = self.serve_getattr(caller, node).await?;
        self.kernel().change_attributes(node, attr.nlink, attr.attr_timeout, asked);
        Ok(())
    }

    /// `fuse_dir_changed()`: its attributes are to be asked for again.
    pub(crate) fn dir_changed(&self, dir: NodeId) {
        if let Some(inode) = self.kernel().inodes.get_mut(&dir) {
            inode.attr_until = std::time::Duration::ZERO;
        }
    }
}
