// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The mount table of this process, `/proc/self/mountinfo` (proc_pid_mountinfo(5)), parsed.
//!
//! Reading it asks no file system anything, so it does not block when a file server is dead. The driver
//! finds its own mount in it, `farwatch serve` the mounts below a shared directory, `farwatch doctor`
//! the type of a file system.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// The file. Held open, it reports with `POLLPRI` that the table has changed.
pub const PATH: &str = "/proc/self/mountinfo";

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// The mount id, as in `stx_mnt_id`. The kernel reuses it once the mount is gone.
    pub id: u64,
    /// The id of the mount that it is mounted on.
    pub parent: u64,
    /// Major and minor device number of the superblock.
    pub device: (u32, u32),
    /// The directory of the file system that is mounted, `/` unless it is a bind mount.
    pub root: PathBuf,
    /// The mount point, as seen from the root directory of this process.
    pub mount_point: PathBuf,
    /// The file system type, with the subtype if there is one: `fuse.virtiofs`.
    pub fs_type: String,
    /// What was mounted: a device, a tag; `none` if nothing was named.
    pub source: OsString,
}

/// The bytes of the table. To be parsed by [`mounts`].
///
/// # Errors
/// When `/proc` cannot be read.
pub fn read() -> io::Result<Vec<u8>> {
    std::fs::read(PATH)
}

/// The mounts in the text of a mount table. Malformed lines are skipped.
pub fn mounts(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|byte| *byte == b'\n').filter_map(mount)
}

/// `36 35 98:0 /root /mount\040point rw,noatime master:1 - ext4 /dev/root rw`, where the number of
/// fields before the hyphen varies.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let parent = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let text = |field| OsString::from_vec(unescape(field));
    let (root, mount_point) = (text(fields.next()?).into(), text(fields.next()?).into());
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    let source = rest.next().map(text).unwrap_or_default();
    Some(Mount { id, parent, device, root, mount_point, fs_type, source })
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
    use std::ffi::OsStr;
    use std::path::Path;

    use super::*;

    fn only(line: &[u8]) -> Mount {
        let mounts: Vec<_> = mounts(line).collect();
        assert_eq!(mounts.len(), 1);
        mounts[0].clone()
    }

    #[test]
    fn a_line_with_any_number_of_optional_fields_is_parsed() {
        let mount = only(b"36 35 98:0 /a /mnt1 rw,noatime master:1 shared:3 - ext4 /dev/root rw");
        assert_eq!((mount.id, mount.parent, mount.device), (36, 35, (98, 0)));
        assert_eq!((&*mount.root, &*mount.mount_point), (Path::new("/a"), Path::new("/mnt1")));
        assert_eq!((&*mount.fs_type, &*mount.source), ("ext4", OsStr::new("/dev/root")));
        assert_eq!(only(b"3 36 0:50 / /mnt2 rw - fuse.sshfs host:/ rw").fs_type, "fuse.sshfs");
    }

    #[test]
    fn a_mount_point_is_unescaped_and_need_not_be_utf8() {
        let mount_point = |line| only(line).mount_point;
        assert_eq!(mount_point(b"1 2 0:1 / /a\\040b\\134c rw - x y rw"), Path::new("/a b\\c"));
        let bytes = mount_point(b"1 2 0:1 / /\xff rw - x y rw").into_os_string().into_vec();
        assert_eq!(bytes, b"/\xff");
    }

    #[test]
    fn a_backslash_without_three_octal_digits_stands_for_itself() {
        assert_eq!(unescape(br"\04\999\\0411"), br"\04\999\!1");
    }

    #[test]
    fn malformed_lines_are_skipped() {
        let malformed = [
            "",
            "1",
            "1 2",
            "1 2 0",
            "1 2 0:1 /",
            "1 2 0:1 / /a rw",
            "1 2 0:1 / /a rw -",
            "x 2 0:1 / /a rw - x",
            "1 x 0:1 / /a rw - x",
            "1 2 0:x / /a rw - x",
        ];
        for line in malformed {
            assert_eq!(mounts(line.as_bytes()).next(), None, "{line}");
        }
        assert_eq!(only(b"rubbish\n1 2 0:1 / /a rw - x\n").mount_point, Path::new("/a"));
    }

    #[test]
    fn proc_is_in_the_table_of_this_process() {
        let table = read().unwrap();
        let proc = mounts(&table).find(|mount| mount.mount_point == Path::new("/proc")).unwrap();
        assert_eq!(proc.fs_type, "proc");
        let dir = std::fs::File::open("/proc").unwrap();
        assert_eq!(crate::mount::mount_id(dir).unwrap(), proc.id);
    }
}
