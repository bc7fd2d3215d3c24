// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether our mount is still in the mount table: `/proc/self/mountinfo`, proc_pid_mountinfo(5).
//!
//! `umount` takes a mount out of the table, and normally its superblock dies with it, which
//! `/dev/fuse` tells. But a private clone of the mount (`open_tree(2)`) keeps the superblock alive;
//! then the table is the only place where the user's wish shows. [`MountWatch`] looks there for the
//! supervisor, and finds out for [`super::fuse`] where the mount is now.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use vmm_sys_util::epoll::{Epoll, EventSet};

use super::signal;

/// Which mount: the kernel gives a mount id away again as soon as it is free, so the device number
/// of the superblock belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MountId {
    id: u64,
    device: (u32, u32),
}

impl MountId {
    /// The mount whose root `path` is. Asks no file server: neither field comes from one.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let stat = statx(CWD, path, flags, StatxFlags::MNT_ID)?;
        Ok(Self { id: stat.stx_mnt_id, device: (stat.stx_dev_major, stat.stx_dev_minor) })
    }
}

/// The mount table, held open so that `epoll(7)` can tell when it changes.
#[derive(Debug)]
pub(super) struct MountWatch {
    table: File,
    id: MountId,
}

impl MountWatch {
    /// Looks out for `id`.
    pub(super) fn new(id: MountId) -> io::Result<Self> {
        Ok(Self { table: File::open("/proc/self/mountinfo")?, id })
    }

    /// Wakes `epoll` with `token` when the table has changed. The caller looks once afterwards
    /// without waiting: adding swallows a change that came before.
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
    table.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let mount_id: u64 = number(fields.next()?)?;
        let (major, minor) = str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let mount_point = fields.nth(1)?;
        (id == MountId { id: mount_id, device })
            .then(|| PathBuf::from(OsString::from_vec(unescape(mount_point))))
    })
}

/// A mount that this process sees below `dir`, if there is one.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn mount_below(dir: &Path) -> io::Result<Option<PathBuf>> {
    Ok(find_below(&std::fs::read("/proc/self/mountinfo")?, dir))
}

fn find_below(table: &[u8], dir: &Path) -> Option<PathBuf> {
    let mount_points = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mount_point = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescape(mount_point))))
    });
    mount_points.into_iter().find(|path| path != dir && path.starts_with(dir))
}

fn number(field: &[u8]) -> Option<u64> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes `mangle_path()`: blank, tab, newline and backslash are written as `\` and 3 octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let escaped = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
77 22 0:43 / /mnt/a\\040b\\134c rw,nosuid,nodev shared:9 - fuse.farwatch /srv rw,user_id=0
78 22 0:44 / /mnt/\xff rw - tmpfs none rw
";

    fn found(id: u64, device: (u32, u32)) -> Option<PathBuf> {
        find(TABLE, MountId { id, device })
    }

    #[test]
    fn a_mount_is_found_by_id_and_device_with_its_path_unescaped() {
        assert_eq!(found(77, (0, 43)), Some(PathBuf::from("/mnt/a b\\c")));
        assert_eq!(found(22, (8, 1)), Some(PathBuf::from("/")));
        let path = found(78, (0, 44)).unwrap();
        assert_eq!(path.into_os_string().into_vec(), b"/mnt/\xff");
    }

    #[test]
    fn an_id_that_another_superblock_has_got_since_is_not_ours() {
        assert_eq!(found(77, (0, 44)), None);
        assert_eq!(found(79, (0, 43)), None);
    }

    #[test]
    fn a_mount_below_a_directory_is_found() {
        let below = |dir: &str| find_below(TABLE, Path::new(dir));
        assert_eq!(below("/mnt"), Some(PathBuf::from("/mnt/a b\\c")));
        assert_eq!(below("/mnt/a b\\c"), None);
        assert_eq!(below("/mn"), None);
    }

    #[test]
    fn lines_of_another_form_are_skipped() {
        let id = MountId { id: 1, device: (0, 1) };
        for line in ["", "1", "1 2", "1 2 0", "1 2 0:1 /", "x 2 0:1 / /a", "1 2 0:x / /a"] {
            assert_eq!(find(line.as_bytes(), id), None, "{line}");
        }
        assert_eq!(find(b"rubbish\n1 2 0:1 / /a - x", id), Some(PathBuf::from("/a")));
    }

    #[test]
    fn a_backslash_without_three_octal_digits_stands_for_itself() {
        assert_eq!(unescape(br"\04\999\\0411"), br"\04\999\!1");
    }

    #[test]
    fn the_root_of_this_process_is_in_its_mount_table() {
        let mut watch = MountWatch::new(MountId::of(Path::new("/")).unwrap()).unwrap();
        assert_eq!(watch.mount_point().unwrap(), Some(PathBuf::from("/")));
    }
}
