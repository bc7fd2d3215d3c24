// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a directory can be shared, and another be its mount point: said before anything is done.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::bail;
use farwatch_sys::thread::{CapabilitySet, has_capability};

/// Checks the two directories and the user.
pub(super) fn check(shared: Option<&Path>, mount_point: &Path) -> anyhow::Result<()> {
    if !has_capability(CapabilitySet::SYS_ADMIN)? {
        bail!("mounting needs root: run it with sudo");
    }
    let point = directory(mount_point, "mount point")?;
    if is_mount_point(mount_point, &point)? {
        bail!(
            "something is mounted on {} already: unmount it, or choose another mount point",
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

fn directory(path: &Path, what: &str) -> anyhow::Result<Metadata> {
    let shown = path.display();
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(metadata),
        Ok(_) => bail!("{what} {shown} is not a directory"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{what} {shown} does not exist: create it first")
        }
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            bail!("{what} {shown} is a dead mount: `umount {shown}` first")
        }
        Err(error) => bail!("{what} {shown} cannot be used: {error}"),
    }
}

/// The root of a mount lies on another device than its parent, or is its own parent. A bind mount
/// within one file system is not seen by this, and is no harm.
fn is_mount_point(path: &Path, metadata: &Metadata) -> io::Result<bool> {
    let parent = path.canonicalize()?.join("..").metadata()?;
    Ok(parent.dev() != metadata.dev() || parent.ino() == metadata.ino())
}
