// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is under a name: on the host, where it is the truth, and in the mount, where it is what a
//! program reads.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How often a name is read again when it changes its type while it is read.
const TRIES_MAX: u32 = 5;

/// The type of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Directory,
    Symlink,
    /// It could not be read, for this reason.
    Unreadable(Errno),
}

/// An object as it is read by its name.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) kind: Type,
    pub(super) ino: u64,
    /// Of a file.
    pub(super) content: Vec<u8>,
}

impl State {
    /// What is under the name now; `None` for nothing.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let mut last = Errno::AGAIN;
        for _ in 0..TRIES_MAX {
            match Self::try_read(path) {
                Ok(state) => return Some(state),
                Err(Errno::NOENT) => return None,
                Err(errno) => last = errno,
            }
        }
        Some(Self { kind: Type::Unreadable(last), ino: 0, content: Vec::new() })
    }

    fn try_read(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            // A symbolic link, if it has not been replaced since.
            Err(Errno::LOOP) => {
                let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
                let (kind, ino) = (Type::Symlink, stat.st_ino);
                let state = Self { kind, ino, content: Vec::new() };
                return is_link.then_some(state).ok_or(Errno::LOOP);
            }
            file => file?,
        };
        let stat = rustix::fs::fstat(&file)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let mut content = Vec::new();
        if !is_dir {
            let read = fs::File::from(file).read_to_end(&mut content);
            read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        let kind = if is_dir { Type::Directory } else { Type::File };
        Ok(Self { kind, ino: stat.st_ino, content })
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Type::File => {
                write!(f, "file {} {:?}", self.ino, String::from_utf8_lossy(&self.content))
            }
            Type::Directory => write!(f, "directory {}", self.ino),
            Type::Symlink => write!(f, "symlink {}", self.ino),
            Type::Unreadable(errno) => write!(f, "unreadable, {errno:?}"),
        }
    }
}

/// All names in the directories `dirs` below `base`, with what is under each.
pub(super) fn read_all(base: &Path, dirs: &[String]) -> Result<BTreeMap<String, State>> {
    let states = list(base, dirs)?.into_iter().filter_map(|name| {
        let state = State::read(&base.join(&name))?;
        Some((name, state))
    });
    Ok(states.collect())
}

/// The identity of the object with an inode number, which is looked for under `name` first and then in
/// all of `dirs`. Only that of an object that exists can be found.
pub(super) fn identify<'a>(
    base: &Path,
    name: &str,
    dirs: impl Iterator<Item = &'a String>,
    ino: u64,
) -> Option<String> {
    let is_it = |(number, id)| (number == ino).then_some(id);
    id_of(&base.join(name)).and_then(is_it).or_else(|| {
        let dirs: Vec<String> = dirs.cloned().collect();
        let names = list(base, &dirs).ok()?;
        names.iter().find_map(|name| id_of(&base.join(name)).and_then(is_it))
    })
}

/// The inode number of what a path leads to, and an identity that no later object has: an inode number
/// is used again.
pub(super) fn id_of(path: &Path) -> Option<(u64, String)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let object = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    let ino = rustix::fs::fstat(&object).ok()?.st_ino;
    let id = farwatch_sys::handle::fid(object.as_fd()).ok()?;
    Some((ino, format!("{id:?}")))
}

/// The names in the directories, each as a path from `base`.
pub(super) fn list(base: &Path, dirs: &[String]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in dirs {
        let path = base.join(dir);
        let entries = fs::read_dir(&path).with_context(|| path.display().to_string())?;
        for entry in entries {
            names.push(format!("{dir}/{}", entry?.file_name().to_string_lossy()));
        }
    }
    names.sort_unstable();
    Ok(names)
}
