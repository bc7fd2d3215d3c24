// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`MountRoot`]: a mount of our own of the file system that is to be replayed on.
//!
//! It is attached to no directory and to no mount namespace, so nobody can come across it, unmount it
//! or be kept from unmounting theirs; it shares the superblock, and with it all inodes and watches,
//! with the mounts that programs use.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use farwatch_sys::mount;
use rustix::fs::{AtFlags, CWD, FsWord, Mode, OFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::error::Error;

/// `FUSE_SUPER_MAGIC`, which virtiofs has too (`statfs(2)`).
const FUSE_SUPER_MAGIC: FsWord = 0x6573_5546;

/// What an agent is to work on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A directory inside of a mounted virtiofs, or any FUSE file system with a farwatch behind it.
    Directory(PathBuf),
    /// The tag of a virtio-fs device, mounted or not.
    Tag(String),
}

/// See the module's documentation. The superblock lives until this is dropped.
#[derive(Debug)]
pub struct MountRoot(OwnedFd);

impl Target {
    /// Reads what a user has given: with a slash it is a path, without one a tag.
    pub fn parse(target: &OsStr) -> Self {
        match target.to_str() {
            Some(tag) if !tag.contains('/') && !matches!(tag, "." | "..") => Self::Tag(tag.into()),
            _ => Self::Directory(target.into()),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// As for [`MountRoot`].
    pub fn open(&self) -> Result<MountRoot, Error> {
        match self {
            Self::Directory(path) => MountRoot::open(path),
            Self::Tag(tag) => MountRoot::mount(tag),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Tag(tag) => f.write_str(tag),
        }
    }
}

impl MountRoot {
    /// Clones the mount that `path` lies in.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, when nothing answers behind the mount, when it is no FUSE mount, or
    /// its superblock is read-only.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, path, flags).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => Error::NoDirectory(errno),
            _ => Error::Root(errno),
        })?;
        Self::of_tree(&tree)
    }

    /// Clones a mount at `path`, which must be on this device. Mounts nothing automatically.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Error::NoDirectory`] when something else is there.
    pub(crate) fn open_on(path: &Path, device: (u32, u32)) -> Result<Self, Error> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_NO_AUTOMOUNT;
        let tree = rustix::mount::open_tree(CWD, path, flags).map_err(Error::Root)?;
        // Asked of the kernel alone: what is there may have been mounted by anybody.
        if device_of(&tree).map_err(Error::Root)? != device {
            return Err(Error::NoDirectory(Errno::NOENT));
        }
        Self::of_tree(&tree)
    }

    /// The device number of the superblock.
    ///
    /// # Errors
    /// As `statx(2)`.
    pub(crate) fn device(&self) -> Result<(u32, u32), Error> {
        device_of(&self.0).map_err(Error::Root)
    }

    /// Mounts the virtio-fs device with this tag.
    ///
    /// # Errors
    /// As [`Self::open`], and when there is no such device or this kernel has no virtiofs.
    pub fn mount(tag: &str) -> Result<Self, Error> {
        let fs = rustix::mount::fsopen(c"virtiofs", FsOpenFlags::FSOPEN_CLOEXEC);
        let fs = fs.map_err(|errno| match errno {
            Errno::NODEV => Error::NoVirtiofs(errno),
            _ => Error::Root(errno),
        })?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), c"source", tag).map_err(Error::NoTag)?;
        rustix::mount::fsconfig_create(fs.as_fd()).map_err(Error::NoTag)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        let tree = rustix::mount::fsmount(fs.as_fd(), flags, MountAttrFlags::empty());
        Self::of_tree(&tree.map_err(Error::Root)?)
    }

    fn of_tree(tree: &OwnedFd) -> Result<Self, Error> {
        let filesystem = rustix::fs::fstatfs(tree).map_err(Error::Root)?;
        if filesystem.f_type != FUSE_SUPER_MAGIC {
            return Err(Error::NotFuse);
        }
        // A bind mount that is read-only says nothing about the others. Where it must stay so, the
        // next lines tell.
        if let Err(error) = mount::make_writable(tree) {
            tracing::debug!(%error, "the copy of the mount keeps its flags");
        }
        let flags = rustix::fs::fstatvfs(tree).map_err(Error::Root)?.f_flag;
        if flags.contains(StatVfsMountFlags::RDONLY) {
            return Err(Error::ReadOnly);
        }
        // open_by_handle_at(2) refuses the O_PATH descriptor that open_tree(2) gives.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(tree, c".", flags, Mode::empty()).map_err(Error::Root)?;
        Ok(Self(root))
    }
}

fn device_of(fd: &OwnedFd) -> Result<(u32, u32), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd, c"", flags, StatxFlags::TYPE)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}

impl AsFd for MountRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use farwatch_sys::thread::CapabilitySet;

    use super::*;

    #[test]
    fn argument_with_a_slash_is_a_path_and_any_other_a_tag() {
        for path in ["/mnt", "./mnt", "mnt/", "a/b", ".", ".."] {
            let target = Target::parse(OsStr::new(path));
            assert_eq!(target, Target::Directory(path.into()));
        }
        assert_eq!(Target::parse(OsStr::new("myfs")), Target::Tag("myfs".into()));
    }

    #[test]
    fn a_directory_that_is_no_fuse_mount_or_does_not_exist_is_an_error_of_its_own() {
        if farwatch_testkit::skip_without(CapabilitySet::SYS_ADMIN) {
            return;
        }
        let error = MountRoot::open(Path::new("/proc")).unwrap_err();
        assert!(matches!(error, Error::NotFuse), "{error}");
        let error = MountRoot::open(Path::new("/does-not-exist")).unwrap_err();
        assert!(matches!(error, Error::NoDirectory(_)), "{error}");
    }
}
