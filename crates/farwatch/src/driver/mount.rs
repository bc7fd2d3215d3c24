// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Mount`]: mounting what is behind `/dev/fuse`, and unmounting it.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::error::Error;
use super::mount_watch::{MountId, MountWatch};
use crate::dev_fuse::{DATA_LEN_MAX, FuseDevice};

/// The type of the mounts, in the mount table. Programs that do not trust FUSE mounts to raise events accept this subtype
/// (docs/TYPES.md).
pub const FS_TYPE: &str = "fuse.virtiofs";

/// The mount of a [`FuseDevice`], unmounted when this goes.
#[derive(Debug)]
pub(super) struct Mount {
    path: PathBuf,
    id: MountId,
    /// It has been taken away. From then on its id may be another mount's, which must not be
    /// unmounted in its place.
    gone: bool,
}

impl Mount {
    /// Mounts the file system behind `device` on the directory `mount_point`; `source` is what the
    /// mount table shows as its source.
    pub(super) fn new(
        device: &FuseDevice,
        mount_point: &Path,
        source: &str,
    ) -> Result<Self, Error> {
        let failed =
            |source: io::Error| Error::Mount { mount_point: mount_point.to_owned(), source };
        // default_permissions: the kernel checks modes; without it FUSE_ALLOW_IDMAP, which file
        // servers grant, makes the kernel refuse the connection. max_read: what a reply has room for.
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,\
             max_read={DATA_LEN_MAX}",
            device.as_raw_fd()
        );
        let options = CString::new(options).map_err(|error| failed(error.into()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount(source, mount_point, FS_TYPE, flags, options.as_c_str())
            .map_err(|errno| failed(errno.into()))?;
        match MountId::of(mount_point) {
            Ok(id) => Ok(Self { path: mount_point.to_owned(), id, gone: false }),
            Err(error) => {
                if let Err(error) = unmount(mount_point, UnmountFlags::DETACH) {
                    tracing::warn!(%error, "unmounting a mount that could not be identified failed");
                }
                Err(failed(error))
            }
        }
    }

    /// Which mount it is.
    pub(super) fn id(&self) -> MountId {
        self.id
    }

    /// Unmounts; when programs still use the mount, it is taken out of sight at once and ends with
    /// the last of them, or with the connection. Nothing happens when it is gone already. May wait
    /// for the device, which then gets what is still to be written.
    pub(super) fn unmount(mut self) -> Result<(), Error> {
        self.take_away()
    }

    /// Somebody else has unmounted it: there is nothing to do any more.
    pub(super) fn was_unmounted(mut self) {
        self.gone = true;
    }

    fn take_away(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        let failed = |source| Error::Unmount { mount_point: self.path.clone(), source };
        // Looked up, since the mount may have been moved, and another one be in its place.
        let Some(path) =
            MountWatch::new(self.id).and_then(|mut at| at.mount_point()).map_err(failed)?
        else {
            return Ok(());
        };
        let outcome = unmount(&path, UnmountFlags::NOFOLLOW).or_else(|errno| {
            if errno != Errno::BUSY {
                return Err(errno);
            }
            tracing::info!(path = %path.display(), "still in use, unmounting lazily");
            unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        });
        outcome.map_err(|errno| failed(errno.into()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            tracing::warn!(%error, "unmounting failed");
        }
    }
}
