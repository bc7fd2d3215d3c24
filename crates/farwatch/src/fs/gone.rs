// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`is_gone`]: which errors mean that an object is gone. The guest's kernel is then answered ESTALE, and looks the name
//! up again.
//!
//! `open_by_handle_at(2)` gives ESTALE for a deleted file. But while a program creates a file that gets the inode number
//! of the deleted one, ext4 gives ENOMEM: `find_inode_fast()` refuses an inode that is being created (I_CREATING),
//! `iget_locked()` makes NULL of that, and `ext4_iget()` ENOMEM. With ENOMEM the call of the program in the mount would
//! fail, which no local directory does to it.
//!
//! And virtiofsd gives an error without a number for what it did not find after a migration.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

/// How often an object is looked at. A creation is over in microseconds, if the program that makes it keeps its processor.
const LOOKS_MAX: u32 = 1000;
/// How long it is left alone in between.
const PAUSE: Duration = Duration::from_micros(100);

/// Whether `error` came of an object that is gone. `look` opens the object.
pub(super) fn is_gone(error: &io::Error, mut look: impl FnMut() -> io::Result<()>) -> bool {
    match Errno::from_io_error(error) {
        None => look().is_err_and(|error| Errno::from_io_error(&error).is_none()),
        Some(Errno::NOMEM) => {
            for _ in 0..LOOKS_MAX {
                match look().map_err(|error| Errno::from_io_error(&error)) {
                    Err(Some(Errno::NOMEM)) => thread::sleep(PAUSE),
                    looked => return looked == Err(Some(Errno::STALE)),
                }
            }
            false
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(results: &[Result<(), Errno>]) -> bool {
        let mut results = results.iter().copied();
        let look = || results.next().expect("it ends by then").map_err(io::Error::from);
        is_gone(&Errno::NOMEM.into(), look)
    }

    #[test]
    fn reused_inode_number_is_told_from_a_shortage_of_memory() {
        assert!(looks(&[Err(Errno::STALE)]));
        assert!(looks(&[Err(Errno::NOMEM), Err(Errno::NOMEM), Err(Errno::STALE)]));
        assert!(!looks(&[Ok(())]));
        assert!(!looks(&[Err(Errno::NOMEM), Ok(())]));
        assert!(!looks(&[Err(Errno::MFILE)]));
        assert!(!looks(&[Err(Errno::NOMEM); LOOKS_MAX as usize]));
        assert!(!is_gone(&Errno::NOENT.into(), || panic!("it is not looked at")));
    }

    #[test]
    fn object_that_a_migration_has_lost_is_told_from_another_error_of_the_library() {
        let of_library = || io::Error::other("an error of the library");
        assert!(is_gone(&of_library(), || Err(of_library())));
        assert!(!is_gone(&of_library(), || Ok(())));
        assert!(!is_gone(&of_library(), || Err(Errno::MFILE.into())));
    }
}
