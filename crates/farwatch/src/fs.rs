// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Interposer`]: the file system that the FUSE server calls, around virtiofsd's `PassthroughFs`.
//!
//! Three things happen here and nothing else. Every reply that names a node goes through the tree,
//! and marks a directory before the guest hears of it ([`Share`]). Requests on the reserved nodes are
//! answered here (`control`). A request with an agent's mark is answered from the engine's ledger
//! (`marked`), and if it could change anything it never reaches the file system below.
//!
//! Every method of the `FileSystem` trait is forwarded: its defaults answer ENOSYS, so a forgotten
//! one would be a feature lost in silence. `tests/forwarding.rs` compares the two lists.

mod attr;
mod control;
mod identify;
mod inner;
mod marked;
mod moved;
mod own;
mod reconnect;

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use farwatch_proto::wire::abi::MARKER_UID;
use farwatch_proto::{FileKind, Name, NameError, NodeId};
use rustix::io::Errno;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::soft_idmap::Id;

use crate::share::Share;
use control::Control;
pub use inner::Inner;
use own::Own;
use reconnect::Reconnect;
pub use reconnect::{Entries, OneEntry};

type Inode = <PassthroughFs as FileSystem>::Inode;
type Handle = <PassthroughFs as FileSystem>::Handle;

/// The largest extended attribute or list of names that Linux has (`XATTR_SIZE_MAX`,
/// `XATTR_LIST_MAX`): a guest that asks for more makes nobody allocate it.
const XATTR_SIZE_MAX: u32 = 1 << 16;

/// How often a removal is tried again that has failed for no reason.
const REMOVE_TRIES_MAX: u32 = 8;

/// See the module's documentation.
pub struct Interposer {
    inner: Own,
    share: Arc<Share>,
    control: Control,
    reconnect: Reconnect,
    root: PathBuf,
    /// Whether an object of which the guest knows nothing may be made known by a replay. Not when
    /// every known object costs the file server a descriptor: the host's activity must not use up
    /// what the guest needs.
    adopts: bool,
}

impl Interposer {
    /// `root` is the shared directory as `inner` was given it.
    pub fn new(inner: impl Into<Inner>, share: Arc<Share>, root: &Path, adopts: bool) -> Self {
        let inner = Own::new(inner.into(), Arc::clone(&share));
        let (control, reconnect) = (Control::default(), Reconnect::default());
        Self { inner, share, control, reconnect, root: root.to_owned(), adopts }
    }

    /// Both marks: the marker uid, and the thread that opened the control node.
    fn is_agent(&self, ctx: &Context) -> bool {
        ctx.uid.into_inner() == MARKER_UID && self.is_agent_thread(ctx)
    }

    /// Either mark: such a request changes nothing, whoever sent it.
    fn is_marked(&self, ctx: &Context) -> bool {
        ctx.uid.into_inner() == MARKER_UID || self.is_agent_thread(ctx)
    }

    fn is_agent_thread(&self, ctx: &Context) -> bool {
        self.share.is_agent_thread(ctx.pid)
    }

    /// Lets through what has no mark and names a node of the share.
    fn check(&self, ctx: &Context, inode: Inode) -> io::Result<()> {
        if self.is_marked(ctx) {
            return Err(Errno::PERM.into());
        }
        check_node(inode)
    }

    /// Reads may carry a mark: they change nothing.
    fn check_read(&self, inode: Inode) -> io::Result<()> {
        check_node(inode)
    }

    /// The same for a request with an entry: the name is checked here, whatever the library does.
    fn check_entry(&self, ctx: &Context, dir: Inode, name: &CStr) -> io::Result<(NodeId, Name)> {
        self.check(ctx, dir)?;
        entry(dir, name)
    }

    /// Notes in the tree that a program in the guest has made `entry` under `name`.
    fn made(&self, dir: NodeId, name: &Name, entry: Entry) -> Entry {
        let Some(id) = NodeId::new(entry.inode) else { return entry };
        self.share.guest_made(id, &entry.attr, dir, name, || self.identify(dir, name, &entry));
        self.stamped(entry)
    }

    /// Notes in the tree that the guest learns of `entry` under `name`.
    fn learn(&self, dir: NodeId, name: &Name, entry: Entry) -> Entry {
        let Some(id) = NodeId::new(entry.inode) else { return entry };
        self.share.learn(id, &entry.attr, dir, name, || self.identify(dir, name, &entry));
        self.stamped(entry)
    }

    /// With the generation of this session (S1).
    fn stamped(&self, mut entry: Entry) -> Entry {
        entry.generation = u64::from(self.share.generation().0);
        entry
    }

