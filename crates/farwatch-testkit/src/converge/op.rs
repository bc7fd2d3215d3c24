// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Op`]: one operation of a process, as a value and as a line of text, and [`Actor`], which does it.
//!
//! Paths are relative to the directory of the trial. Every write appends a version that occurs once
//! in a trial, so that two states of a file never have the same content.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// `O_CREAT|O_EXCL`, one write of the version, close.
    Create(String, String),
    /// `O_APPEND`, one write of the version, close.
    Append(String, String),
    Unlink(String),
    Rename(String, String),
    /// `RENAME_EXCHANGE`.
    Exchange(String, String),
    Link(String, String),
    Mkdir(String),
    Rmdir(String),
    Symlink(String),
}

impl Op {
    /// The system call that the operation is named after.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Create(..) => "create",
            Self::Append(..) => "append",
            Self::Unlink(_) => "unlink",
            Self::Rename(..) => "rename",
            Self::Exchange(..) => "exchange",
            Self::Link(..) => "link",
            Self::Mkdir(_) => "mkdir",
            Self::Rmdir(_) => "rmdir",
            Self::Symlink(_) => "symlink",
        }
    }

    /// Reads what `Display` writes.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let one = |make: fn(String) -> Self, at: &str| make(at.to_owned());
        let two = |make: fn(String, String) -> Self, one: &str, two: &str| {
            make(one.to_owned(), two.to_owned())
        };
        Ok(match words[..] {
            ["create", at, version] => two(Self::Create, at, version),
            ["append", at, version] => two(Self::Append, at, version),
            ["unlink", at] => one(Self::Unlink, at),
            ["rename", from, to] => two(Self::Rename, from, to),
            ["exchange", from, to] => two(Self::Exchange, from, to),
            ["link", from, to] => two(Self::Link, from, to),
            ["mkdir", at] => one(Self::Mkdir, at),
            ["rmdir", at] => one(Self::Rmdir, at),
            ["symlink", at] => one(Self::Symlink, at),
            _ => bail!("not an operation: {line:?}"),
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = self.verb();
        match self {
            Self::Create(one, two)
            | Self::Append(one, two)
            | Self::Rename(one, two)
            | Self::Exchange(one, two)
            | Self::Link(one, two) => write!(f, "{verb} {one} {two}"),
            Self::Unlink(at) | Self::Mkdir(at) | Self::Rmdir(at) | Self::Symlink(at) => {
                write!(f, "{verb} {at}")
            }
        }
    }
}

/// A process that does operations below one directory.
#[derive(Debug)]
pub(super) struct Actor {
    base: OwnedFd,
}

impl Actor {
    /// An actor that works in `base`, on the host's side or in the mount.
    pub(super) fn new(base: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::openat(CWD, base, flags, Mode::empty())
            .with_context(|| base.display().to_string())?;
        Ok(Self { base })
    }

    /// Does the operation. An error is part of a trial: other processes work on the same names.
    pub(super) fn apply(&self, op: &Op) -> Result<(), Errno> {
        let base = &self.base;
        let all = Mode::from_raw_mode(0o755);
        match op {
            Op::Create(at, version) => {
                self.write(at, OFlags::CREATE | OFlags::EXCL, version.as_bytes())
            }
            Op::Append(at, version) => self.write(at, OFlags::APPEND, version.as_bytes()),
            Op::Unlink(at) => rustix::fs::unlinkat(base, at, AtFlags::empty()),
            Op::Rename(from, to) => rustix::fs::renameat(base, from, base, to),
            Op::Exchange(from, to) => {
                rustix::fs::renameat_with(base, from, base, to, RenameFlags::EXCHANGE)
            }
            Op::Link(from, to) => rustix::fs::linkat(base, from, base, to, AtFlags::empty()),
            Op::Mkdir(at) => rustix::fs::mkdirat(base, at, all),
            Op::Rmdir(at) => rustix::fs::unlinkat(base, at, AtFlags::REMOVEDIR),
            Op::Symlink(at) => rustix::fs::symlinkat("nowhere", base, at),
        }
    }

    /// The inode number of what a path leads to.
    pub(super) fn ino(&self, at: &str) -> Option<u64> {
        rustix::fs::statat(&self.base, at, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| stat.st_ino)
    }

    fn write(&self, at: &str, flags: OFlags, version: &[u8]) -> Result<(), Errno> {
        let flags = flags | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.base, at, flags, Mode::from_raw_mode(0o644))?;
        rustix::io::write(&file, version).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_is_read_as_it_was_written() {
        for line in ["create d0/n1 0.1;", "rename d0/n1 d1/n2", "rmdir d1/n0", "exchange a b"] {
            assert_eq!(Op::parse(line).unwrap().to_string(), line);
        }
        assert!(Op::parse("rename d0/n1").is_err());
    }
}
