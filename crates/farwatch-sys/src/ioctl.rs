// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `ioctl(2)` of a barrier.

// UNSAFETY: what a number makes of its argument, only the one who has defined it knows.
#![expect(unsafe_code, reason = "ioctl(2)")]

use std::os::fd::{AsFd, AsRawFd};

use farwatch_proto::wire::abi::FARWATCH_IOC_SYNC;
use farwatch_proto::wire::sync;
use rustix::ioctl::{Opcode, Updater, ioctl};

use crate::Error;

/// Asks how far a barrier is. `argument` is the question, and then the answer (`farwatch_proto::wire::sync`).
/// On a file system that does not know the number it stays as it is.
///
/// # Errors
/// ENOTTY where there is no farwatch behind the file, and those of `docs/PROTOCOL.md`, section 9.
pub fn ioctl_sync(fd: impl AsFd, argument: &mut [u8; sync::LEN]) -> Result<(), Error> {
    let fd = fd.as_fd();
    // SAFETY: the number says itself (`_IOWR`) that the argument has `sync::LEN` bytes, which are read
    // and written; any bytes are sound in an array of them.
    let update = unsafe { Updater::<{ FARWATCH_IOC_SYNC as Opcode }, _>::new(argument) };
    // SAFETY: ioctl(2): "argp" points to the memory that the request tells of, which is borrowed for the
    // call; a file system that does not know the number touches nothing.
    let done = unsafe { ioctl(fd, update) };
    done.map_err(|source| Error::IoctlSync { fd: fd.as_raw_fd(), source })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn another_file_system_knows_no_barrier() {
        let mut argument = sync::ask(None);
        let error = ioctl_sync(File::open("/").unwrap(), &mut argument).unwrap_err();
        assert_eq!(error.errno(), Errno::NOTTY);
        assert_eq!(argument, sync::ask(None));
    }
}