    /// `.` and `..`: what `open_by_handle_at(2)` asks for in the guest.
    fn lookup_dot(&self, ctx: Context, inode: Inode, parent: bool) -> io::Result<Entry> {
        let id = node(inode)?;
        if id == NodeId::CONTROL && !parent {
            return Ok(control::entry());
        }
        if id.is_reserved() && self.is_agent(&ctx) {
            self.share.probed(id);
        }
        check_node(inode)?;
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

fn node(inode: Inode) -> io::Result<NodeId> {
    NodeId::new(inode).ok_or_else(|| Errno::STALE.into())
}

/// Reserved nodes are none of the share's: a stand-in that outlived its replay is looked up again.
fn check_node(inode: Inode) -> io::Result<()> {
    if node(inode)?.is_reserved() { Err(Errno::STALE.into()) } else { Ok(()) }
}

fn entry(dir: Inode, name: &CStr) -> io::Result<(NodeId, Name)> {
    let name = Name::parse(name.to_bytes()).map_err(|error| match error {
        NameError::TooLong(_) => Errno::NAMETOOLONG,
        NameError::Empty | NameError::BadByte(_) | NameError::Dot => Errno::INVAL,
    })?;
    Ok((node(dir)?, name))
}

/// Removes a name. virtiofsd 1.14 reads errno after it has taken and dropped locks, which may have
/// left EAGAIN there (`do_unlink()`); no file system gives that for a name. When it has not been
/// removed, the second time tells why.
fn settled(remove: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let again = |error: &io::Error| error.raw_os_error() == Some(Errno::AGAIN.raw_os_error());
    let mut removed = remove();
    for _ in 0..REMOVE_TRIES_MAX {
        if !removed.as_ref().is_err_and(again) {
            break;
        }
        removed = remove();
    }
    removed
}

/// Forwards methods whose arguments need nothing but the check of their first node.
macro_rules! forward {
    ($(fn $name:ident($first:ident: Inode $(, $arg:ident: $type:ty)* $(,)?) -> $result:ty;)*) => {$(
        fn $name(&self, ctx: Context, $first: Inode $(, $arg: $type)*) -> io::Result<$result> {
            self.check(&ctx, $first)?;
            self.inner.$name(ctx, $first $(, $arg)*)
        }
    )*};
}

/// The same for what the library does not implement and gives no arguments.
macro_rules! forward_bare {
    ($(fn $name:ident() -> $result:ty;)*) => {$(
        fn $name(&self) -> io::Result<$result> {
            self.inner.$name()
        }
    )*};
}

impl FileSystem for Interposer {
    type Inode = Inode;
    type Handle = Handle;
    type DirIter = Entries<<PassthroughFs as FileSystem>::DirIter>;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        // It would erase the uid of every request that creates nothing, and the marker with it. The
        // server grants it to whoever offers it, so the device takes it out of the offer.
        if capable.contains(FsOptions::ALLOW_IDMAP) {
            return Err(Errno::PROTO.into());
        }
        let granted = self.inner.init(capable)?;
        self.control.close();
        self.share.reset(identify::root(&self.share, &self.root));
        // Without it the guest's kernel finds no node by its handle.
        Ok(granted | FsOptions::EXPORT_SUPPORT)
    }

    fn destroy(&self) {
        self.inner.destroy();
        self.control.close();
        self.share.reset(None);
    }

    fn lookup(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        match name.to_bytes() {
            b"." => return self.lookup_dot(ctx, parent, false),
            b".." => return self.lookup_dot(ctx, parent, true),
            _ => {}
        }
        let (dir, name_) = entry(parent, name)?;
        if self.is_agent(&ctx)
            && let Some(reply) = self.lookup_marked(ctx, dir, &name_)
        {
            return reply;
        }
        // An agent of before the session, with what it was sent then: it must not teach the guest what
        // it is about to be told.
        if ctx.uid.into_inner() == MARKER_UID && self.share.agent_tid().is_none() {
            return Err(Errno::PERM.into());
        }
        check_node(parent)?;
        match self.inner.lookup(ctx, parent, name) {
            Ok(entry) => Ok(self.learn(dir, &name_, entry)),
            Err(error) => {
                if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) {
                    self.share.learn_missing(dir, &name_);
                }
                Err(error)
            }
        }
    }

    fn forget(&self, ctx: Context, inode: Inode, count: u64) {
        if let Some(id) = NodeId::new(inode) {
            self.give_back(ctx, id, count);
        }
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(Inode, u64)>) {
        for (inode, count) in requests {
            self.forget(ctx, inode, count);
        }
    }

