// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Interposer`]: the file system that the FUSE server calls, around virtiofsd's `PassthroughFs`.
//!
//! Four things happen here and nothing else. Every reply that names a node goes through the tree,
//! and marks a directory before the guest hears of it ([`Share`]). Requests on the reserved nodes are
//! answered here (`control`). A request with an agent's tag is answered from the engine's ledger
//! (`marked`), and if it could change anything it never reaches the file system below. A call that
//! changes something is announced to the watcher (`own`, `reported`), and reported to the share when it
//! has succeeded.
//!
//! `requests` has the methods of the `FileSystem` trait, one for each request.

mod ahead;
mod attr;
mod control;
mod gone;
mod identify;
mod inner;
mod keep;
mod marked;
mod moved;
mod opens;
mod own;
mod privileges;
mod probe;
mod reconnect;
mod reported;
mod requests;
mod stale;

use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farwatch_proto::wire::abi::MARKER_UID;
use farwatch_proto::{Name, NameError, NodeId};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use virtiofsd::filesystem::{Context, Entry, FileSystem};
use virtiofsd::fuse;
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::soft_idmap::Id;

use crate::share::{Keep, Share};
use control::Control;
pub use inner::Inner;
use opens::Opens;
use reconnect::Reconnect;
pub use reconnect::{Entries, OneEntry};
use stale::Stale;

type Inode = <PassthroughFs as FileSystem>::Inode;
type Handle = <PassthroughFs as FileSystem>::Handle;

/// See the module's documentation.
pub struct Interposer {
    inner: Inner,
    share: Arc<Share>,
    control: Control,
    reconnect: Reconnect,
    stale: Stale,
    opens: Opens,
    /// Whether the guest may move to another host although it would lose files that it has open.
    may_lose_opens: bool,
    root: PathBuf,
    /// Whether an object of which the guest knows nothing may be made known by a replay. Not when
    /// every known object costs the file server a descriptor: the host's activity must not use up
    /// what the guest needs.
    adopts: bool,
    /// Whether a link count of 0 is what tells that an object is gone. overlayfs goes on counting the name of an
    /// object of the lower layer.
    counts_links: bool,
    /// How long the guest may keep what events keep true; `None` for no longer than anything else.
    lease: Option<Duration>,
}

/// By a descriptor: the seccomp filter has no statfs(2).
fn is_overlay(root: &Path) -> bool {
    let path_only = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(root, path_only, Mode::empty());
    let stat = opened.and_then(|root| rustix::fs::fstatfs(&root));
    stat.is_ok_and(|stat| u32::try_from(stat.f_type) == Ok(OVERLAYFS))
}

/// `OVERLAYFS_SUPER_MAGIC` of `linux/magic.h`.
const OVERLAYFS: u32 = 0x794c_7630;

impl Interposer {
    /// `root` is the shared directory as `inner` was given it.
    pub fn new(inner: impl Into<Inner>, share: Arc<Share>, root: &Path, adopts: bool) -> Self {
        let (control, reconnect, stale, opens) = Default::default();
        let root = root.to_owned();
        let counts_links = !is_overlay(&root);
        Self {
            inner: inner.into(),
            share,
            control,
            reconnect,
            stale,
            opens,
            may_lose_opens: true,
            root,
            adopts,
            counts_links,
            lease: None,
        }
    }

    /// Refuses to be moved to another host while the guest has deleted files open, which it would lose.
    #[must_use]
    pub fn keeping_open_files(self) -> Self {
        Self { may_lose_opens: false, ..self }
    }

    /// Lets the guest keep what events keep true, for `lease` after each reply.
    #[must_use]
    pub fn with_lease(self, lease: Option<Duration>) -> Self {
        Self { lease, ..self }
    }

    /// Both tags of an agent that replays: the marker uid, and the thread that opened the control node.
    fn is_agent(&self, ctx: &Context) -> bool {
        self.is_tagged(ctx) && !self.share.is_native()
    }

    /// Both tags, also of a client that replays nothing.
    fn is_tagged(&self, ctx: &Context) -> bool {
        ctx.uid.into_inner() == MARKER_UID && self.is_agent_thread(ctx)
    }

    /// Whoever takes the notifications: an agent, a module, or the kernel itself.
    fn is_client(&self, ctx: &Context) -> bool {
        self.is_tagged(ctx) || self.share.is_kernel(ctx.uid.into_inner(), ctx.pid)
    }

    /// Either tag: such a request changes nothing, whoever sent it.
    fn is_marked(&self, ctx: &Context) -> bool {
        ctx.uid.into_inner() == MARKER_UID || self.is_agent_thread(ctx)
    }

    fn is_agent_thread(&self, ctx: &Context) -> bool {
        self.share.is_agent_thread(ctx.pid)
    }

    /// Lets through what has no tag and names a node of the share.
    fn check(&self, ctx: &Context, inode: Inode) -> io::Result<NodeId> {
        if self.is_marked(ctx) {
            return Err(Errno::PERM.into());
        }
        share_node(inode)
    }

    /// Reads may carry a tag: they change nothing.
    fn check_read(&self, inode: Inode) -> io::Result<()> {
        share_node(inode).map(drop)
    }

