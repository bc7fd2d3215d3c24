// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the host names an object that the file server has just looked up.
//!
//! The library keeps its descriptors to itself, so the entry is resolved a second time, from the
//! directory's own descriptor. A host rename can come between: an object that is not the one of the
//! reply is never taken for it. A directory is then reached through the library, by nodeid; for
//! anything else its events name it by its directory.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};

use farwatch_proto::{Fid, FileKind, Name, NodeId};
use rustix::fs::{AtFlags, Mode, OFlags};
use virtiofsd::filesystem::{Entry, FileSystem, ZeroCopyWriter};
use virtiofsd::fuse::Attr;
use virtiofsd::oslib;

use super::{Interposer, own_context};
use crate::share::{Identity, Share};
use crate::watch::is_mounted;

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The shared directory itself.
pub(super) fn root(share: &Share, path: &Path) -> Option<Identity> {
    let fd = rustix::fs::open(path, PATH_ONLY | OFlags::DIRECTORY, Mode::empty());
    let identity = fd.map_err(io::Error::from).and_then(|fd| identity(share, fd));
    identity
        .inspect_err(|error| {
            tracing::error!(%error, "the shared directory has no file handle: nothing in it can \
                be watched (`farwatch doctor` shows what its file system supports)");
        })
        .ok()
}

fn identity(share: &Share, fd: OwnedFd) -> io::Result<Identity> {
    let fid = share.fid(fd.as_fd())?;
    Ok(Identity { fd: Some(fd), fid, mounted: false })
}

impl Interposer {
    /// The object of `entry`, which the file server found under `name` in `dir`.
    pub(super) fn identify(&self, dir: NodeId, name: &Name, entry: &Entry) -> Option<Identity> {
        let directory = FileKind::from_mode(entry.attr.mode) == FileKind::Directory;
        let above = self.share.dir(dir, || self.open_directory(dir.get()).ok());
        let c_name = CString::new(name.as_bytes()).ok()?;
        if !directory && let Some(fid) = self.name(dir, &c_name, above.as_ref()?, entry.attr.ino) {
            return Some(Identity { fd: None, fid, mounted: false });
        }
        let mounted = (directory || !self.share.names_objects())
            && above.as_ref().is_some_and(|above| is_mounted(above, &c_name));
        let found = above.and_then(|above| resolve(&above, &c_name));
        let fd = match found.filter(|fd| is_object(fd, &entry.attr)) {
            Some(fd) => fd,
            None if directory => {
                self.open_directory(entry.inode).ok().filter(|fd| is_object(fd, &entry.attr))?
            }
            None => return None,
        };
        identity(&self.share, fd)
            .inspect_err(|error| tracing::debug!(%error, "no file handle"))
            .map(|identity| Identity { mounted, ..identity })
            .ok()
    }

    /// A directory of which no place is known.
    pub(super) fn identify_nameless(&self, entry: &Entry) -> Option<Identity> {
        let fd = self.open_directory(entry.inode).ok();
        identity(&self.share, fd.filter(|fd| is_object(fd, &entry.attr))?).ok()
    }

