// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`is_reused`]: tells a shortage of memory from an inode number that is being used again.
//!
//! `open_by_handle_at(2)` gives ESTALE for a deleted file, and the guest's kernel then looks the name up again. But while
//! a program creates a file that gets the number of the deleted one, ext4 gives ENOMEM: `find_inode_fast()` refuses an
//! inode that is being created (I_CREATING), `iget_locked()` makes NULL of that, and `ext4_iget()` ENOMEM. With ENOMEM
//! the call of the program in the mount would fail, which no local directory does to it.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

/// How often an object is looked at. A creation is over in microseconds, if the program that makes it keeps its processor.
const LOOKS_MAX: u32 = 1000;
/// How long it is left alone in between.
const PAUSE: Duration = Duration::from_micros(100);

/// Whether `error` came of an object that is gone and whose inode number is being used again. `look` opens the object.
pub(super) fn is_reused(error: &io::Error, mut look: impl FnMut() -> io::Result<()>) -> bool {
    let is = |error: &io::Error, errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    if !is(error, Errno::NOMEM) {
        return false;
    }
    for _ in 0..LOOKS_MAX {
        match look() {
            Err(error) if is(&error, Errno::NOMEM) => thread::sleep(PAUSE),
            Err(error) => return is(&error, Errno::STALE),
            Ok(()) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(results: &[Result<(), Errno>]) -> bool {
        let mut results = results.iter().copied();
        let look = || results.next().expect("it ends by then").map_err(io::Error::from);
        is_reused(&Errno::NOMEM.into(), look)
    }

    #[test]
    fn reused_inode_number_is_told_from_a_shortage_of_memory() {
        assert!(looks(&[Err(Errno::STALE)]));
        assert!(looks(&[Err(Errno::NOMEM), Err(Errno::NOMEM), Err(Errno::STALE)]));
        assert!(!looks(&[Ok(())]));
        assert!(!looks(&[Err(Errno::NOMEM), Ok(())]));
        assert!(!looks(&[Err(Errno::MFILE)]));
        assert!(!looks(&[Err(Errno::NOMEM); LOOKS_MAX as usize]));
        assert!(!is_reused(&Errno::NOENT.into(), || panic!("it is not looked at")));
    }
}
