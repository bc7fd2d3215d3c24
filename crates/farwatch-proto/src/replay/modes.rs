// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Times`] and [`OpenMode`]: what calls and requests have in common, as both sides write it.

use crate::Mask;

/// The times that a replay sets to now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Times {
    /// The mtime alone: the kernel raises MODIFY.
    Mtime,
    /// The atime and the mtime: the kernel raises ATTRIB.
    Both,
}

impl Times {
    // `FATTR_*` of `include/uapi/linux/fuse.h`.
    const FATTR_ATIME: u32 = 1 << 4;
    const FATTR_MTIME: u32 = 1 << 5;
    const FATTR_ATIME_NOW: u32 = 1 << 7;
    const FATTR_MTIME_NOW: u32 = 1 << 8;

    /// From `valid` of a `fuse_setattr_in`. `None` if it sets anything else, or the atime alone, which no
    /// replay does.
    pub const fn from_fattr(valid: u32) -> Option<Self> {
        let atime = Self::FATTR_ATIME | Self::FATTR_ATIME_NOW;
        let mtime = Self::FATTR_MTIME | Self::FATTR_MTIME_NOW;
        if valid & !(atime | mtime) != 0 || valid & Self::FATTR_MTIME == 0 {
            None
        } else if valid & atime == 0 {
            Some(Self::Mtime)
        } else {
            Some(Self::Both)
        }
    }

    /// The event that the kernel raises (`fsnotify_change()`).
    pub const fn event(self) -> Mask {
        match self {
            Self::Mtime => Mask::MODIFY,
            Self::Both => Mask::ATTRIB,
        }
    }
}

/// The mode in which a replay opens a file. The kernel raises OPEN, and the mode settles what the close
/// raises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// `O_RDONLY`, also of a directory.
    Read,
    /// `O_WRONLY`
    Write,
    /// `O_RDWR`
    ReadWrite,
}

impl OpenMode {
    // `include/uapi/asm-generic/fcntl.h`, which x86, Arm and RISC-V use.
    const O_ACCMODE: u32 = 0o3;
    const O_WRONLY: u32 = 0o1;
    const O_RDWR: u32 = 0o2;
    const O_CREAT: u32 = 0o100;
    const O_EXCL: u32 = 0o200;
    const O_TRUNC: u32 = 0o1000;
    const O_APPEND: u32 = 0o2000;

    /// From `flags` of a `fuse_open_in`. `None` if the open would do more than open, which no replay does.
    pub const fn from_flags(flags: u32) -> Option<Self> {
        if flags & (Self::O_CREAT | Self::O_TRUNC | Self::O_APPEND) != 0 {
            return None;
        }
        match flags & Self::O_ACCMODE {
            0 => Some(Self::Read),
            Self::O_WRONLY => Some(Self::Write),
            Self::O_RDWR => Some(Self::ReadWrite),
            _ => None,
        }
    }

    /// From `flags` of a `fuse_create_in`. `None` unless it makes a file that was not there and does nothing else.
    pub const fn from_create_flags(flags: u32) -> Option<Self> {
        const EXCLUSIVE: u32 = OpenMode::O_CREAT | OpenMode::O_EXCL;
        if flags & EXCLUSIVE == EXCLUSIVE { Self::from_flags(flags & !EXCLUSIVE) } else { None }
    }

    /// The access mode of `open(2)`.
    pub const fn flags(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => Self::O_WRONLY,
            Self::ReadWrite => Self::O_RDWR,
        }
    }

    /// Whether a file that was opened so can be written.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setattr_of_times_alone_is_taken_for_one_of_the_two() {
        for (valid, times) in [
            (1 << 5, Some(Times::Mtime)),
            (1 << 5 | 1 << 8, Some(Times::Mtime)),
            (1 << 5 | 1 << 4, Some(Times::Both)),
            (1 << 5 | 1 << 8 | 1 << 4 | 1 << 7, Some(Times::Both)),
            (1 << 4 | 1 << 7, None),
            (1 << 8, None),
            (0, None),
        ] {
            assert_eq!(Times::from_fattr(valid), times, "{valid:#x}");
            for more in [0, 1, 2, 3, 6, 9, 10, 11, 31] {
                assert_eq!(Times::from_fattr(valid | 1 << more), None, "{valid:#x} and bit {more}");
            }
        }
    }

    #[test]
    fn open_that_creates_truncates_or_appends_has_no_mode() {
        for mode in [OpenMode::Read, OpenMode::Write, OpenMode::ReadWrite] {
            let nonblock = 0o4000;
            assert_eq!(OpenMode::from_flags(mode.flags() | nonblock), Some(mode));
            for more in [0o100, 0o1000, 0o2000] {
                assert_eq!(OpenMode::from_flags(mode.flags() | more), None, "{mode:?} {more:#o}");
            }
        }
        assert_eq!(OpenMode::from_flags(3), None);
    }

    #[test]
    fn create_that_is_not_exclusive_or_truncates_or_appends_has_no_mode() {
        for mode in [OpenMode::Read, OpenMode::Write, OpenMode::ReadWrite] {
            let flags = mode.flags() | 0o100 | 0o200;
            assert_eq!(OpenMode::from_create_flags(flags | 0o4000), Some(mode));
            for less in [0o100, 0o200] {
                assert_eq!(OpenMode::from_create_flags(flags & !less), None, "{mode:?} {less:#o}");
            }
            for more in [0o1000, 0o2000] {
                assert_eq!(OpenMode::from_create_flags(flags | more), None, "{mode:?} {more:#o}");
            }
        }
    }
}
