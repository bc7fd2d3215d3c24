// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which mount an object is seen through. Making mounts is rustix's part (`rustix::mount`).

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use crate::Error;

/// The id of the mount that `fd` was opened on, the first field of `/proc/self/mountinfo`.
///
/// # Errors
/// EOPNOTSUPP before Linux 5.8, which has no `STATX_MNT_ID`.
pub fn mount_id(fd: impl AsFd) -> Result<u64, Error> {
    let fd = fd.as_fd();
    let id = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).and_then(|stat| {
        let known = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        if known { Ok(stat.stx_mnt_id) } else { Err(Errno::OPNOTSUPP) }
    });
    id.map_err(|source| Error::Statx { fd: fd.as_raw_fd(), source })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn proc_is_another_mount_than_the_root() {
        let [root, proc] = ["/", "/proc"].map(|path| mount_id(File::open(path).unwrap()).unwrap());
        assert_ne!(root, proc);
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mountinfo.lines().find(|line| line.split(' ').nth(4) == Some("/proc")).unwrap();
        assert_eq!(line.split(' ').next(), Some(proc.to_string().as_str()));
    }
}
