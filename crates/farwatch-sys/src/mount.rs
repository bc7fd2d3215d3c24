// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which mount an object is seen through, and a mount's flags. Making mounts is rustix's part
//! (`rustix::mount`).

// UNSAFETY: rustix has no mount_setattr(2).
#![expect(unsafe_code, reason = "mount_setattr")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use crate::Error;
use crate::error::check;

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

/// Takes `MOUNT_ATTR_RDONLY` from the mount that `fd` is the root of (`mount_setattr(2)`): a bind mount
/// that was read-only is not any more. A read-only superblock stays what it is.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, or when the flag is locked by a user namespace; ENOSYS before Linux
/// 5.12; EINVAL when `fd` is not the root of a mount.
pub fn make_writable(fd: impl AsFd) -> Result<(), Error> {
    let fd = fd.as_fd().as_raw_fd();
    let attr = libc::mount_attr {
        attr_set: 0,
        attr_clr: libc::MOUNT_ATTR_RDONLY,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string and the attributes are a live `struct mount_attr` of the given
    // size; the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop).map_err(|source| Error::MountSetattr { fd, source })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn proc_is_another_mount_than_the_root() {
        let [root, proc] = ["/", "/proc"].map(|path| mount_id(File::open(path).unwrap()).unwrap());
        assert_ne!(root, proc);
    }
}
