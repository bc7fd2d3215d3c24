// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Own`]: the file server, with every call that changes something announced to the watcher.
//!
//! inotify reports what this daemon does for its guest like anybody's doing. What each call will be
//! reported as stands here; it follows from what the library does and from `fsnotify_change()` and
//! the like in the kernel. What is announced and does not come is forgotten; what comes unannounced
//! the guest is told a second time. fanotify says who did it: then nothing is announced.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farwatch_proto::host::HostEntry;
use farwatch_proto::host::inotify::{CallId, Expected};
use farwatch_proto::{FileKind, Mask, Name, NodeId};
use rustix::fs::{OFlags, RenameFlags};
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};

use super::{Handle, Inner, Inode};
use crate::share::{Share, State};

/// See the module's documentation.
pub(super) struct Own {
    inner: Inner,
    share: Arc<Share>,
}

/// A call that is being made.
struct Call<'a> {
    own: &'a Own,
    id: Option<CallId>,
    /// The object that it is about, if it is about one.
    inode: Option<Inode>,
    succeeded: bool,
}

/// What is announced.
type Announced = Vec<(Expected, Mask)>;

impl Own {
    pub(super) fn new(inner: Inner, share: Arc<Share>) -> Self {
        Self { inner, share }
    }

    /// Makes a call that is reported about entries.
    fn on_entries<T>(
        &self,
        entries: &[(Inode, &CStr, Mask)],
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.expecting(|state| announced(state, entries).collect(), call)
    }

    /// One that is reported as `expected` says.
    fn expecting<T>(
        &self,
        expected: impl FnOnce(&State) -> Vec<(Expected, Mask)>,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        Call { own: self, id: self.share.expect(expected), inode: None, succeeded: false }
            .make(call)
    }

    /// Makes a call that is reported about an object, once for each of `events`.
    fn on_object<T>(
        &self,
        inode: Inode,
        events: &[Mask],
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let expected = |state: &State| {
            let fid = NodeId::new(inode).and_then(|id| state.engine.tree.fid(id));
            let object = |fid: &farwatch_proto::Fid| Expected::Object(fid.clone());
            fid.map_or_else(Vec::new, |fid| events.iter().map(|e| (object(fid), *e)).collect())
        };
        let id = if events.is_empty() { None } else { self.share.expect(expected) };
        Call { own: self, id, inode: Some(inode), succeeded: false }.make(call)
    }

    /// Makes a call on the names of an object, of which the `ctime` changes by that: what is told of it
    /// is held against that.
    fn on_names<T>(
        &self,
        object: impl FnOnce(&State) -> Option<NodeId>,
        expected: impl FnOnce(&State) -> Announced,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut inode = None;
        let id = self.share.expect(|state| {
            let id = object(state);
            inode = id.map(NodeId::get);
            let fid = id.and_then(|id| state.engine.tree.fid(id));
            let itself = fid.map(|fid| (Expected::Object(fid.clone()), Mask::empty()));
            expected(state).into_iter().chain(itself).collect()
        });
        Call { own: self, id, inode, succeeded: false }.make(call)
    }

    /// When the object was changed last.
    fn changed(&self, inode: Inode) -> Option<SystemTime> {
        let ctx = Context { uid: 0.into(), gid: 0.into(), pid: 0 };
        let (attr, _) = self.inner.getattr(ctx, inode, None).ok()?;
        let since_epoch = Duration::new(attr.ctime, attr.ctimensec);
        SystemTime::UNIX_EPOCH.checked_add(since_epoch)
    }
}

impl Call<'_> {
    fn make<T>(mut self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let result = call();
        self.succeeded = result.is_ok();
        result
    }
}

/// A call that panics has ended too.
impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let changed = || self.inode.and_then(|inode| self.own.changed(inode));
            self.own.share.end(id, self.succeeded, changed);
        }
    }
}

/// An entry of a directory that the watcher knows.
fn entry(state: &State, dir: Inode, name: &CStr, events: Mask) -> Announced {
    let dir = NodeId::new(dir).and_then(|id| state.engine.tree.fid(id));
    let (Some(dir), Ok(name)) = (dir, Name::parse(name.to_bytes())) else { return Vec::new() };
    let entry = HostEntry { dir: dir.clone(), name };
    events.iter().map(|event| (Expected::Entry(entry.clone()), event)).collect()
}

/// The reports of a call on names in directories, as far as those are watched.
fn announced<'a>(
    state: &'a State,
    entries: &'a [(Inode, &CStr, Mask)],
) -> impl Iterator<Item = (Expected, Mask)> + 'a {
    entries.iter().flat_map(|(dir, name, events)| entry(state, *dir, name, *events))
}

/// What the guest has under a name.
fn current(state: &State, dir: Inode, name: &CStr) -> Option<NodeId> {
    state.engine.tree.current(NodeId::new(dir)?, &Name::parse(name.to_bytes()).ok()?)
}

