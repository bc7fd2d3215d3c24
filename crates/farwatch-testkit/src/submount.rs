// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Submount`]: a mount on a directory of a share, for as long as a test needs it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

/// See the module's documentation. To be dropped before the directories are removed.
#[derive(Debug)]
pub struct Submount(PathBuf);

impl Submount {
    /// A file system of its own, empty.
    pub fn tmpfs(dir: &Path) -> Result<Self> {
        mount("farwatch-test", dir, "tmpfs", MountFlags::empty(), None)?;
        Ok(Self(dir.to_owned()))
    }

    /// What is mounted there already.
    #[must_use]
    pub fn already(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// Another place for a file or directory.
    pub fn bind(what: &Path, dir: &Path) -> Result<Self> {
        mount_bind(what, dir)?;
        Ok(Self(dir.to_owned()))
    }

    /// `umount --lazy`: the name leads to what is beneath, whoever has the mount open.
    pub fn detach(self) -> Result<()> {
        unmount(&self.0, UnmountFlags::DETACH).context("umount --lazy")
    }
}

impl Drop for Submount {
    fn drop(&mut self) {
        // It may be done, and there is nobody to tell.
        let _gone = unmount(&self.0, UnmountFlags::DETACH);
    }
}