    /// The same for a request with an entry: the name is checked here, whatever the library does.
    fn check_entry(&self, ctx: &Context, dir: Inode, name: &CStr) -> io::Result<(NodeId, Name)> {
        self.check(ctx, dir)?;
        entry(dir, name)
    }

    /// Notes in the tree that a program in the guest has made `entry` under `name`.
    fn made(&self, dir: NodeId, name: &Name, entry: Entry) -> Entry {
        let Some(id) = NodeId::new(entry.inode) else { return entry };
        let identity = || self.identify(dir, name, &entry);
        let keep = self.share.guest_made(id, &entry.attr, dir, name, identity);
        self.given(id, entry, keep)
    }

    /// Notes in the tree that the guest learns of `entry` under `name`.
    fn learn(&self, dir: NodeId, name: &Name, entry: Entry) -> Entry {
        let Some(id) = NodeId::new(entry.inode) else { return entry };
        let identity = || self.identify(dir, name, &entry);
        let keep = self.share.learn(id, &entry.attr, dir, name, identity);
        self.given(id, entry, keep)
    }

    /// As the guest is to have it.
    fn given(&self, id: NodeId, mut entry: Entry, keep: Keep) -> Entry {
        entry.entry_timeout = self.kept(entry.entry_timeout, || keep.entry);
        let timeout = self.kept(entry.attr_timeout, || keep.attr);
        (entry.attr, entry.attr_timeout) = self.as_told(id, entry.attr, timeout);
        self.stamped(entry)
    }

    /// A directory that is deleted while somebody lists it gives ENOENT, which getdents(2) takes for its end. The library
    /// seeks first, and ext4 gives EINVAL for that (`ext4_dir_llseek()` to the end of a directory whose size is 0 now).
    fn why_not_listed(&self, error: io::Error, ctx: Context, inode: Inode) -> io::Error {
        let is_deleted =
            || self.inner.getattr(ctx, inode, None).map_or(true, |(attr, _)| attr.nlink == 0);
        match Errno::from_io_error(&error) {
            Some(Errno::INVAL) if is_deleted() => Errno::NOENT.into(),
            _ => error,
        }
    }

    /// With the generation of this session (S1). The guest's kernel makes the root of an announced submount, and the inode
    /// that it is mounted on, with generation 0, and takes both for gone if it hears of another one
    /// (`fuse_fill_super_submount()`, `fuse_stale_inode()`).
    fn stamped(&self, mut entry: Entry) -> Entry {
        let is_announced = entry.attr.flags & fuse::ATTR_SUBMOUNT != 0;
        entry.generation = if is_announced { 0 } else { u64::from(self.share.generation().0) };
        entry
    }

    /// `.` and `..`: what `open_by_handle_at(2)` asks for in the guest.
    fn lookup_dot(&self, ctx: Context, inode: Inode, parent: bool) -> io::Result<Entry> {
        let id = node(inode)?;
        if id == NodeId::CONTROL && !parent {
            return Ok(control::entry());
        }
        if id.is_reserved() && self.is_client(&ctx) {
            self.share.probed(id);
        }
        share_node(inode)?;
        if parent && self.is_agent(&ctx) {
            self.reconnect.begin(id);
        }
        let lent = if parent { self.share.lend_parent(id) } else { self.share.lend_dot(id) };
        let target = lent.ok_or(Errno::STALE)?;
        let (attr, timeout) = match self.inner.getattr(ctx, target.id.get(), None) {
            Ok(reply) => reply,
            Err(error) => {
                self.give_back(ctx, target.id, 1);
                return Err(error);
            }
        };
        Ok(Entry {
            inode: target.id.get(),
            generation: u64::from(target.generation.0),
            attr: if self.is_agent(&ctx) { attr::on_the_way(attr) } else { attr },
            attr_timeout: timeout,
            entry_timeout: Duration::ZERO,
        })
    }

    fn give_back(&self, ctx: Context, id: NodeId, count: u64) {
        let open = |dir: NodeId| self.open_directory(dir.get()).ok();
        for (id, borrowed) in self.share.forget(id, count, open) {
            if borrowed > 0 {
                self.inner.forget(ctx, id.get(), borrowed);
            }
        }
    }
}

/// Of a request that the server makes for itself.
fn own_context() -> Context {
    Context { uid: 0.into(), gid: 0.into(), pid: 0 }
}

fn node(inode: Inode) -> io::Result<NodeId> {
    NodeId::new(inode).ok_or_else(|| Errno::STALE.into())
}

/// A node of the share. A reserved one is a phantom that outlived its replay: it is looked up again.
fn share_node(inode: Inode) -> io::Result<NodeId> {
    let id = node(inode)?;
    if id.is_reserved() { Err(Errno::STALE.into()) } else { Ok(id) }
}

fn entry(dir: Inode, name: &CStr) -> io::Result<(NodeId, Name)> {
    let name = Name::parse(name.to_bytes()).map_err(|error| match error {
        NameError::TooLong(_) => Errno::NAMETOOLONG,
        NameError::Empty | NameError::BadByte(_) | NameError::Dot => Errno::INVAL,
    })?;
    Ok((node(dir)?, name))
}
