// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Inner`]: the library's file server, or the one of `--readonly`, which answers EROFS to whatever
//! changes something. The interposer in front is the same: what the host changes is an event either
//! way, and an agent's replay never comes this far.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::io::Errno;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::passthrough::read_only::PassthroughFsRo;

use super::gone::is_gone;
use super::own_context;

type Inode = <PassthroughFs as FileSystem>::Inode;
type Handle = <PassthroughFs as FileSystem>::Handle;
type Opened = (Option<Handle>, OpenOptions);

/// See the module's documentation. Both forward what they do not forbid, so their nodeids and
/// handles are the same.
pub enum Inner {
    /// The guest may change files.
    Writable(PassthroughFs),
    /// It may not.
    ReadOnly(PassthroughFsRo),
}

impl From<PassthroughFs> for Inner {
    fn from(fs: PassthroughFs) -> Self {
        Self::Writable(fs)
    }
}

impl From<PassthroughFsRo> for Inner {
    fn from(fs: PassthroughFsRo) -> Self {
        Self::ReadOnly(fs)
    }
}

impl Inner {
    /// The result of a request that has opened these objects, with ESTALE for one that is gone.
    fn checked<T>(&self, result: io::Result<T>, objects: &[Inode]) -> io::Result<T> {
        let ctx = own_context();
        let look = |object: Inode| match self {
            Self::Writable(fs) => fs.getattr(ctx, object, None).map(drop),
            Self::ReadOnly(fs) => fs.getattr(ctx, object, None).map(drop),
        };
        result.map_err(|error| {
            let is_gone = objects.iter().any(|object| is_gone(&error, || look(*object)));
            if is_gone { Errno::STALE.into() } else { error }
        })
    }
}

macro_rules! checked {
    ($fs:ident, $result:expr) => {
        $result
    };
    ($fs:ident, $result:expr, $($object:ident),+) => {
        $fs.checked($result, &[$($object),+])
    };
}

/// Methods that one of the two answers. In brackets are the objects that it opens.
macro_rules! either {
    ($(
        fn $name:ident $([$($object:ident),*])? $(<$generic:ident: $bound:ident>)? (
            $($arg:ident: $type:ty),* $(,)?
        ) $(-> $result:ty)?;
    )*) => {$(
        fn $name $(<$generic: $bound>)? (&self $(, $arg: $type)*) $(-> $result)? {
            checked!(
                self,
                match self {
                    Self::Writable(fs) => fs.$name($($arg),*),
                    Self::ReadOnly(fs) => fs.$name($($arg),*),
                }
                $(, $($object),*)?
            )
        }
    )*};
}

#[deny(clippy::missing_trait_methods)]
impl FileSystem for Inner {
    type Inode = Inode;
    type Handle = Handle;
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

