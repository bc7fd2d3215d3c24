// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether our mount is still in the mount table, and where.
//!
//! `umount` removes a mount from the table. Normally its superblock dies with it, which `/dev/fuse`
//! reports. But a private clone of the mount (`open_tree(2)`) keeps the superblock alive; then only the
//! table shows that the user has unmounted. [`MountWatch`] watches the table for the supervisor, and
//! finds the present mount point for [`super::mount`].

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use farwatch_sys::mountinfo;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use vmm_sys_util::epoll::{Epoll, EventSet};

use super::signal;

/// A mount. The kernel reuses a mount id as soon as it is free, so the device number of the superblock
/// is part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MountId {
    id: u64,
    device: (u32, u32),
}

impl MountId {
    /// The mount that has its root at `path`. No file server is asked: neither field comes from one.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let stat = statx(CWD, path, flags, StatxFlags::MNT_ID)?;
        Ok(Self { id: stat.stx_mnt_id, device: (stat.stx_dev_major, stat.stx_dev_minor) })
    }
}

/// The mount table, held open so that `epoll(7)` reports when it changes.
#[derive(Debug)]
pub(super) struct MountWatch {
    table: File,
    id: MountId,
}

impl MountWatch {
    /// Watches for the end of `id`.
    pub(super) fn new(id: MountId) -> io::Result<Self> {
        Ok(Self { table: File::open(mountinfo::PATH)?, id })
    }

    /// Adds the table to `epoll`, which reports changes with `token`. The caller must check the table once
    /// afterwards without waiting: a change that was made before is not reported.
    pub(super) fn register(&self, epoll: &Epoll, token: u64) -> io::Result<()> {
        signal::register(epoll, &self.table, EventSet::PRIORITY, token)
    }

    /// Where the mount is now; `None` when it is gone.
    pub(super) fn mount_point(&mut self) -> io::Result<Option<PathBuf>> {
        let mut table = Vec::new();
        self.table.rewind()?;
        self.table.read_to_end(&mut table)?;
        Ok(find(&table, self.id))
    }
}

/// The mount point of `id` in the text of a mount table.
fn find(table: &[u8], id: MountId) -> Option<PathBuf> {
    let mut mounts = mountinfo::mounts(table);
    let mount = mounts.find(|mount| id == MountId { id: mount.id, device: mount.device })?;
    Some(mount.mount_point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_id_and_device_number() {
        const TABLE: &[u8] = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
77 22 0:43 / /mnt/a\\040b rw,nosuid,nodev shared:9 - fuse.virtiofs /srv rw,user_id=0
";
        let find = |id, device| find(TABLE, MountId { id, device });
        assert_eq!(find(77, (0, 43)), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(find(22, (8, 1)), Some(PathBuf::from("/")));
        assert_eq!(find(77, (0, 44)), None, "the id was reused for another superblock");
        assert_eq!(find(79, (0, 43)), None);
    }

    #[test]
    fn the_root_of_this_process_is_in_its_mount_table() {
        let mut watch = MountWatch::new(MountId::of(Path::new("/")).unwrap()).unwrap();
        assert_eq!(watch.mount_point().unwrap(), Some(PathBuf::from("/")));
    }
}
