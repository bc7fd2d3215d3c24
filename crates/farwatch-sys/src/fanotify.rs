// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Fanotify`]: a fanotify group whose events name objects by file handle.
//!
//! It opens the best group that kernel and user allow, sets marks and reads bytes; [`records`] makes
//! sense of the bytes. It keeps no list of what is marked, and it never sees a path. The host's
//! watcher and `farwatch doctor` call it.
//!
//! Without CAP_SYS_ADMIN (Linux 5.13 and later) a group can mark inodes only, its queue and its
//! marks are limited, and events of other processes carry pid 0 (`fanotify_init(2)`).

// UNSAFETY: no crate that is used here wraps fanotify with info records.
#![expect(unsafe_code, reason = "fanotify_init(2) and fanotify_mark(2) are C functions")]

mod record;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

pub use self::record::{DirRecord, EVENT_LEN_MAX, Record, RecordError, Records, records};
use crate::error::{Error, check};

/// The marked directory itself was deleted. (The other bits are those of [`farwatch_proto::Mask`].)
pub const FAN_DELETE_SELF: u64 = libc::FAN_DELETE_SELF;
/// The marked directory itself got another name.
pub const FAN_MOVE_SELF: u64 = libc::FAN_MOVE_SELF;
/// The queue was full and events are missing. Reported, never asked for.
pub const FAN_Q_OVERFLOW: u64 = libc::FAN_Q_OVERFLOW;
/// Asks for events of the directory's entries too.
pub const FAN_EVENT_ON_CHILD: u64 = libc::FAN_EVENT_ON_CHILD;
/// A rename as one event with both names; to be asked for if [`Level::rename`].
pub const FAN_RENAME: u64 = libc::FAN_RENAME;
/// Asks for events about directories too, and says in an event that it is about one.
pub const FAN_ONDIR: u64 = libc::FAN_ONDIR;

/// What kernel and user allow a group to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level {
    /// No limit on queue and marks: the caller has CAP_SYS_ADMIN in the first user namespace. Only
    /// then are whole file systems marked and pids of other processes shown.
    pub unlimited: bool,
    /// Events about an entry carry the file handle of the object too (`FAN_REPORT_TARGET_FID`,
    /// Linux 5.17 and some older stable kernels).
    pub target_fid: bool,
    /// [`FAN_RENAME`] can be marked (Linux 5.17 and some older stable kernels).
    pub rename: bool,
}

/// A fanotify group. Dropping it removes its marks.
#[derive(Debug)]
pub struct Fanotify {
    fd: OwnedFd,
    level: Level,
}

impl Fanotify {
    /// Opens a group that reads without blocking, at the highest [`Level`] there is.
    ///
    /// # Errors
    /// When there is no fanotify (ENOSYS), none for this user (EPERM before Linux 5.13), or no
    /// further group ([`Error::is_limit`]).
    pub fn open() -> Result<Self, Error> {
        let mut level = Level { unlimited: true, target_fid: true, rename: false };
        let fd = loop {
            let flags = init_flags(level);
            // fanotify_init(2): EPERM "the caller lacks a required capability", EINVAL "an invalid
            // value was passed in flags".
            match init(flags) {
                Ok(fd) => break fd,
                Err(Errno::PERM) if level.unlimited => level.unlimited = false,
                Err(Errno::INVAL) if level.target_fid => level.target_fid = false,
                Err(source) => return Err(Error::FanotifyInit { flags, source }),
            }
        };
        level.rename = knows_rename(fd.as_fd());
        Ok(Self { fd, level })
    }

    /// What the group can do.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Adds `mask` to what is reported about `dir`. The descriptor may be one of `O_PATH`, and the
    /// mark stays when it is closed; it pins the inode. Needs read and search permission.
    ///
    /// # Errors
    /// [`Error::is_limit`] when the user has too many marks; ENOTDIR, ENODEV or EOPNOTSUPP when
    /// `dir` is no directory or its file system has no fsid or file handles; EINVAL when the kernel
    /// does not know an event.
    pub fn mark(&self, dir: BorrowedFd<'_>, mask: u64) -> Result<(), Error> {
        self.change(libc::FAN_MARK_ADD | libc::FAN_MARK_INODE | libc::FAN_MARK_ONLYDIR, dir, mask)
    }

