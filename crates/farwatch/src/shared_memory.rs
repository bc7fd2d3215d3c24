// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`of_fixed_length`]: memory that the driver shares with its device.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// A memfd of `len` bytes, all zero. Whoever is sent its descriptor cannot make it shorter: to touch what lies behind its
/// end would be SIGBUS for everybody else.
///
/// # Errors
/// When there are no descriptors left, or no memory.
pub(crate) fn of_fixed_length(name: &str, len: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, u64::try_from(len).map_err(io::Error::other)?)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn length_stays_as_it_is() {
        let fd = of_fixed_length("shared", 5000).unwrap();
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 5000);
        for len in [0, 4999, 5001] {
            assert_eq!(ftruncate(&fd, len), Err(Errno::PERM));
        }
        assert_eq!(rustix::io::write(&fd, b"x"), Ok(1));
    }
}
