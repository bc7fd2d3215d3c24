// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which mounts in a mount table are submounts of a share: those that the kernel has made by itself where the server had
//! announced a mount (`fuse_dentry_automount()`). It only decides.

use std::ffi::OsStr;
use std::path::Path;

use farwatch_sys::mountinfo::Mount;

/// The device number of a superblock.
pub(crate) type Device = (u32, u32);

/// The type of the share's mounts. No other FUSE file system has submounts (`virtio_fs_get_tree()` alone sets
/// `auto_submounts`).
const FS_TYPE: &str = "virtiofs";
/// Nobody has named a source for what the kernel mounts by itself (`vfs_create_mount()`).
const SOURCE: &str = "none";

/// Whether a mount may be one that the kernel has made by itself. Who mounts a share names its tag.
pub(crate) fn is_automatic(mount: &Mount) -> bool {
    mount.fs_type == FS_TYPE && mount.source == OsStr::new(SOURCE)
}

/// Whether a mount is of a submount of any share, for which the agent of that share is there.
pub(crate) fn is_one(table: &[Mount], mount: &Mount) -> bool {
    let is_on_share = |other: &Mount| {
        table.iter().any(|above| above.id == other.parent && above.fs_type == FS_TYPE)
    };
    let mut same = table.iter().filter(|other| other.device == mount.device);
    same.any(|other| is_automatic(other) && is_on_share(other))
}

/// The submounts of the share with this superblock, also those in another one of them. Only whole ones: a part that is
/// mounted elsewhere is of a superblock that is whole somewhere.
pub(crate) fn find(table: &[Mount], share: Device) -> Vec<&Mount> {
    let mut devices = vec![share];
    loop {
        let is_on_one = |mount: &&Mount| {
            let is_on = |above: &Mount| above.id == mount.parent && devices.contains(&above.device);
            is_automatic(mount) && table.iter().any(is_on)
        };
        let new = table.iter().filter(is_on_one).map(|mount| mount.device);
        let new: Vec<Device> = new.filter(|device| !devices.contains(device)).collect();
        if new.is_empty() {
            break;
        }
        devices.extend(new);
    }
    let is_whole = |mount: &&Mount| mount.root == Path::new("/") && is_automatic(mount);
    let is_submount = |mount: &&Mount| mount.device != share && devices.contains(&mount.device);
    table.iter().filter(is_whole).filter(is_submount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, parent: u64, minor: u32, source: &str) -> Mount {
        Mount {
            id,
            parent,
            device: (0, minor),
            root: "/".into(),
            mount_point: format!("/{id}").into(),
            fs_type: FS_TYPE.to_owned(),
            source: source.into(),
        }
    }

    fn found(table: &[Mount]) -> Vec<u64> {
        find(table, (0, 40)).iter().map(|mount| mount.id).collect()
    }

    #[test]
    fn submounts_are_found_on_the_share_and_in_each_other_in_any_order() {
        let table = [
            mount(5, 4, 43, "none"),
            mount(1, 0, 40, "src"),
            mount(2, 1, 41, "none"),
            mount(3, 1, 42, "none"),
            mount(4, 2, 42, "none"),
        ];
        assert_eq!(found(&table), [5, 2, 3, 4]);
    }

    #[test]
    fn other_mount_on_the_share_is_no_submount_nor_is_one_of_another_share() {
        let mut tmpfs = mount(2, 1, 41, "none");
        tmpfs.fs_type = "tmpfs".to_owned();
        let table =
            [mount(1, 0, 40, "src"), tmpfs, mount(3, 1, 42, "other"), mount(4, 3, 43, "none")];
        assert_eq!(found(&table), [0_u64; 0]);
    }

    #[test]
    fn submount_is_one_wherever_it_is_mounted_and_a_share_on_a_share_is_none() {
        let table = [
            mount(1, 0, 40, "src"),
            mount(2, 1, 41, "none"),
            mount(3, 0, 41, "none"),
            mount(4, 1, 42, "other"),
        ];
        let are_one = table.each_ref().map(|mount| is_one(&table, mount));
        assert_eq!(are_one, [false, true, true, false]);
    }

    #[test]
    fn bind_mount_of_a_submount_is_one_and_that_of_a_part_is_not() {
        let mut part = mount(4, 0, 41, "none");
        part.root = "/sub".into();
        let table =
            [mount(1, 0, 40, "src"), mount(2, 1, 41, "none"), mount(3, 0, 41, "none"), part];
        assert_eq!(found(&table), [2, 3]);
    }
}
