// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`FileKind`]: what sort of object an event is about.

/// The type of a file, with the numbers of `DT_*` (`readdir(3)`), which are `S_IFMT >> 12`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum FileKind {
    /// `DT_UNKNOWN`: not looked at. Anything but a directory.
    #[default]
    Unknown,
    /// `DT_FIFO`
    Fifo,
    /// `DT_CHR`
    CharDevice,
    /// `DT_DIR`
    Directory,
    /// `DT_BLK`
    BlockDevice,
    /// `DT_REG`
    Regular,
    /// `DT_LNK`
    Symlink,
    /// `DT_SOCK`
    Socket,
}

impl FileKind {
    /// `S_IFMT` of `inode(7)`.
    const S_IFMT: u32 = 0o170_000;

    /// From a `DT_*` number; `None` for one that Linux does not have.
    pub const fn from_dt(dt: u32) -> Option<Self> {
        Some(match dt {
            0 => Self::Unknown,
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// From `st_mode`.
    pub const fn from_mode(mode: u32) -> Self {
        match Self::from_dt((mode & Self::S_IFMT) >> 12) {
            Some(kind) => kind,
            None => Self::Unknown,
        }
    }

    /// The `DT_*` number.
    pub const fn dt(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Fifo => 1,
            Self::CharDevice => 2,
            Self::Directory => 4,
            Self::BlockDevice => 6,
            Self::Regular => 8,
            Self::Symlink => 10,
            Self::Socket => 12,
        }
    }

    /// The file type bits of `st_mode`.
    pub const fn mode(self) -> u32 {
        self.dt() << 12
    }
}
