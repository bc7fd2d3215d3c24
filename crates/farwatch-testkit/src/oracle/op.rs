// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Op`]: one operation on a tree of files, as a value and as a line of text, so that a failing run
//! can be written down, cut smaller and kept.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use crate::vm::line;

/// Paths are relative to the directory of the run; those below [`OUTSIDE`] are not shared. A slot is a place for an open file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the system calls")]
pub enum Op {
    /// O_CREAT and O_EXCL, and close.
    Create(PathBuf),
    Mkdir(PathBuf),
    Mkfifo(PathBuf),
    Symlink(PathBuf),
    /// From the first to the second.
    Link(PathBuf, PathBuf),
    Unlink(PathBuf),
    Rmdir(PathBuf),
    Rename(PathBuf, PathBuf),
    RenameNoreplace(PathBuf, PathBuf),
    RenameExchange(PathBuf, PathBuf),
    /// O_WRONLY and O_APPEND into a slot.
    Open(u8, PathBuf),
    /// O_WRONLY and O_TRUNC into a slot.
    OpenTruncate(u8, PathBuf),
    /// O_TMPFILE in a directory, into a slot.
    OpenTmpfile(u8, PathBuf),
    /// Names what a slot holds.
    LinkSlot(u8, PathBuf),
    Write(u8),
    Fallocate(u8),
    TruncateSlot(u8),
    /// copy_file_range from a file.
    CopyTo(u8, PathBuf),
    Fchmod(u8, u16),
    Close(u8),
    /// Open, ftruncate and close.
    Truncate(PathBuf),
    Chmod(PathBuf, u16),
    Chown(PathBuf, u32),
    Touch(PathBuf),
    TouchMtime(PathBuf),
    TouchAtime(PathBuf),
    Setxattr(PathBuf),
    Removexattr(PathBuf),
    /// Reads what is there, and changes nothing.
    Stat(PathBuf),
    List(PathBuf),
    /// A watch on a file; the recorders do this.
    Watch(PathBuf),
}

/// How a path begins that is not below the directory of the run.
pub const OUTSIDE: &str = "../outside";

/// Slots of one process. Those from here up are for a program in the mount.
pub(super) const SLOTS: u8 = 4;

/// The extended attribute that is set and removed.
const ATTRIBUTE: &str = "user.oracle";

impl Op {
    fn words(&self) -> (&'static str, Vec<OsString>) {
        let path = |path: &PathBuf| vec![path.clone().into_os_string()];
        let two = |one: &PathBuf, two: &PathBuf| [path(one), path(two)].concat();
        let slot = |slot: &u8| vec![OsString::from(slot.to_string())];
        match self {
            Self::Create(at) => ("create", path(at)),
            Self::Mkdir(at) => ("mkdir", path(at)),
            Self::Mkfifo(at) => ("mkfifo", path(at)),
            Self::Symlink(at) => ("symlink", path(at)),
            Self::Link(from, to) => ("link", two(from, to)),
            Self::Unlink(at) => ("unlink", path(at)),
            Self::Rmdir(at) => ("rmdir", path(at)),
            Self::Rename(from, to) => ("rename", two(from, to)),
            Self::RenameNoreplace(from, to) => ("rename-noreplace", two(from, to)),
            Self::RenameExchange(from, to) => ("rename-exchange", two(from, to)),
            Self::Open(n, at) => ("open", [slot(n), path(at)].concat()),
            Self::OpenTruncate(n, at) => ("open-truncate", [slot(n), path(at)].concat()),
            Self::OpenTmpfile(n, at) => ("open-tmpfile", [slot(n), path(at)].concat()),
            Self::LinkSlot(n, at) => ("link-slot", [slot(n), path(at)].concat()),
            Self::Write(n) => ("write", slot(n)),
            Self::Fallocate(n) => ("fallocate", slot(n)),
            Self::TruncateSlot(n) => ("truncate-slot", slot(n)),
            Self::CopyTo(n, from) => ("copy-to", [slot(n), path(from)].concat()),
            Self::Fchmod(n, mode) => {
                ("fchmod", [slot(n), vec![format!("{mode:o}").into()]].concat())
            }
            Self::Close(n) => ("close", slot(n)),
            Self::Truncate(at) => ("truncate", path(at)),
            Self::Chmod(at, mode) => {
                ("chmod", [path(at), vec![format!("{mode:o}").into()]].concat())
            }
            Self::Chown(at, id) => ("chown", [path(at), vec![id.to_string().into()]].concat()),
            Self::Touch(at) => ("touch", path(at)),
            Self::TouchMtime(at) => ("touch-mtime", path(at)),
            Self::TouchAtime(at) => ("touch-atime", path(at)),
            Self::Setxattr(at) => ("setxattr", path(at)),
            Self::Removexattr(at) => ("removexattr", path(at)),
            Self::Stat(at) => ("stat", path(at)),
            Self::List(at) => ("list", path(at)),
            Self::Watch(at) => ("watch", path(at)),
        }
    }

