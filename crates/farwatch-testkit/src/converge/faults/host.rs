// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file system on the host: one of its own, where a fault needs that.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount, mount_remount};
use tempfile::TempDir;

use crate::mount::Mount;
use crate::submount::Submount;

/// The size of a file system that can be filled.
const SMALL: &std::ffi::CStr = c"size=16m";

/// Where a shared directory lies. What is mounted there must have ended when it is dropped.
#[derive(Debug)]
pub(super) enum Host {
    /// On the file system of temporary files.
    Usual,
    /// On a small file system of its own.
    Small { _mounted: Submount, dir: TempDir },
    /// On a file system that another process serves.
    Served(Box<Mount>),
}

impl Host {
    pub(super) fn small() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("farwatch-test-").tempdir()?;
        mount("farwatch-test", dir.path(), "tmpfs", MountFlags::empty(), Some(SMALL))
            .context("a small tmpfs")?;
        Ok(Self::Small { _mounted: Submount::already(dir.path()), dir })
    }

    pub(super) fn served() -> Result<Self> {
        Ok(Self::Served(Box::new(Mount::start()?)))
    }

    /// A mount that is not started, of a directory there.
    pub(super) fn unmounted(&self) -> Result<Mount> {
        match self {
            Self::Usual => Mount::unmounted(),
            Self::Small { dir, .. } => Mount::unmounted_in(dir.path()),
            Self::Served(mount) => Mount::unmounted_in(&mount.mount_point()),
        }
    }
}

/// Makes the file system at `dir` read-only, or takes that back.
pub(super) fn set_read_only(dir: &Path, read_only: bool) -> rustix::io::Result<()> {
    let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mount_remount(dir, flags, SMALL)
}