    /// The quick way, in one system call: the file handles of the common file systems contain the
    /// inode number, so it can be seen whether it is the object of the reply. Not for what is mounted on, where that
    /// matters.
    fn name(&self, dir: NodeId, name: &CStr, above: &Arc<OwnedFd>, ino: u64) -> Option<Fid> {
        if !self.share.uses_handles() {
            return None;
        }
        let fsid = self.share.fid_of(dir)?.fsid();
        let (fid, mount) = farwatch_sys::handle::fid_at(above.as_fd(), name, fsid).ok()?;
        let is_object = named_ino(&fid)? == ino
            && (self.share.names_objects() || mount_of(above).is_none_or(|above| above == mount));
        is_object.then_some(fid)
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
        let ctx = own_context();
        let (handle, _) = self.inner.opendir(ctx, inode, 0)?;
        let handle = handle.ok_or(io::ErrorKind::Unsupported)?;
        let mut capture = Capture(None);
        let read = self.inner.read(ctx, inode, handle, &mut capture, 0, 0, None, 0);
        self.inner.releasedir(ctx, inode, 0, handle)?;
        read?;
        capture.0.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

thread_local! {
    /// The directory that this thread looked something up in last, and the mount that it is in. Weak, so that it is not kept
    /// open, and nothing else can come to have its address.
    static LAST: RefCell<(Weak<OwnedFd>, Option<u64>)> = RefCell::default();
}

/// The number of the mount that a directory is in; `None` before Linux 5.8. A descriptor stays in the mount that it
/// was opened in, so it is found out once for all entries that are looked up in a row.
fn mount_of(dir: &Arc<OwnedFd>) -> Option<u64> {
    LAST.with_borrow_mut(|(last, mount)| {
        let this = Arc::downgrade(dir);
        if !last.ptr_eq(&this) {
            *mount = farwatch_sys::mount::mount_id(&**dir).ok();
            *last = this;
        }
        *mount
    })
}

fn resolve(dir: &OwnedFd, name: &CStr) -> Option<OwnedFd> {
    rustix::fs::openat(dir, name, PATH_ONLY, Mode::empty()).ok()
}

/// The inode number in a file handle, where it is known to be. Anywhere else a word that looks like it
/// could be something else: on btrfs all numbers are small. (overlayfs has the handle of a layer.)
fn named_ino(fid: &Fid) -> Option<u64> {
    let handle = fid.handle();
    let number = |at| handle.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let word = || handle.get(..4)?.try_into().ok().map(u32::from_ne_bytes);
    match (fid.handle_type(), handle.len()) {
        // FILEID_INO32_GEN: inode number and generation, but on tmpfs the generation comes first and
        // the low half of the number before the high one (`shmem_encode_fh()`).
        (1, 8) => word().map(u64::from),
        (1, 12) => {
            number(4).map(|ino| if cfg!(target_endian = "big") { ino.rotate_left(32) } else { ino })
        }
        // FILEID_INO64_GEN (xfs), FILEID_BTRFS_WITHOUT_PARENT.
        (0x81 | 0x4d, _) => number(0),
        _ => None,
    }
}

/// Whether a descriptor is open on the object that a reply describes.
fn is_object(fd: &OwnedFd, attr: &Attr) -> bool {
    rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).is_ok_and(|stat| {
        stat.st_ino == attr.ino
            && FileKind::from_mode(stat.st_mode) == FileKind::from_mode(attr.mode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_that_is_an_inode_number_is_taken_for_it() {
        let named = |handle_type, words: &[u32]| {
            let handle: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            named_ino(&Fid::new([1, 2], handle_type, &handle).unwrap())
        };
        assert_eq!(named(1, &[257, 300]), Some(257));
        assert_eq!(named(1, &[300, 257, 0]), Some(257));
        let [low, high] = if cfg!(target_endian = "little") { [0, 1] } else { [1, 0] };
        let mut number = [0; 2];
        (number[low], number[high]) = (257, 1);
        assert_eq!(named(0x81, &[number[0], number[1], 300]), Some(257 + (1 << 32)));
        assert_eq!(named(0x4d, &[number[0], number[1], 5, 0, 300]), Some(257 + (1 << 32)));
        assert_eq!(named(0xfb, &[257, 257, 257]), None);
        assert_eq!(named(1, &[]), None);
    }

    #[test]
    fn the_inode_number_is_found_in_the_handle_of_a_real_file() {
        let file = tempfile::tempfile().unwrap();
        let fid = farwatch_sys::handle::fid(file.as_fd()).unwrap();
        let ino = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
        // Elsewhere than on the common file systems it is looked for in another way.
        assert!(named_ino(&fid).is_none_or(|named| named == ino), "{fid:?}");
    }
}