    /// The same operation elsewhere.
    pub(super) fn with_paths(&self, mut change: impl FnMut(&Path) -> PathBuf) -> Self {
        let mut op = self.clone();
        match &mut op {
            Self::Link(one, two)
            | Self::Rename(one, two)
            | Self::RenameNoreplace(one, two)
            | Self::RenameExchange(one, two) => {
                *one = change(one);
                *two = change(two);
            }
            Self::Write(_) | Self::Fallocate(_) | Self::TruncateSlot(_) => {}
            Self::Fchmod(..) | Self::Close(_) => {}
            Self::Create(path)
            | Self::Mkdir(path)
            | Self::Mkfifo(path)
            | Self::Symlink(path)
            | Self::Unlink(path)
            | Self::Rmdir(path)
            | Self::Open(_, path)
            | Self::OpenTruncate(_, path)
            | Self::OpenTmpfile(_, path)
            | Self::LinkSlot(_, path)
            | Self::CopyTo(_, path)
            | Self::Truncate(path)
            | Self::Chmod(path, _)
            | Self::Chown(path, _)
            | Self::Touch(path)
            | Self::TouchMtime(path)
            | Self::TouchAtime(path)
            | Self::Setxattr(path)
            | Self::Removexattr(path)
            | Self::Stat(path)
            | Self::List(path)
            | Self::Watch(path) => *path = change(path),
        }
        op
    }

    /// Reads what [`Op`]'s `Display` writes.
    pub fn parse(text: &str) -> Result<Self> {
        let words = line::decode(text)?;
        let (verb, args) = words.split_first().context("an empty line is no operation")?;
        let verb = verb.to_string_lossy();
        Self::from_words(&verb, args).with_context(|| format!("no operation: {text}"))
    }

