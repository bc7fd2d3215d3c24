// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The programs: how each [`Op`] is done on the host and in the guest.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use farwatch_proto::replay::Times;
use farwatch_proto::{FileKind, Mask, Name, NodeId};

use crate::config::Client;
use crate::host::{Errno, Host, Obj, Pid, Way};
use crate::ops::{At, Dir, Op, Who};
use crate::sim::World;
use crate::vfs::{Caller, Held, Side};

/// A program in the guest that watches an object.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) node: NodeId,
    pub(crate) object: Obj,
    /// What it has listed, if it is a directory.
    pub(crate) names: BTreeSet<Name>,
    /// How many events there had been by then.
    pub(crate) events: usize,
    /// The step in which it began.
    pub(crate) step: u64,
}

/// What the programs have.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    /// The directories on the host.
    dirs: Vec<(Dir, Obj)>,
    pub(crate) views: Vec<View>,
    /// Everything is in place.
    pub(crate) begun: bool,
}

impl World {
    fn host_dir(&self, dir: Dir) -> Obj {
        let dirs = &self.programs.borrow().dirs;
        dirs.iter().find_map(|(known, object)| (*known == dir).then_some(*object)).expect("set up")
    }

    /// Makes the directories and some files, and has the guest watch the directories.
    pub(crate) async fn set_up(&self) {
        let names = ["a", "b", "x", "y"].map(|name| Name::parse(name.as_bytes()).expect("a name"));
        {
            let (host, now) = (&mut *self.host.borrow_mut(), self.clock());
            let root = host.root();
            let a = host.make(root, &names[0], FileKind::Directory, now).expect("it is new");
            let b = host.make(a, &names[1], FileKind::Directory, now).expect("it is new");
            for (dir, name) in [(root, &names[2]), (a, &names[2]), (a, &names[3])] {
                host.make(dir, name, FileKind::Regular, now).expect("it is new");
            }
            let outside = (Dir::Outside, Host::OUTSIDE);
            host.make(outside.1, &names[2], FileKind::Regular, now).expect("it is new");
            let dirs = vec![(Dir::Root, root), (Dir::A, a), (Dir::B, b), outside];
            self.programs.borrow_mut().dirs = dirs;
        }
        self.wait(|| self.link.borrow().listens).await;
        for dir in Dir::SHARED {
            let held = self.guest_dir(dir).await.expect("it is there");
            self.view(&held).await;
        }
        let outside: Vec<_> =
            self.host.borrow().object(Host::OUTSIDE).entries.values().copied().collect();
        for (number, object) in self.host.borrow_mut().objects.iter_mut().enumerate() {
            object.was_out_of_view = outside.contains(&(number as Obj));
        }
        self.host.borrow_mut().local.clear();
        self.programs.borrow_mut().begun = true;
    }

