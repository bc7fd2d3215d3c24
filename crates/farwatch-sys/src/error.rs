// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`enum@Error`]: which system call failed, and what it was asked to do.

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use thiserror::Error;

/// A system call that failed, with its arguments. A descriptor is shown by its number, the caller
/// knows what it opened.
#[derive(Debug, Error)]
pub enum Error {
    /// `fanotify_init(2)`
    #[error("fanotify_init({flags:#x})")]
    FanotifyInit {
        /// `FAN_*` of the call.
        flags: u32,
        /// What the kernel said.
        source: Errno,
    },
    /// `fanotify_mark(2)`
    #[error("fanotify_mark({flags:#x}, {mask:#x}, fd {dir})")]
    FanotifyMark {
        /// `FAN_MARK_*` of the call.
        flags: u32,
        /// The events.
        mask: u64,
        /// The directory.
        dir: RawFd,
        /// What the kernel said.
        source: Errno,
    },
    /// `name_to_handle_at(2)`
    #[error("name_to_handle_at(fd {fd}, {flags:#x})")]
    NameToHandleAt {
        /// The object.
        fd: RawFd,
        /// `AT_*` of the call.
        flags: c_int,
        /// What the kernel said.
        source: Errno,
    },
    /// `open_by_handle_at(2)`
    #[error("open_by_handle_at(fd {mount}, type {handle_type:#x}, {len} bytes, {flags:#x})")]
    OpenByHandleAt {
        /// An object of the mounted file system.
        mount: RawFd,
        /// `file_handle.handle_type`.
        handle_type: i32,
        /// `file_handle.handle_bytes`.
        len: usize,
        /// `O_*` of the call.
        flags: u32,
        /// What the kernel said.
        source: Errno,
    },
    /// `fstatfs(2)`
    #[error("fstatfs(fd {fd})")]
    Fstatfs {
        /// The object.
        fd: RawFd,
        /// What the kernel said.
        source: Errno,
    },
    /// `statx(2)`
    #[error("statx(fd {fd})")]
    Statx {
        /// The object.
        fd: RawFd,
        /// What the kernel said.
        source: Errno,
    },
    /// `mount_setattr(2)`
    #[error("mount_setattr(fd {fd})")]
    MountSetattr {
        /// The root of the mount.
        fd: RawFd,
        /// What the kernel said.
        source: Errno,
    },
    /// `ioctl(2)` of a barrier
    #[error("ioctl(fd {fd}, FARWATCH_IOC_SYNC)")]
    IoctlSync {
        /// Some file.
        fd: RawFd,
        /// What the kernel said.
        source: Errno,
    },
    /// `setfsuid(2)`, which reports no error of its own.
    #[error("setfsuid({0}) had no effect")]
    SetFsuid(u32),
    /// `setfsgid(2)`, which reports no error of its own.
    #[error("setfsgid({0}) had no effect")]
    SetFsgid(u32),
    /// `capget(2)` of the calling thread.
    #[error("capget")]
    Capget(#[source] Errno),
    /// `capset(2)` of the calling thread.
    #[error("capset(effective {effective:?})")]
    Capset {
        /// The effective set that was asked for.
        effective: CapabilitySet,
        /// What the kernel said.
        source: Errno,
    },
    /// `unshare(2)`
    #[error("unshare({flags})")]
    Unshare {
        /// `CLONE_*` of the call.
        flags: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl Error {
    /// The error number, for an answer to the guest or for a decision. A set*id call without effect
    /// is EPERM, as its man page wishes it were.
    pub fn errno(&self) -> Errno {
        match self {
            Self::FanotifyInit { source, .. }
            | Self::FanotifyMark { source, .. }
            | Self::NameToHandleAt { source, .. }
            | Self::OpenByHandleAt { source, .. }
            | Self::Fstatfs { source, .. }
            | Self::Statx { source, .. }
            | Self::MountSetattr { source, .. }
            | Self::IoctlSync { source, .. }
            | Self::Capget(source)
            | Self::Capset { source, .. }
            | Self::Unshare { source, .. } => *source,
            Self::SetFsuid(_) | Self::SetFsgid(_) => Errno::PERM,
        }
    }

    /// True when a limit of the user was reached that an administrator can raise:
    /// `fs.fanotify.max_user_marks` (ENOSPC of `fanotify_mark(2)`), or `fs.fanotify.max_user_groups`
    /// or RLIMIT_NOFILE (EMFILE of `fanotify_init(2)`).
    pub fn is_limit(&self) -> bool {
        matches!(
            self,
            Self::FanotifyMark { source: Errno::NOSPC, .. }
                | Self::FanotifyInit { source: Errno::MFILE, .. }
        )
    }
}

/// The errno of a C function that returned -1.
pub(crate) fn check<T: From<i8> + PartialEq>(ret: T) -> Result<T, Errno> {
    if ret != T::from(-1) {
        return Ok(ret);
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_space_for_a_mark_is_a_limit_and_a_missing_permission_is_not() {
        let error = |source| Error::FanotifyMark { flags: 0, mask: 0, dir: 3, source };
        assert!(error(Errno::NOSPC).is_limit());
        assert!(!error(Errno::PERM).is_limit());
    }

    #[test]
    fn the_text_shows_the_arguments_and_leaves_the_errno_to_the_source() {
        let error = Error::FanotifyMark { flags: 9, mask: 0x100, dir: 3, source: Errno::NOSPC };
        assert_eq!(error.to_string(), "fanotify_mark(0x9, 0x100, fd 3)");
    }
}
