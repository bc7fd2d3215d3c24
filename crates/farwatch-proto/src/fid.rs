// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Fid`]: how the host names an object to fanotify and to us.

use std::fmt;
use std::time::SystemTime;

use thiserror::Error;

use crate::bytes::Bytes;

/// fsid and file handle of a host object: what a `FAN_REPORT_FID` event carries, and what
/// `name_to_handle_at(2)` with `AT_HANDLE_FID` gives. Unique while the object lives, and after: a
/// file handle carries the inode's generation.
///
/// A short handle is kept in place, as those of the common file systems are; clones of a long one share it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fid {
    fsid: [u32; 2],
    handle_type: i32,
    handle: Bytes,
}

/// Why some bytes are not a [`Fid`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FidError {
    /// Longer than `MAX_HANDLE_SZ`.
    #[error("file handle has {0} bytes, more than 128")]
    TooLong(usize),
}

impl Fid {
    /// `MAX_HANDLE_SZ` of `fcntl.h`.
    pub const HANDLE_LEN_MAX: usize = 128;

    /// No file handle has this type: `FILEID_INVALID` and up are 8 bits wide in the kernel.
    const TYPE_OF_INODE: i32 = -1;

    /// From the parts of a file handle; `fsid` is `statfs.f_fsid`, low word first.
    ///
    /// # Errors
    /// When the handle is longer than a kernel ever makes one.
    pub fn new(fsid: [u32; 2], handle_type: i32, handle: &[u8]) -> Result<Self, FidError> {
        if handle.len() > Self::HANDLE_LEN_MAX {
            return Err(FidError::TooLong(handle.len()));
        }
        Ok(Self { fsid, handle_type, handle: handle.into() })
    }

    /// A name for an object of a file system that has no file handles: device and inode number, and
    /// the time of its birth where the file system knows it, since the number of an object that is
    /// gone is given to another. For inotify, which reports no names of its own.
    pub fn of_inode(dev: u64, ino: u64, born: Option<SystemTime>) -> Self {
        let born = born.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        // Enough until the year 2554.
        let born = u64::try_from(born.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        let handle = Bytes::from(&[ino.to_ne_bytes(), born.to_ne_bytes()].concat()[..]);
        // No cast loses anything: these are the two halves.
        let fsid = [dev, dev >> 32].map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
        Self { fsid, handle_type: Self::TYPE_OF_INODE, handle }
    }

    /// `statfs.f_fsid`, low word first.
    pub fn fsid(&self) -> [u32; 2] {
        self.fsid
    }

    /// `file_handle.handle_type`.
    pub fn handle_type(&self) -> i32 {
        self.handle_type
    }

    /// `file_handle.f_handle`.
    pub fn handle(&self) -> &[u8] {
        self.handle.as_slice()
    }
}

impl fmt::Debug for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fid {:x}.{:x}/{:x}:", self.fsid[0], self.fsid[1], self.handle_type)?;
        self.handle().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