    fn getattr(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Option<Handle>,
    ) -> io::Result<(Attr, Duration)> {
        let (id, agent) = (node(inode)?, self.is_agent(&ctx));
        if let Some(attr) = attr::of_reserved(id, agent) {
            return Ok((attr, Duration::ZERO));
        }
        self.check_read(inode)?;
        match self.inner.getattr(ctx, inode, handle.filter(|fh| !control::is_ours(*fh))) {
            // Of an object that has gone since: its last events are still being replayed.
            Err(_) if agent => {
                Ok((attr::on_the_way(self.attr_of(ctx, id, 0, false)), Duration::ZERO))
            }
            // Nobody but the agent has asked: what is kept of a file could be old when somebody
            // does. Of a directory it is kept for the next permission check.
            Ok((attr, _)) if agent && FileKind::from_mode(attr.mode) != FileKind::Directory => {
                Ok((attr, Duration::ZERO))
            }
            Ok((attr, timeout)) if agent => Ok((attr::on_the_way(attr), timeout)),
            reply => reply,
        }
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: Inode,
        attr: SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        if self.is_agent(&ctx) {
            return self.setattr_marked(ctx, inode, valid);
        }
        self.check(&ctx, inode)?;
        self.inner.setattr(ctx, inode, attr, handle, valid)
    }