    either! {
        fn init(capable: FsOptions) -> io::Result<FsOptions>;
        fn destroy();
        fn lookup[parent](ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry>;
        fn forget(ctx: Context, inode: Inode, count: u64);
        fn batch_forget(ctx: Context, requests: Vec<(Inode, u64)>);
        fn getattr[inode](
            ctx: Context, inode: Inode, handle: Option<Handle>
        ) -> io::Result<(Attr, Duration)>;
        fn setattr[inode](
            ctx: Context, inode: Inode, attr: SetattrIn, handle: Option<Handle>, valid: SetattrValid
        ) -> io::Result<(Attr, Duration)>;
        fn readlink[inode](ctx: Context, inode: Inode) -> io::Result<Vec<u8>>;
        fn symlink[parent](
            ctx: Context, linkname: &CStr, parent: Inode, name: &CStr, extensions: Extensions
        ) -> io::Result<Entry>;
        fn mknod[parent](
            ctx: Context, parent: Inode, name: &CStr, mode: u32, rdev: u32, umask: u32,
            extensions: Extensions,
        ) -> io::Result<Entry>;
        fn mkdir[parent](
            ctx: Context, parent: Inode, name: &CStr, mode: u32, umask: u32, extensions: Extensions
        ) -> io::Result<Entry>;
        fn unlink[parent](ctx: Context, parent: Inode, name: &CStr) -> io::Result<()>;
        fn rmdir[parent](ctx: Context, parent: Inode, name: &CStr) -> io::Result<()>;
        fn rename[olddir, newdir](
            ctx: Context, olddir: Inode, oldname: &CStr, newdir: Inode, newname: &CStr, flags: u32
        ) -> io::Result<()>;
        fn link[inode, newparent](ctx: Context, inode: Inode, newparent: Inode, newname: &CStr) -> io::Result<Entry>;
        fn open[inode](ctx: Context, inode: Inode, kill_priv: bool, flags: u32) -> io::Result<Opened>;
        fn create[parent](
            ctx: Context, parent: Inode, name: &CStr, mode: u32, kill_priv: bool, flags: u32,
            umask: u32, extensions: Extensions,
        ) -> io::Result<(Entry, Option<Handle>, OpenOptions)>;
        fn read<W: ZeroCopyWriter>(
            ctx: Context, inode: Inode, handle: Handle, w: W, size: u32, offset: u64,
            lock_owner: Option<u64>, flags: u32,
        ) -> io::Result<usize>;
        fn write<R: ZeroCopyReader>(
            ctx: Context, inode: Inode, handle: Handle, r: R, size: u32, offset: u64,
            lock_owner: Option<u64>, delayed_write: bool, kill_priv: bool, flags: u32,
        ) -> io::Result<usize>;
        fn flush(ctx: Context, inode: Inode, handle: Handle, lock_owner: u64) -> io::Result<()>;
        fn fsync(ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn fallocate(
            ctx: Context, inode: Inode, handle: Handle, mode: u32, offset: u64, length: u64
        ) -> io::Result<()>;
        fn release(
            ctx: Context, inode: Inode, flags: u32, handle: Handle, flush: bool,
            flock_release: bool, lock_owner: Option<u64>,
        ) -> io::Result<()>;
        fn statfs[inode](ctx: Context, inode: Inode) -> io::Result<farwatch_sys::statvfs64>;
        fn setxattr[inode](
            ctx: Context, inode: Inode, name: &CStr, value: &[u8], flags: u32,
            extra_flags: SetxattrFlags,
        ) -> io::Result<()>;
        fn getxattr[inode](
            ctx: Context, inode: Inode, name: &CStr, size: u32
        ) -> io::Result<GetxattrReply>;
        fn listxattr[inode](ctx: Context, inode: Inode, size: u32) -> io::Result<ListxattrReply>;
        fn removexattr[inode](ctx: Context, inode: Inode, name: &CStr) -> io::Result<()>;
        fn opendir[inode](ctx: Context, inode: Inode, flags: u32) -> io::Result<Opened>;
        fn readdir(
            ctx: Context, inode: Inode, handle: Handle, size: u32, offset: u64
        ) -> io::Result<Self::DirIter>;
        fn fsyncdir(ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn releasedir(ctx: Context, inode: Inode, flags: u32, handle: Handle) -> io::Result<()>;
        fn access[inode](ctx: Context, inode: Inode, mask: u32) -> io::Result<()>;
        fn lseek(
            ctx: Context, inode: Inode, handle: Handle, offset: u64, whence: u32
        ) -> io::Result<u64>;
        fn copyfilerange(
            ctx: Context, inode_in: Inode, handle_in: Handle, offset_in: u64, inode_out: Inode,
            handle_out: Handle, offset_out: u64, len: u64, flags: u64,
        ) -> io::Result<usize>;
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

#[deny(clippy::missing_trait_methods)]
impl SerializableFileSystem for Inner {
    either! {
        fn prepare_serialization(cancel: Arc<AtomicBool>);
        fn serialize(state_pipe: File) -> io::Result<()>;
        fn deserialize_and_apply(state_pipe: File) -> io::Result<()>;
    }
}
