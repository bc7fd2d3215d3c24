// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptors that the process was started with.

// UNSAFETY: a descriptor that is known by its number alone cannot be borrowed safely.
#![expect(unsafe_code, reason = "fcntl(2) of a number")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::error::check;

/// A duplicate of a descriptor that whoever started this process left open under a number, as a
/// socket for `--fd`. The original stays open.
///
/// # Errors
/// EBADF when nothing is open under that number, EMFILE when RLIMIT_NOFILE is reached.
pub fn inherited(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl(2) with F_DUPFD_CLOEXEC takes integers and touches no memory; for a number that
    // is no descriptor it "returns -1" with EBADF.
    let duplicate = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the call has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, pipe};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_duplicate_is_the_same_file_and_a_number_without_a_file_is_refused() {
        let (mut read, write) = pipe().unwrap();
        let mut duplicate = std::fs::File::from(inherited(write.as_raw_fd()).unwrap());
        assert_ne!(duplicate.as_raw_fd(), write.as_raw_fd());
        duplicate.write_all(b"x").unwrap();
        let mut byte = [0];
        read.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(inherited(-1).unwrap_err(), Errno::BADF);
    }
}
