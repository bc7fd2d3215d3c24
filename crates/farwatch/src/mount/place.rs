// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a directory can be shared, and another be its mount point: said before anything is done.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use farwatch_sys::mountinfo;
use farwatch_sys::thread::{CapabilitySet, has_capability};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::driver::FS_TYPE;

/// How long a device goes on after its driver was killed, at most.
const DYING_MAX: Duration = Duration::from_secs(1);
/// How often is looked whether it has ended.
const DYING_POLL: Duration = Duration::from_millis(10);

/// Checks the two directories and the user.
pub(super) fn check(shared: Option<&Path>, mount_point: &Path) -> anyhow::Result<()> {
    if !has_capability(CapabilitySet::SYS_ADMIN)? {
        bail!("mounting needs root: run it with sudo");
    }
    take_over(mount_point)?;
    let point = directory(mount_point, "mount point")?;
    if is_mount_point(mount_point, &point)? {
        bail!(
            "{} is a mount point already: unmount it, or choose another one",
            mount_point.display()
        );
    }
    let Some(shared) = shared else { return Ok(()) };
    directory(shared, "shared directory")?;
    let (shared, mount_point) = (shared.canonicalize()?, mount_point.canonicalize()?);
    if shared.starts_with(&mount_point) {
        bail!("the mount would cover the shared directory: choose a mount point beside it");
    }
    if mount_point.starts_with(&shared) {
        bail!("the share would contain its own mount: choose a mount point outside of it");
    }
    Ok(())
}

/// Takes away the mount that a `farwatch mount` has left behind that was killed: every access to it fails, for good.
fn take_over(mount_point: &Path) -> anyhow::Result<()> {
    while is_ours(mount_point)? && is_dead_soon(mount_point) {
        let shown = mount_point.display();
        unmount(mount_point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .with_context(|| format!("{shown} is a dead mount and cannot be unmounted"))?;
        tracing::warn!("unmounted {shown}, the dead mount of a farwatch that was killed");
    }
    Ok(())
}

/// Whether the server of the file system there has gone, or goes now: a device ends a moment after its driver was
/// killed.
fn is_dead_soon(path: &Path) -> bool {
    let deadline = Instant::now() + DYING_MAX;
    loop {
        if is_dead(path) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(DYING_POLL);
    }
}

/// Whether the server of the file system there has gone. It is asked itself: the kernel answers for a dead one from
/// what it has cached (`fuse_update_get_attr()`).
fn is_dead(path: &Path) -> bool {
    let flags = AtFlags::STATX_FORCE_SYNC;
    rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).err() == Some(Errno::NOTCONN)
}

/// Whether the mount that is on top there, by the mount table, is of this program.
fn is_ours(mount_point: &Path) -> anyhow::Result<bool> {
    // The path itself cannot be resolved any more, the directory that it is in can.
    let parent = mount_point.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new(".")).canonicalize()?;
    let Some(name) = mount_point.file_name() else { return Ok(false) };
    let path = parent.join(name);
    let table = mountinfo::read()?;
    // Those mounted later come later.
    let top = mountinfo::mounts(&table).filter(|mount| mount.mount_point == path).last();
    Ok(top.is_some_and(|mount| mount.fs_type == FS_TYPE))
}

fn directory(path: &Path, what: &str) -> anyhow::Result<Metadata> {
    let shown = path.display();
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(metadata),
        Ok(_) => bail!("{what} {shown} is not a directory"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{what} {shown} does not exist: create it first")
        }
        Err(error) if is_not_connected(&error) => {
            bail!("{what} {shown} is a dead mount: `umount {shown}` first")
        }
        Err(error) => bail!("{what} {shown} cannot be used: {error}"),
    }
}

/// What every access to a dead mount gives.
fn is_not_connected(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOTCONN)
}

/// The root of a mount lies on another device than its parent, or is its own parent. A bind mount
/// within one file system is not seen by this, and is no harm.
fn is_mount_point(path: &Path, metadata: &Metadata) -> io::Result<bool> {
    let parent = path.canonicalize()?.join("..").metadata()?;
    Ok(parent.dev() != metadata.dev() || parent.ino() == metadata.ino())
}
