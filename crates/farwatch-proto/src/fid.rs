// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Fid`]: how the host names an object to fanotify and to us.

use std::fmt;

use thiserror::Error;

/// fsid and file handle of a host object: what a `FAN_REPORT_FID` event carries, and what
/// `name_to_handle_at(2)` with `AT_HANDLE_FID` gives. Unique while the object lives, and after: a
/// file handle carries the inode's generation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fid {
    fsid: [u32; 2],
    handle_type: i32,
    handle: Box<[u8]>,
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
        &self.handle
    }
}

impl fmt::Debug for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fid {:x}.{:x}/{:x}:", self.fsid[0], self.fsid[1], self.handle_type)?;
        self.handle.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
