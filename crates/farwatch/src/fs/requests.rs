// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The requests, one method each: which are checked, answered here, or handed to the file server.
//!
//! Every method of the `FileSystem` trait is implemented: its defaults answer ENOSYS, so a forgotten
//! one would be a feature lost in silence. The compiler checks that (`missing_trait_methods`).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use farwatch_proto::host::Held;
use farwatch_proto::wire::abi::MARKER_UID;
use farwatch_proto::{FileKind, NodeId};
use rustix::io::Errno;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::soft_idmap::Id;

use super::ahead::later;
use super::reconnect::Entries;
use super::reported::{Request, truncates};
use super::{
    Handle, Inode, Interposer, attr, control, entry, identify, node, probe, share_node, stale,
};

/// The largest extended attribute or list of names that Linux has (`XATTR_SIZE_MAX`,
/// `XATTR_LIST_MAX`): a guest that asks for more gets no more allocated.
const XATTR_SIZE_MAX: u32 = 1 << 16;

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

#[deny(clippy::missing_trait_methods)]
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
        self.opens.clear();
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
        share_node(parent)?;
        self.catch_up(&ctx, Held::Entry(dir, &name_));
        match self.inner.lookup(ctx, parent, name) {
            Ok(entry) if self.puts_off(&ctx, &entry.attr) => {
                self.inner.forget(ctx, entry.inode, 1);
                Err(later())
            }
            Ok(entry) => Ok(self.learn(dir, &name_, entry)),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                if self.puts_off_missing(&ctx, dir) {
                    return Err(later());
                }
                self.share.learn_missing(dir, &name_);
                self.missing(dir).ok_or(error)
            }
            Err(error) => Err(error),
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
            return Ok(self.as_told(id, attr, Duration::ZERO));
        }
        self.check_read(inode)?;
        self.catch_up(&ctx, Held::Node(id));
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
            Ok((attr, _)) if self.puts_off(&ctx, &attr) => Err(later()),
            reply => reply.map(|(attr, timeout)| self.attributes(id, attr, timeout)),
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
        let id = self.check(&ctx, inode)?;
        let Some(valid) = self.clear_before_setattr(ctx, id, valid) else {
            let (attr, _) = self.inner.getattr(ctx, inode, handle)?;
            return Ok(self.as_told(id, attr, Duration::ZERO));
        };
        let request = Request::SetAttr { node: id, valid, open: handle.is_some() };
        let (attr, timeout) =
            self.own(&request, || self.inner.setattr(ctx, inode, attr, handle, valid))?;
        Ok(self.attributes(id, attr, timeout))
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
        let labelled = extensions.secctx.is_some();
        let entry = self.own_name(&Request::Make { dir, name: &name_, labelled }, || {
            self.inner.symlink(ctx, linkname, parent, name, extensions.clone())
        })?;
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
        let labelled = extensions.secctx.is_some();
        let entry = self.own_name(&Request::Make { dir, name: &name_, labelled }, || {
            self.inner.mknod(ctx, parent, name, mode, rdev, umask, extensions.clone())
        })?;
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
        let labelled = extensions.secctx.is_some();
        let entry = self.own_name(&Request::Make { dir, name: &name_, labelled }, || {
            self.inner.mkdir(ctx, parent, name, mode, umask, extensions.clone())
        })?;
        Ok(self.made(dir, &name_, entry))
    }

    fn link(&self, ctx: Context, inode: Inode, parent: Inode, name: &CStr) -> io::Result<Entry> {
        if self.is_agent(&ctx) {
            return self.link_marked(ctx, inode, parent, name);
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        let node = share_node(inode)?;
        let entry = self.own_name(&Request::Link { node, dir, name: &name_ }, || {
            self.inner.link(ctx, inode, parent, name)
        })?;
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
        if self.is_agent(&ctx) {
            return self.create_open_marked(ctx, parent, name, (mode, flags));
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        let labelled = extensions.secctx.is_some();
        let request = Request::Create { dir, name: &name_, labelled, flags };
        let (entry, handle, options) = self.own(&request, || {
            self.inner.create(ctx, parent, name, mode, kill_priv, flags, umask, extensions)
        })?;
        self.opens.opened(entry.inode);
        Ok((self.made(dir, &name_, entry), handle, options))
    }

    fn unlink(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        if self.is_agent(&ctx) {
            return self.remove_marked(parent, name, ctx, false);
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        self.stale.check(&self.share, ctx.pid, &[(dir, &name_)])?;
        let request = Request::Unlink { dir, name: &name_ };
        self.own_name(&request, || self.inner.unlink(ctx, parent, name))?;
        self.share.guest_removed(dir, &name_);
        Ok(())
    }

    fn rmdir(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        if self.is_agent(&ctx) {
            return self.remove_marked(parent, name, ctx, true);
        }
        let (dir, name_) = self.check_entry(&ctx, parent, name)?;
        self.stale.check(&self.share, ctx.pid, &[(dir, &name_)])?;
        let request = Request::RmDir { dir, name: &name_ };
        self.own_name(&request, || self.inner.rmdir(ctx, parent, name))?;
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
        let (from, to) = ((old, &old_name), (new, &new_name));
        self.stale.check(&self.share, ctx.pid, &[from, to])?;
        self.own_name(&Request::Rename { from, to, flags }, || {
            self.inner.rename(ctx, olddir, oldname, newdir, newname, flags)
        })?;
        if flags & rustix::fs::RenameFlags::EXCHANGE.bits() != 0 {
            self.share.guest_exchanged(from, to);
        } else {
            self.share.guest_renamed(from, to);
            if stale::is_there(&self.share, old, &old_name) {
                self.share.guest_kept(old, &old_name);
            }
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
        let id = self.check(&ctx, inode)?;
        let kept = self.keeps_content(&ctx, id, OpenOptions::KEEP_CACHE)?;
        if kill_priv && truncates(flags) {
            self.clear_set_id(ctx, id);
        }
        let kill_priv = kill_priv && self.is_cleared_by_a_change(ctx, id);
        let request = Request::Open { node: id, flags };
        let (handle, options) =
            self.own(&request, || self.inner.open(ctx, inode, kill_priv, flags))?;
        self.opens.opened(inode);
        Ok((handle, options | kept))
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
            let proved = self.is_tagged(&ctx);
            return self.control.read(&self.share, handle, proved, w, size);
        }
        if control::is_ours(handle) && self.is_agent(&ctx) {
            self.read_marked(&ctx, inode)?;
            return control::send_byte(w, size);
        }
        self.check(&ctx, inode)?;
        check_offset(offset)?;
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
        let id = self.check(&ctx, inode)?;
        check_offset(offset)?;
        let kill_priv = kill_priv && self.is_cleared_by_a_change(ctx, id);
        self.own(&Request::Write(id), || {
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
        let request = Request::Release { node: share_node(inode)?, flags };
        self.opens.released(inode);
        self.own(&request, || {
            self.inner.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
        })
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
        let options = OpenOptions::CACHE_DIR | OpenOptions::KEEP_CACHE;
        let kept = self.keeps_content(&ctx, node(inode)?, options)?;
        if node(inode)? == NodeId::ROOT {
            // For the log.
            self.share.has_lost_root();
        }
        let (handle, options) = self.inner.opendir(ctx, inode, flags)?;
        Ok((handle, options | kept))
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
        let listed = self.inner.readdir(ctx, inode, handle, size, offset);
        listed.map(Entries::Listed).map_err(|error| self.why_not_listed(error, ctx, inode))
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
        if self.is_marked(&ctx) {
            return self.getxattr_marked(ctx, inode, name, size.min(XATTR_SIZE_MAX));
        }
        self.check(&ctx, inode)?;
        if let Some(reply) = probe::get(name, size, || self.share.delivered_events()) {
            return reply;
        }
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
        let out = share_node(inode_out)?;
        self.own(&Request::Write(out), || {
            self.as_user(ctx, out, || {
                self.inner.copyfilerange(
                    ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len,
                    flags,
                )
            })
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
        let id = self.check(&ctx, inode)?;
        self.own(&Request::Write(id), || {
            self.as_user(ctx, id, || self.inner.fallocate(ctx, inode, handle, mode, offset, length))
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
        probe::check_change(name)?;
        let request = Request::SetXattr { node: self.check(&ctx, inode)?, name };
        self.own(&request, || self.inner.setxattr(ctx, inode, name, value, flags, extra_flags))
    }

    fn removexattr(&self, ctx: Context, inode: Inode, name: &CStr) -> io::Result<()> {
        probe::check_change(name)?;
        let request = Request::RemoveXattr(self.check(&ctx, inode)?);
        self.own(&request, || self.inner.removexattr(ctx, inode, name))
    }

    forward! {
        fn readlink(inode: Inode) -> Vec<u8>;
        fn fsync(inode: Inode, datasync: bool, handle: Handle) -> ();
        fn fsyncdir(inode: Inode, datasync: bool, handle: Handle) -> ();
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

/// No kernel sends an offset beyond what pread(2) takes. The library would panic at it.
fn check_offset(offset: u64) -> io::Result<()> {
    i64::try_from(offset).map(drop).map_err(|_| Errno::INVAL.into())
}

#[deny(clippy::missing_trait_methods)]
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
