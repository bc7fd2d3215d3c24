// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the host names an object that the file server has just looked up.
//!
//! The library keeps its descriptors to itself, so the entry is resolved a second time, from the
//! directory's own descriptor. A host rename can come between: an object that is not the one of the
//! reply is never taken for it. A directory is then reached through the library, by nodeid; for
//! anything else its events name it by its directory.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use farwatch_proto::{Fid, FileKind, Name, NodeId};
use rustix::fs::{AtFlags, Mode, OFlags};
use virtiofsd::filesystem::{Context, Entry, FileSystem, ZeroCopyWriter};
use virtiofsd::fuse::Attr;
use virtiofsd::oslib;

use super::Interposer;
use crate::share::{Identity, Share};

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The shared directory itself.
pub(super) fn root(share: &Share, path: &Path) -> Option<Identity> {
    let fd = rustix::fs::open(path, PATH_ONLY | OFlags::DIRECTORY, Mode::empty());
    let identity = fd.map_err(io::Error::from).and_then(|fd| identity(share, fd));
    identity
        .inspect_err(|error| {
            tracing::error!(%error, "the shared directory has no file handle: nothing in it can \
                be watched (`farwatch doctor` tells what its file system can do)");
        })
        .ok()
}

fn identity(share: &Share, fd: OwnedFd) -> io::Result<Identity> {
    let fid = share.fid(fd.as_fd())?;
    Ok(Identity { fd: Some(fd), fid })
}

impl Interposer {
    /// The object of `entry`, which the file server found under `name` in `dir`.
    pub(super) fn identify(&self, dir: NodeId, name: &Name, entry: &Entry) -> Option<Identity> {
        let directory = FileKind::from_mode(entry.attr.mode) == FileKind::Directory;
        if !directory && let Some(fid) = self.name(dir, name, entry.attr.ino) {
            return Some(Identity { fd: None, fid });
        }
        let found = self.resolve(dir, name).filter(|fd| is_object(fd, &entry.attr));
        let fd = match found {
            Some(fd) => fd,
            None if directory => {
                self.open_directory(entry.inode).ok().filter(|fd| is_object(fd, &entry.attr))?
            }
            None => return None,
        };
        identity(&self.share, fd)
            .inspect_err(|error| tracing::debug!(%error, "no file handle"))
            .ok()
    }

    /// The quick way, in one system call: the file handles of the common file systems contain the
    /// inode number, so it can be seen whether it is the object of the reply.
    fn name(&self, dir: NodeId, name: &Name, ino: u64) -> Option<Fid> {
        if !self.share.knows_by_handle() {
            return None;
        }
        let fsid = self.share.lock().engine.tree.fid(dir)?.fsid();
        let dir = self.share.dir(dir, || self.open_directory(dir.get()).ok())?;
        let name = CString::new(name.as_bytes()).ok()?;
        let fid = farwatch_sys::handle::fid_at(dir.as_fd(), &name, fsid).ok()?;
        contains_ino(fid.handle(), ino).then_some(fid)
    }

    fn resolve(&self, dir: NodeId, name: &Name) -> Option<OwnedFd> {
        let dir = self.share.dir(dir, || self.open_directory(dir.get()).ok())?;
        rustix::fs::openat(&*dir, name.as_bytes(), PATH_ONLY, Mode::empty()).ok()
    }

    /// Opens a directory by its nodeid: the library shows its file to whoever reads from it.
    pub(super) fn open_directory(&self, inode: u64) -> io::Result<OwnedFd> {
        struct Capture(Option<OwnedFd>);
        impl ZeroCopyWriter for Capture {
            fn read_from_file_at(
                &mut self,
                file: &File,
                _count: usize,
                _offset: u64,
                _flags: Option<oslib::ReadvFlags>,
            ) -> io::Result<usize> {
                self.0 = Some(file.as_fd().try_clone_to_owned()?);
                Ok(0)
            }
        }
        let ctx = Context { uid: 0.into(), gid: 0.into(), pid: 0 };
        let (handle, _) = self.inner.opendir(ctx, inode, 0)?;
        let handle = handle.ok_or(io::ErrorKind::Unsupported)?;
        let mut capture = Capture(None);
        let read = self.inner.read(ctx, inode, handle, &mut capture, 0, 0, None, 0);
        self.inner.releasedir(ctx, inode, 0, handle)?;
        read?;
        capture.0.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// Whether one of the words of a file handle is the low half of an inode number: `FILEID_INO32_GEN`
/// (ext4, tmpfs), `FILEID_INO64_GEN` (xfs), `FILEID_BTRFS_*`.
fn contains_ino(handle: &[u8], ino: u64) -> bool {
    let [a, b, c, d, ..] = ino.to_ne_bytes();
    let low = if cfg!(target_endian = "little") { [a, b, c, d] } else { return false };
    handle.chunks_exact(4).any(|word| word == low)
}

/// Whether a descriptor is open on the object that a reply describes.
fn is_object(fd: &OwnedFd, attr: &Attr) -> bool {
    rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).is_ok_and(|stat| {
        stat.st_ino == attr.ino
            && FileKind::from_mode(stat.st_mode) == FileKind::from_mode(attr.mode)
    })
}