/// A directory over which another is renamed says so itself: `fsnotify_link_count()`.
fn replaced(state: &State, dir: Inode, name: &CStr) -> Option<(Expected, Mask)> {
    let tree = &state.engine.tree;
    let id = current(state, dir, name)?;
    let fid = tree.fid(id).filter(|_| tree.kind(id) == Some(FileKind::Directory))?;
    Some((Expected::Object(fid.clone()), Mask::ATTRIB))
}

/// What making an object is reported as. A label is set right after (`--security-label`).
fn made(extensions: &Extensions) -> Mask {
    if extensions.secctx.is_some() { Mask::CREATE | Mask::ATTRIB } else { Mask::CREATE }
}

/// `fsnotify_change()`, for each of the calls that the library makes.
fn changes(valid: SetattrValid, handle: Option<Handle>) -> Vec<Mask> {
    let mut events = Vec::new();
    if valid.contains(SetattrValid::MODE) {
        events.push(Mask::ATTRIB);
    }
    if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
        events.push(Mask::ATTRIB);
    }
    if valid.contains(SetattrValid::SIZE) {
        events.push(Mask::MODIFY);
        if handle.is_none() {
            // The library opens the file for it.
            events.push(Mask::CLOSE_WRITE);
        }
    }
    let atime = valid.intersects(SetattrValid::ATIME | SetattrValid::ATIME_NOW);
    let mtime = valid.intersects(SetattrValid::MTIME | SetattrValid::MTIME_NOW);
    match (atime, mtime) {
        (true, true) => events.push(Mask::ATTRIB),
        (false, true) => events.push(Mask::MODIFY),
        (_, false) => {}
    }
    events
}

fn for_writing(flags: u32) -> bool {
    OFlags::from_bits_retain(flags).intersection(OFlags::RWMODE) != OFlags::RDONLY
}

fn truncates(flags: u32) -> bool {
    OFlags::from_bits_retain(flags).contains(OFlags::TRUNC)
}

/// Methods that change nothing that is reported.
macro_rules! unannounced {
    ($(
        fn $name:ident $(<$generic:ident: $bound:ident>)? (
            $($arg:ident: $type:ty),* $(,)?
        ) $(-> $result:ty)?;
    )*) => {$(
        fn $name $(<$generic: $bound>)? (&self $(, $arg: $type)*) $(-> $result)? {
            self.inner.$name($($arg),*)
        }
    )*};
}

impl FileSystem for Own {
    type Inode = Inode;
    type Handle = Handle;
    type DirIter = <Inner as FileSystem>::DirIter;

    fn setattr(
        &self,
        ctx: Context,
        inode: Inode,
        attr: SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let call = || self.inner.setattr(ctx, inode, attr, handle, valid);
        self.on_object(inode, &changes(valid, handle), call)
    }

    fn symlink(
        &self,
        ctx: Context,
        linkname: &CStr,
        parent: Inode,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let made = made(&extensions);
        let call = || self.inner.symlink(ctx, linkname, parent, name, extensions);
        self.on_entries(&[(parent, name, made)], call)
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
        let made = made(&extensions);
        let call = || self.inner.mknod(ctx, parent, name, mode, rdev, umask, extensions);
        self.on_entries(&[(parent, name, made)], call)
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
        let made = made(&extensions);
        let call = || self.inner.mkdir(ctx, parent, name, mode, umask, extensions);
        self.on_entries(&[(parent, name, made)], call)
    }

    fn unlink(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        let entries = [(parent, name, Mask::DELETE)];
        let object = |state: &State| current(state, parent, name);
        let expected = |state: &State| announced(state, &entries).collect();
        self.on_names(object, expected, || self.inner.unlink(ctx, parent, name))
    }

    fn rmdir(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        let call = || self.inner.rmdir(ctx, parent, name);
        self.on_entries(&[(parent, name, Mask::DELETE)], call)
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
        let there = [(olddir, oldname, Mask::MOVED_FROM), (newdir, newname, Mask::MOVED_TO)];
        let back = [(newdir, newname, Mask::MOVED_FROM), (olddir, oldname, Mask::MOVED_TO)];
        let both = [there, back].concat();
        let exchange = RenameFlags::from_bits_retain(flags).contains(RenameFlags::EXCHANGE);
        let entries: &[_] = if exchange { &both } else { &there };
        let expected = |state: &State| {
            let replaced = if exchange { None } else { replaced(state, newdir, newname) };
            announced(state, entries).chain(replaced).collect()
        };
        let object = |state: &State| current(state, olddir, oldname);
        let call = || self.inner.rename(ctx, olddir, oldname, newdir, newname, flags);
        self.on_names(object, expected, call)
    }