    /// Takes `mask` from what is reported about `dir`; the mark is gone when nothing is left of it.
    /// Events already in the queue stay there.
    ///
    /// # Errors
    /// ENOENT when `dir` is not marked.
    pub fn unmark(&self, dir: BorrowedFd<'_>, mask: u64) -> Result<(), Error> {
        self.change(
            libc::FAN_MARK_REMOVE | libc::FAN_MARK_INODE | libc::FAN_MARK_ONLYDIR,
            dir,
            mask,
        )
    }

    /// Removes every inode mark (`FAN_MARK_FLUSH`). Events already in the queue stay there.
    ///
    /// # Errors
    /// None that a healthy system gives.
    pub fn unmark_all(&self) -> Result<(), Error> {
        // The kernel looks at no object then, but the call has to name one.
        self.change(libc::FAN_MARK_FLUSH | libc::FAN_MARK_INODE, rustix::fs::CWD, 0)
    }

    /// Reads as many whole events as are there and fit, for [`records`]; 0 when there are none.
    ///
    /// # Errors
    /// EINVAL when the next event does not fit, which [`EVENT_LEN_MAX`] bytes prevent.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(&self.fd, buf) {
            Err(Errno::AGAIN) => Ok(0),
            read => Ok(read?),
        }
    }

    /// How many events wait to be read. The kernel counts each with the size of its fixed part
    /// (`fanotify_ioctl()`).
    pub fn queued(&self) -> u64 {
        let len = rustix::io::ioctl_fionread(&self.fd).unwrap_or(u64::MAX);
        len.div_ceil(size_of::<libc::fanotify_event_metadata>() as u64)
    }

    fn change(&self, flags: u32, dir: BorrowedFd<'_>, mask: u64) -> Result<(), Error> {
        // The name "." and not a null pointer, which would refuse an O_PATH descriptor; and not
        // /proc/self/fd, which a sandbox may lack and which is wrong in a thread with its own
        // descriptor table.
        // SAFETY: fanotify_mark(2) reads "pathname", here a C string that lives for ever, and
        // changes no memory of the caller; both descriptors are borrowed, hence open.
        let ret = unsafe {
            libc::fanotify_mark(self.fd.as_raw_fd(), flags, mask, dir.as_raw_fd(), c".".as_ptr())
        };
        match check(ret) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::FanotifyMark { flags, mask, dir: dir.as_raw_fd(), source }),
        }
    }
}

impl AsFd for Fanotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn init_flags(level: Level) -> u32 {
    let mut flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    flags |= libc::FAN_REPORT_FID | libc::FAN_REPORT_DFID_NAME;
    if level.target_fid {
        flags |= libc::FAN_REPORT_TARGET_FID;
    }
    if level.unlimited {
        flags |= libc::FAN_UNLIMITED_QUEUE | libc::FAN_UNLIMITED_MARKS;
    }
    flags
}

fn init(flags: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: fanotify_init(2) takes two integers and touches no memory of the caller. event_f_flags
    // is 0: no event carries a descriptor in a group that reports file handles.
    let fd = check(unsafe { libc::fanotify_init(flags, 0) })?;
    // SAFETY: fanotify_init(2): "On success, fanotify_init() returns a new file descriptor", which
    // nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks for a mark on no object at all. `do_fanotify_mark()` checks the mask before it looks at the
/// object, so EINVAL says that the event is not known, and EBADF that only the object is missing.
fn knows_rename(group: BorrowedFd<'_>) -> bool {
    // SAFETY: fanotify_mark(2): "If pathname is NULL, dirfd defines the filesystem object to be
    // marked", and -1 defines none; no memory of the caller is touched.
    let ret = unsafe {
        libc::fanotify_mark(group.as_raw_fd(), libc::FAN_MARK_ADD, FAN_RENAME, -1, ptr::null())
    };
    check(ret) != Err(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_event_is_distinguished_from_a_missing_object() {
        let group = Fanotify::open().unwrap();
        let unknown = 1 << 31;
        // SAFETY: as in knows_rename().
        let ret = unsafe {
            libc::fanotify_mark(group.fd.as_raw_fd(), libc::FAN_MARK_ADD, unknown, -1, ptr::null())
        };
        assert_eq!(check(ret), Err(Errno::INVAL));
        // SAFETY: as in knows_rename().
        let ret = unsafe {
            let mask = libc::FAN_MODIFY;
            libc::fanotify_mark(group.fd.as_raw_fd(), libc::FAN_MARK_ADD, mask, -1, ptr::null())
        };
        assert_eq!(check(ret), Err(Errno::BADF));
    }
}