    fn from_words(verb: &str, args: &[OsString]) -> Result<Self> {
        let path = |nth: usize| args.get(nth).map(PathBuf::from).context("a path is missing");
        let slot = || number(args.first(), 10).and_then(|n| Ok(u8::try_from(n)?));
        let octal = |nth: usize| number(args.get(nth), 8).and_then(|n| Ok(u16::try_from(n)?));
        Ok(match verb {
            "create" => Self::Create(path(0)?),
            "mkdir" => Self::Mkdir(path(0)?),
            "mkfifo" => Self::Mkfifo(path(0)?),
            "symlink" => Self::Symlink(path(0)?),
            "link" => Self::Link(path(0)?, path(1)?),
            "unlink" => Self::Unlink(path(0)?),
            "rmdir" => Self::Rmdir(path(0)?),
            "rename" => Self::Rename(path(0)?, path(1)?),
            "rename-noreplace" => Self::RenameNoreplace(path(0)?, path(1)?),
            "rename-exchange" => Self::RenameExchange(path(0)?, path(1)?),
            "open" => Self::Open(slot()?, path(1)?),
            "open-truncate" => Self::OpenTruncate(slot()?, path(1)?),
            "open-tmpfile" => Self::OpenTmpfile(slot()?, path(1)?),
            "link-slot" => Self::LinkSlot(slot()?, path(1)?),
            "write" => Self::Write(slot()?),
            "fallocate" => Self::Fallocate(slot()?),
            "truncate-slot" => Self::TruncateSlot(slot()?),
            "copy-to" => Self::CopyTo(slot()?, path(1)?),
            "fchmod" => Self::Fchmod(slot()?, octal(1)?),
            "close" => Self::Close(slot()?),
            "truncate" => Self::Truncate(path(0)?),
            "chmod" => Self::Chmod(path(0)?, octal(1)?),
            "chown" => Self::Chown(path(0)?, number(args.get(1), 10)?),
            "touch" => Self::Touch(path(0)?),
            "touch-mtime" => Self::TouchMtime(path(0)?),
            "touch-atime" => Self::TouchAtime(path(0)?),
            "setxattr" => Self::Setxattr(path(0)?),
            "removexattr" => Self::Removexattr(path(0)?),
            "stat" => Self::Stat(path(0)?),
            "list" => Self::List(path(0)?),
            "watch" => Self::Watch(path(0)?),
            _ => bail!("unknown"),
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, args) = self.words();
        let words = [OsStr::new(verb)].into_iter().chain(args.iter().map(OsString::as_os_str));
        f.write_str(&line::encode(words))
    }
}

fn number(word: Option<&OsString>, radix: u32) -> Result<u32> {
    let word = word.context("a number is missing")?.to_string_lossy().into_owned();
    u32::from_str_radix(&word, radix).with_context(|| format!("no number: {word}"))
}

/// A process that does operations below one directory.
#[derive(Debug)]
pub struct Actor {
    base: PathBuf,
    outside: PathBuf,
    open: BTreeMap<u8, OwnedFd>,
}

impl Actor {
    /// One that works in `base`, where what is in [`OUTSIDE`] is to be found in `outside`.
    pub fn new(base: &Path, outside: &Path) -> Self {
        let (base, outside) = (base.to_owned(), outside.to_owned());
        Self { base, outside, open: BTreeMap::new() }
    }

    fn at(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(OUTSIDE) {
            Ok(beside) => self.outside.join(beside),
            Err(_) => self.base.join(path),
        }
    }

    fn slot(&self, slot: u8) -> Result<&OwnedFd, Errno> {
        self.open.get(&slot).ok_or(Errno::BADF)
    }

    /// Does it. The error is the kernel's; to fail is part of a run.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn apply(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Create(_)
            | Op::Mkdir(_)
            | Op::Mkfifo(_)
            | Op::Symlink(_)
            | Op::Link(..)
            | Op::Unlink(_)
            | Op::Rmdir(_)
            | Op::Rename(..)
            | Op::RenameNoreplace(..)
            | Op::RenameExchange(..) => self.change_names(op),
            Op::Open(..)
            | Op::OpenTruncate(..)
            | Op::OpenTmpfile(..)
            | Op::LinkSlot(..)
            | Op::Write(_)
            | Op::Fallocate(_)
            | Op::TruncateSlot(_)
            | Op::CopyTo(..)
            | Op::Fchmod(..)
            | Op::Close(_) => self.use_slot(op),
            Op::Stat(path) => rustix::fs::lstat(self.at(path)).map(drop),
            Op::List(path) => {
                let entries = std::fs::read_dir(self.at(path));
                let listed = entries.map(|entries| entries.for_each(drop));
                listed.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
            Op::Watch(_) => Ok(()),
            _ => self.change_attributes(op),
        }
    }