    fn symlink(
        &self,
        ctx: Context,
        linkname: &CStr,
        parent: Inode,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        if self.is_agent(&ctx) {
            return self.create_marked(ctx, parent, name, FileKind::Symlink);
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        let entry = self.inner.symlink(ctx, linkname, parent, name, extensions)?;
        Ok(self.made(dir, &name_, entry))
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        if self.is_agent(&ctx) {
            return self.create_marked(ctx, parent, name, FileKind::from_mode(mode));
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        let entry = self.inner.mknod(ctx, parent, name, mode, rdev, umask, extensions)?;
        Ok(self.made(dir, &name_, entry))
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        if self.is_agent(&ctx) {
            return self.create_marked(ctx, parent, name, FileKind::Directory);
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        let entry = self.inner.mkdir(ctx, parent, name, mode, umask, extensions)?;
        Ok(self.made(dir, &name_, entry))
    }

    fn link(&self, ctx: Context, inode: Inode, parent: Inode, name: &CStr) -> io::Result<Entry> {
        if self.is_agent(&ctx) {
            return self.link_marked(ctx, inode, parent, name);
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        check_node(inode)?;
        let entry = self.inner.link(ctx, inode, parent, name)?;
        Ok(self.made(dir, &name_, entry))
    }

    fn create(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        let (entry, handle, options) =
            self.inner.create(ctx, parent, name, mode, kill_priv, flags, umask, extensions)?;
        Ok((self.made(dir, &name_, entry), handle, options))
    }

    fn unlink(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        if self.is_agent(&ctx) {
            return self.remove_marked(parent, name, ctx, false);
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        settled(|| self.inner.unlink(ctx, parent, name))?;
        self.share.guest_removed(dir, &name_);
        Ok(())
    }

    fn rmdir(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        if self.is_agent(&ctx) {
            return self.remove_marked(parent, name, ctx, true);
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        settled(|| self.inner.rmdir(ctx, parent, name))?;
        self.share.guest_removed(dir, &name_);
        Ok(())
    }

    fn rename(
        &self,
        ctx: Context,
        olddir: Inode,
        oldname: &CStr,
        newdir: Inode,
        newname: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        if self.is_agent(&ctx) {
            return self.rename_marked(ctx, (olddir, oldname), (newdir, newname), flags);
        }
        let (old, old_name) = self.check_entry(&ctx, olddir, oldname)?;
        let (new, new_name) = self.check_entry(&ctx, newdir, newname)?;
        self.inner.rename(ctx, olddir, oldname, newdir, newname, flags)?;
        if flags & rustix::fs::RenameFlags::EXCHANGE.bits() != 0 {
            self.share.guest_exchanged((old, &old_name), (new, &new_name));
        } else {
            self.share.guest_renamed((old, &old_name), (new, &new_name));
        }
        Ok(())
    }

    fn open(
        &self,
        ctx: Context,
        inode: Inode,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        if node(inode)? == NodeId::CONTROL {
            return self.control.open(&self.share, &ctx);
        }
        if self.is_agent(&ctx) {
            return self.open_marked(&ctx, inode, flags);
        }
        self.check(&ctx, inode)?;
        self.inner.open(ctx, inode, kill_priv, flags)
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        w: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        if node(inode)? == NodeId::CONTROL {
            let proved = self.is_agent(&ctx);
            return self.control.read(&self.share, handle, proved, w, size);
        }
        if control::is_ours(handle) && self.is_agent(&ctx) {
            self.read_marked(&ctx, inode)?;
            return control::send_byte(w, size);
        }
        self.check(&ctx, inode)?;
        self.inner.read(ctx, inode, handle, w, size, offset, lock_owner, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        if node(inode)? == NodeId::CONTROL {
            return self.control.write(handle, r, size);
        }
        self.check(&ctx, inode)?;
        self.inner.write(
            ctx,
            inode,
            handle,
            r,
            size,
            offset,
            lock_owner,
            delayed_write,
            kill_priv,
            flags,
        )
    }

    fn flush(&self, ctx: Context, inode: Inode, handle: Handle, lock_owner: u64) -> io::Result<()> {
        if control::is_ours(handle) {
            return Ok(());
        }
        self.check(&ctx, inode)?;
        self.inner.flush(ctx, inode, handle, lock_owner)
    }

    fn release(
        &self,
        ctx: Context,
        inode: Inode,
        flags: u32,
        handle: Handle,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        if control::is_ours(handle) {
            self.control.release(&self.share, handle);
            return Ok(());
        }
        // Not `check`: it closes what was opened before the marks were set.
        check_node(inode)?;
        self.inner.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn opendir(
        &self,
        ctx: Context,
        inode: Inode,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        self.check_read(inode)?;
        if self.is_agent(&ctx) {
            if self.reconnect.names(&self.share, node(inode)?) {
                return Ok((Some(control::REPLAY_HANDLE), OpenOptions::empty()));
            }
            if let Some(handle) = self.opendir_marked(&ctx, inode) {
                return Ok((Some(handle), OpenOptions::empty()));
            }
        }
        self.inner.opendir(ctx, inode, flags)
    }

    fn readdir(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        size: u32,
        offset: u64,
    ) -> io::Result<Self::DirIter> {
        self.check_read(inode)?;
        if handle == control::REPLAY_DIR_HANDLE {
            self.read_marked(&ctx, inode)?;
            return Ok(Entries::One(None));
        }
        if control::is_ours(handle) {
            return Ok(Entries::One(self.reconnect.list(&self.share, node(inode)?, offset)));
        }
        self.inner.readdir(ctx, inode, handle, size, offset).map(Entries::Listed)
    }

    fn releasedir(&self, ctx: Context, inode: Inode, flags: u32, handle: Handle) -> io::Result<()> {
        self.check_read(inode)?;
        if control::is_ours(handle) {
            return Ok(());
        }
        self.inner.releasedir(ctx, inode, flags, handle)
    }

    fn statfs(&self, ctx: Context, inode: Inode) -> io::Result<farwatch_sys::statvfs64> {
        self.check_read(inode)?;
        self.inner.statfs(ctx, inode)
    }

    fn getxattr(
        &self,
        ctx: Context,
        inode: Inode,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.check(&ctx, inode)?;
        self.inner.getxattr(ctx, inode, name, size.min(XATTR_SIZE_MAX))
    }

    fn listxattr(&self, ctx: Context, inode: Inode, size: u32) -> io::Result<ListxattrReply> {
        self.check(&ctx, inode)?;
        self.inner.listxattr(ctx, inode, size.min(XATTR_SIZE_MAX))
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        inode_in: Inode,
        handle_in: Handle,
        offset_in: u64,
        inode_out: Inode,
        handle_out: Handle,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.check(&ctx, inode_in)?;
        check_node(inode_out)?;
        self.inner.copyfilerange(
            ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags,
        )
    }

    forward! {
        fn readlink(inode: Inode) -> Vec<u8>;
        fn fsync(inode: Inode, datasync: bool, handle: Handle) -> ();
        fn fsyncdir(inode: Inode, datasync: bool, handle: Handle) -> ();
        fn fallocate(inode: Inode, handle: Handle, mode: u32, offset: u64, length: u64) -> ();
        fn setxattr(
            inode: Inode, name: &CStr, value: &[u8], flags: u32, extra_flags: SetxattrFlags
        ) -> ();
        fn removexattr(inode: Inode, name: &CStr) -> ();
        fn access(inode: Inode, mask: u32) -> ();
        fn lseek(inode: Inode, handle: Handle, offset: u64, whence: u32) -> u64;
        fn syncfs(inode: Inode) -> ();
    }

    forward_bare! {
        fn getlk() -> ();
        fn setlk() -> ();
        fn setlkw() -> ();
        fn ioctl() -> ();
        fn bmap() -> ();
        fn poll() -> ();
        fn notify_reply() -> ();
        fn tmpfile() -> (Entry, Option<Handle>, OpenOptions);
    }
}

impl SerializableFileSystem for Interposer {
    fn prepare_serialization(&self, cancel: Arc<AtomicBool>) {
        self.inner.prepare_serialization(cancel);
    }

    fn serialize(&self, state: File) -> io::Result<()> {
        self.save(state)
    }

    fn deserialize_and_apply(&self, state: File) -> io::Result<()> {
        self.load(state)
    }
}