    /// A directory in the guest, by its path.
    async fn guest_dir(&self, dir: Dir) -> Result<Held<'_>, Errno> {
        let names: &[&[u8]] = match dir {
            Dir::Root => &[],
            Dir::A => &[b"a"],
            Dir::B => &[b"a", b"b"],
            Dir::Outside => return Err(Errno::NoEnt),
        };
        let root = self.kernel().alias(NodeId::ROOT).expect("the root is always known");
        self.kernel().get(root);
        let mut held = self.hold(root);
        for name in names {
            let name = Name::parse(name).expect("a name");
            let node = held.node().ok_or(Errno::NoEnt)?;
            if self.kernel().isdir(node).is_empty() {
                return Err(Errno::NotDir);
            }
            held = self.find(Caller::Program, (node, &name)).await?;
        }
        let node = held.node().ok_or(Errno::NoEnt)?;
        if self.kernel().isdir(node).is_empty() { Err(Errno::NotDir) } else { Ok(held) }
    }

    /// Watches an object from now on, and lists it.
    async fn view(&self, held: &Held<'_>) {
        let node = held.node().expect("it was found");
        let Some(object) = self.server.borrow().library.object(node) else { return };
        let step = self.steps();
        // Before there is a mark, so that nothing is missed.
        if self.config.client == Client::Kernel {
            self.watch_natively(node).await;
        }
        let directory = {
            let mut kernel = self.kernel();
            let Some(inode) = kernel.inodes.get_mut(&node) else { return };
            if std::mem::replace(&mut inode.watched, true) {
                return;
            }
            inode.kind == FileKind::Directory
        };
        self.note(|| format!("watches {node}"));
        self.step().await;
        let mut names = BTreeSet::new();
        if directory {
            names.extend(self.serve_readdir(node).await.unwrap_or_default());
            // A program that lists a directory looks at what is there, as `ls -l` does.
            for name in names.clone() {
                self.step().await;
                if self.find(Caller::Program, (node, &name)).await.is_err() {
                    names.remove(&name);
                }
            }
        }
        let events = self.kernel().events.len();
        self.programs.borrow_mut().views.push(View { node, object, names, events, step });
    }

    /// A program that does one operation after the other.
    pub(crate) async fn program(&self, who: Who, ops: Vec<Op>) {
        self.wait(|| self.programs.borrow().begun).await;
        for op in ops {
            self.note(|| format!("{who:?}: {op:?}"));
            let counts = op != Op::Sync;
            self.busy.set(self.busy.get() + usize::from(counts));
            let result = match who {
                Who::Host(nth) => self.host_op(100 + Pid::from(nth), op).await,
                Who::Guest(_) => self.guest_op(op).await,
            };
            self.note(|| format!("{who:?}: {op:?}: {result:?}"));
            self.busy.set(self.busy.get() - usize::from(counts));
            self.step().await;
        }
        self.running.set(self.running.get() - 1);
        self.quiet_since.set(self.clock());
    }

    async fn host_op(&self, pid: Pid, op: Op) -> Result<(), Errno> {
        let dir = |at: At| (self.host_dir(at.0), at.name());
        match op {
            Op::Make(at, kind) => {
                let (dir, name) = dir(at);
                self.host_make(pid, dir, &name, kind).await.map(drop)
            }
            Op::Create(at) => {
                let (dir, name) = dir(at);
                self.host_make(pid, dir, &name, FileKind::Regular).await?;
                let open = self.host.borrow_mut().open(dir, &name);
                self.host_write(pid, dir, &name, open).await
            }
            Op::Write(at) => {
                let (dir, name) = dir(at);
                let open = self.host.borrow_mut().open(dir, &name);
                self.host_write(pid, dir, &name, open).await
            }
            Op::Chmod(at) => {
                let (dir, name) = dir(at);
                let object = self.host.borrow().at(dir, &name).ok_or(Errno::NoEnt)?;
                let open = self.host.borrow_mut().open(dir, &name);
                self.step().await;
                self.host_change(pid, object, open, Mask::ATTRIB).await;
                Ok(())
            }
            Op::Unlink(at) | Op::Rmdir(at) => {
                let (dir, name) = dir(at);
                self.host_remove(pid, dir, &name, matches!(op, Op::Rmdir(_))).await
            }
            Op::Rename(from, to) | Op::Exchange(from, to) => {
                let way = if matches!(op, Op::Rename(..)) { Way::Over } else { Way::Exchange };
                let (from, to) = (dir(from), dir(to));
                self.host_rename(pid, (from.0, &from.1), (to.0, &to.1), way).await
            }
            Op::Link(from, to) => {
                let (from, to) = (dir(from), dir(to));
                let object = self.host.borrow().at(from.0, &from.1).ok_or(Errno::NoEnt)?;
                self.step().await;
                self.host_link(pid, object, to.0, &to.1).await
            }
            Op::Sync | Op::Look(_) | Op::Watch(_) | Op::DropCaches | Op::Die(_) => Ok(()),
        }
    }

    async fn host_write(
        &self,
        pid: Pid,
        dir: Obj,
        name: &Name,
        open: crate::host::Open,
    ) -> Result<(), Errno> {
        let object = self.host.borrow().at(dir, name).ok_or(Errno::NoEnt)?;
        if self.host.borrow().object(object).kind != FileKind::Regular {
            return Err(Errno::Inval);
        }
        self.step().await;
        self.host_change(pid, object, open, Mask::MODIFY).await;
        self.step().await;
        self.host_change(pid, object, open, Mask::CLOSE_WRITE).await;
        Ok(())
    }

    async fn guest_op(&self, op: Op) -> Result<(), Errno> {
        const PROGRAM: Caller = Caller::Program;
        match op {
            Op::Rename(from, to) | Op::Exchange(from, to) => {
                let way = if matches!(op, Op::Rename(..)) { Way::Over } else { Way::Exchange };
                let (old, new) = (self.guest_dir(from.0).await?, self.guest_dir(to.0).await?);
                let (old, new) = (old.node().ok_or(Errno::NoEnt)?, new.node().ok_or(Errno::NoEnt)?);
                self.sys_rename(PROGRAM, (old, &from.name()), (new, &to.name()), way).await
            }
            Op::Link(from, to) => {
                let (old, new) = (self.guest_dir(from.0).await?, self.guest_dir(to.0).await?);
                let name = from.name();
                let side: Side<'_> = (old.node().ok_or(Errno::NoEnt)?, &name);
                let held = self.find(PROGRAM, side).await?;
                let node = held.node().ok_or(Errno::NoEnt)?;
                let kind = self.kernel().inode(node).map(|inode| inode.kind);
                let kind = kind.filter(|kind| *kind != FileKind::Directory).ok_or(Errno::Perm)?;
                let new = new.node().ok_or(Errno::NoEnt)?;
                self.sys_make(PROGRAM, (new, &to.name()), kind, Some(node)).await
            }
            Op::DropCaches => {
                self.kernel().drop_caches();
                Ok(())
            }
            Op::Make(at, _)
            | Op::Create(at)
            | Op::Write(at)
            | Op::Chmod(at)
            | Op::Unlink(at)
            | Op::Rmdir(at)
            | Op::Look(at)
            | Op::Watch(at) => {
                let held = self.guest_dir(at.0).await?;
                let name = at.name();
                self.guest_entry_op(op, (held.node().ok_or(Errno::NoEnt)?, &name)).await
            }
            Op::Sync => {
                self.sys_sync().await;
                Ok(())
            }
            Op::Die(away) => {
                let back = self.clock() + Duration::from_millis(away);
                self.link.borrow_mut().dies = Some(back);
                Ok(())
            }
        }
    }

    async fn guest_entry_op(&self, op: Op, side: Side<'_>) -> Result<(), Errno> {
        const PROGRAM: Caller = Caller::Program;
        match op {
            Op::Make(_, kind) => self.sys_make(PROGRAM, side, kind, None).await,
            Op::Create(_) => {
                let held = self.sys_create(PROGRAM, side, false).await?;
                self.sys_write(&held).await?;
                self.sys_close(held).await;
                Ok(())
            }
            Op::Write(_) => {
                let held = self.find(PROGRAM, side).await?;
                self.sys_write(&held).await?;
                self.sys_close(held).await;
                Ok(())
            }
            Op::Chmod(_) => {
                let held = self.find(PROGRAM, side).await?;
                self.sys_set_times(PROGRAM, &held, Times::Both).await
            }
            Op::Unlink(_) => self.sys_remove(PROGRAM, side, false).await,
            Op::Rmdir(_) => self.sys_remove(PROGRAM, side, true).await,
            Op::Look(_) => {
                let held = self.find(PROGRAM, side).await?;
                let node = held.node().ok_or(Errno::NoEnt)?;
                self.fuse_getattr(PROGRAM, node).await
            }
            Op::Watch(_) => {
                let held = self.find(PROGRAM, side).await?;
                self.view(&held).await;
                Ok(())
            }
            Op::Rename(..)
            | Op::Exchange(..)
            | Op::Link(..)
            | Op::DropCaches
            | Op::Sync
            | Op::Die(_) => unreachable!("of no entry, or two"),
        }
    }

    /// The server's worker for FORGETs.
    pub(crate) async fn forgets(&self) {
        loop {
            self.wait(|| !self.kernel().forgets.is_empty()).await;
            let forget = self.kernel().forgets.pop_front();
            if let Some((node, count)) = forget {
                self.serve_forget(node, count);
            }
            self.step().await;
        }
    }
}

/// What a [`World`] has of this.
pub(crate) type Shared = RefCell<Programs>;
