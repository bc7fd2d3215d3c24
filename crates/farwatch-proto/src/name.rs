// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Name`]: one directory entry's name, checked once and never again.

use std::borrow::Borrow;
use std::fmt;

use thiserror::Error;

use crate::bytes::Bytes;

/// The name of a directory entry: 1 to [`Name::LEN_MAX`] bytes, no NUL, no `/`, neither `.` nor `..`
/// (S4). The bytes need not be UTF-8. A short name is kept in place; clones of a long one share it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Bytes);

/// Why some bytes are not a [`Name`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NameError {
    /// No byte at all.
    #[error("name is empty")]
    Empty,
    /// Longer than NAME_MAX.
    #[error("name has {0} bytes, more than 255")]
    TooLong(usize),
    /// A NUL or a slash.
    #[error("name contains byte {0:#04x}")]
    BadByte(u8),
    /// `.` or `..`.
    #[error("name is a dot entry")]
    Dot,
}

impl Name {
    /// `NAME_MAX` of `limits.h`, without the NUL.
    pub const LEN_MAX: usize = 255;

    /// Checks and copies `bytes`.
    ///
    /// # Errors
    /// When `bytes` cannot be the name of an entry.
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes {
            [] => return Err(NameError::Empty),
            b"." | b".." => return Err(NameError::Dot),
            _ => {}
        }
        if bytes.len() > Self::LEN_MAX {
            return Err(NameError::TooLong(bytes.len()));
        }
        if let Some(&bad) = bytes.iter().find(|&&b| b == 0 || b == b'/') {
            return Err(NameError::BadByte(bad));
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes, without a NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_but_nul_and_slash_makes_a_name() {
        for b in 1..=255u8 {
            assert_eq!(Name::parse(&[b, b'x']).is_ok(), b != b'/', "{b}");
        }
        assert_eq!(Name::parse(b"a\0"), Err(NameError::BadByte(0)));
    }

    #[test]
    fn dots_the_empty_name_and_256_bytes_are_refused() {
        assert_eq!(Name::parse(b""), Err(NameError::Empty));
        assert_eq!(Name::parse(b"."), Err(NameError::Dot));
        assert_eq!(Name::parse(b".."), Err(NameError::Dot));
        assert!(Name::parse(b"...").is_ok());
        assert!(Name::parse(&[b'n'; 255]).is_ok());
        assert_eq!(Name::parse(&[b'n'; 256]), Err(NameError::TooLong(256)));
    }
}