    fn change_names(&self, op: &Op) -> Result<(), Errno> {
        let all = Mode::from_raw_mode(0o755);
        let rename = |from: &PathBuf, to: &PathBuf, flags| {
            rustix::fs::renameat_with(CWD, self.at(from), CWD, self.at(to), flags)
        };
        match op {
            Op::Create(path) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::open(self.at(path), flags, Mode::from_raw_mode(0o644)).map(drop)
            }
            Op::Mkdir(path) => rustix::fs::mkdir(self.at(path), all),
            Op::Mkfifo(path) => rustix::fs::mknodat(CWD, self.at(path), FileType::Fifo, all, 0),
            Op::Symlink(path) => rustix::fs::symlink("nowhere", self.at(path)),
            Op::Link(from, to) => rustix::fs::link(self.at(from), self.at(to)),
            Op::Unlink(path) => rustix::fs::unlink(self.at(path)),
            Op::Rmdir(path) => rustix::fs::rmdir(self.at(path)),
            Op::Rename(from, to) => rename(from, to, RenameFlags::empty()),
            Op::RenameNoreplace(from, to) => rename(from, to, RenameFlags::NOREPLACE),
            Op::RenameExchange(from, to) => rename(from, to, RenameFlags::EXCHANGE),
            _ => Err(Errno::INVAL),
        }
    }

    fn use_slot(&mut self, op: &Op) -> Result<(), Errno> {
        let write = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut open = |slot: u8, path: &PathBuf, flags: OFlags| {
            let mode = Mode::from_raw_mode(0o644);
            let fd = rustix::fs::open(self.base.join(path), write | flags, mode)?;
            // What was in the slot is closed after it.
            self.open.insert(slot, fd);
            Ok(())
        };
        match op {
            Op::Open(slot, path) => open(*slot, path, OFlags::APPEND),
            Op::OpenTruncate(slot, path) => open(*slot, path, OFlags::TRUNC),
            Op::OpenTmpfile(slot, path) => open(*slot, path, OFlags::TMPFILE),
            Op::LinkSlot(slot, path) => {
                use std::os::fd::AsRawFd as _;
                let from = format!("/proc/self/fd/{}", self.slot(*slot)?.as_raw_fd());
                let follow = AtFlags::SYMLINK_FOLLOW;
                rustix::fs::linkat(CWD, from, CWD, self.at(path), follow)
            }
            Op::Write(slot) => rustix::io::write(self.slot(*slot)?, b"written\n").map(drop),
            Op::Fallocate(slot) => {
                rustix::fs::fallocate(self.slot(*slot)?, FallocateFlags::empty(), 0, 4096)
            }
            Op::TruncateSlot(slot) => rustix::fs::ftruncate(self.slot(*slot)?, 3),
            Op::CopyTo(slot, from) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let from = rustix::fs::open(self.at(from), flags, Mode::empty())?;
                rustix::fs::copy_file_range(from, None, self.slot(*slot)?, None, 5).map(drop)
            }
            Op::Fchmod(slot, mode) => {
                rustix::fs::fchmod(self.slot(*slot)?, Mode::from_raw_mode((*mode).into()))
            }
            Op::Close(slot) => self.open.remove(slot).map(drop).ok_or(Errno::BADF),
            _ => Err(Errno::INVAL),
        }
    }

    fn change_attributes(&self, op: &Op) -> Result<(), Errno> {
        // 2001, and some nanoseconds: not the time of anything else.
        let past = Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let touch = |path: &PathBuf, last_access, last_modification| {
            let times = Timestamps { last_access, last_modification };
            rustix::fs::utimensat(CWD, self.at(path), &times, AtFlags::SYMLINK_NOFOLLOW)
        };
        match op {
            Op::Truncate(path) => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::ftruncate(rustix::fs::open(self.at(path), flags, Mode::empty())?, 2)
            }
            Op::Chmod(path, mode) => {
                let mode = Mode::from_raw_mode((*mode).into());
                rustix::fs::chmodat(CWD, self.at(path), mode, AtFlags::empty())
            }
            Op::Chown(path, id) => {
                let gid = Some(rustix::process::Gid::from_raw(*id));
                rustix::fs::chownat(CWD, self.at(path), None, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
            Op::Touch(path) => touch(path, past, past),
            Op::TouchMtime(path) => touch(path, omit, past),
            Op::TouchAtime(path) => touch(path, past, omit),
            Op::Setxattr(path) => {
                rustix::fs::lsetxattr(self.at(path), ATTRIBUTE, b"value", XattrFlags::empty())
            }
            Op::Removexattr(path) => rustix::fs::lremovexattr(self.at(path), ATTRIBUTE),
            _ => Err(Errno::INVAL),
        }
    }
}