    fn link(&self, ctx: Context, inode: Inode, parent: Inode, name: &CStr) -> io::Result<Entry> {
        let entries = [(parent, name, Mask::CREATE)];
        let expected = |state: &State| announced(state, &entries).collect();
        let call = || self.inner.link(ctx, inode, parent, name);
        self.on_names(|_| NodeId::new(inode), expected, call)
    }

    fn open(
        &self,
        ctx: Context,
        inode: Inode,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let events: &[Mask] = if truncates(flags) { &[Mask::MODIFY] } else { &[] };
        self.on_object(inode, events, || self.inner.open(ctx, inode, kill_priv, flags))
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
        // A file that is there already is opened.
        let truncated = if truncates(flags) { Mask::MODIFY } else { Mask::empty() };
        let events = made(&extensions) | truncated;
        let call =
            || self.inner.create(ctx, parent, name, mode, kill_priv, flags, umask, extensions);
        self.on_entries(&[(parent, name, events)], call)
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
        self.on_object(inode, &[Mask::MODIFY], || {
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
        })
    }

    fn fallocate(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let call = || self.inner.fallocate(ctx, inode, handle, mode, offset, length);
        self.on_object(inode, &[Mask::MODIFY], call)
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
        let events: &[Mask] = if for_writing(flags) { &[Mask::CLOSE_WRITE] } else { &[] };
        self.on_object(inode, events, || {
            self.inner.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
        })
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: Inode,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        // An ACL can take a chmod with it.
        self.on_object(inode, &[Mask::ATTRIB, Mask::ATTRIB], || {
            self.inner.setxattr(ctx, inode, name, value, flags, extra_flags)
        })
    }

    fn removexattr(&self, ctx: Context, inode: Inode, name: &CStr) -> io::Result<()> {
        self.on_object(inode, &[Mask::ATTRIB], || self.inner.removexattr(ctx, inode, name))
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
        self.on_object(inode_out, &[Mask::MODIFY], || {
            self.inner.copyfilerange(
                ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags,
            )
        })
    }

    unannounced! {
        fn init(capable: FsOptions) -> io::Result<FsOptions>;
        fn destroy();
        fn lookup(ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry>;
        fn forget(ctx: Context, inode: Inode, count: u64);
        fn batch_forget(ctx: Context, requests: Vec<(Inode, u64)>);
        fn getattr(
            ctx: Context, inode: Inode, handle: Option<Handle>
        ) -> io::Result<(Attr, Duration)>;
        fn readlink(ctx: Context, inode: Inode) -> io::Result<Vec<u8>>;
        fn read<W: ZeroCopyWriter>(
            ctx: Context, inode: Inode, handle: Handle, w: W, size: u32, offset: u64,
            lock_owner: Option<u64>, flags: u32,
        ) -> io::Result<usize>;
        fn flush(ctx: Context, inode: Inode, handle: Handle, lock_owner: u64) -> io::Result<()>;
        fn fsync(ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn statfs(ctx: Context, inode: Inode) -> io::Result<farwatch_sys::statvfs64>;
        fn getxattr(
            ctx: Context, inode: Inode, name: &CStr, size: u32
        ) -> io::Result<GetxattrReply>;
        fn listxattr(ctx: Context, inode: Inode, size: u32) -> io::Result<ListxattrReply>;
        fn opendir(
            ctx: Context, inode: Inode, flags: u32
        ) -> io::Result<(Option<Handle>, OpenOptions)>;
        fn readdir(
            ctx: Context, inode: Inode, handle: Handle, size: u32, offset: u64
        ) -> io::Result<Self::DirIter>;
        fn fsyncdir(ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn releasedir(ctx: Context, inode: Inode, flags: u32, handle: Handle) -> io::Result<()>;
        fn access(ctx: Context, inode: Inode, mask: u32) -> io::Result<()>;
        fn lseek(
            ctx: Context, inode: Inode, handle: Handle, offset: u64, whence: u32
        ) -> io::Result<u64>;
        fn syncfs(ctx: Context, inode: Inode) -> io::Result<()>;
        fn getlk() -> io::Result<()>;
        fn setlk() -> io::Result<()>;
        fn setlkw() -> io::Result<()>;
        fn ioctl() -> io::Result<()>;
        fn bmap() -> io::Result<()>;
        fn poll() -> io::Result<()>;
        fn notify_reply() -> io::Result<()>;
        fn tmpfile() -> io::Result<(Entry, Option<Handle>, OpenOptions)>;
    }
}

impl SerializableFileSystem for Own {
    unannounced! {
        fn prepare_serialization(cancel: Arc<std::sync::atomic::AtomicBool>);
        fn serialize(state_pipe: std::fs::File) -> io::Result<()>;
        fn deserialize_and_apply(state_pipe: std::fs::File) -> io::Result<()>;
    }
}
