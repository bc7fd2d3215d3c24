// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Replayer`]: carries out the calls of a plan on the mount.
//!
//! The calling thread has its marks ([`crate::Link`]), and for each event its fsgid is the number of
//! the notification, so the server answers from the record of that very event. A call that fails is
//! counted and the next one is made: the guest may have forgotten the directory, or have it under
//! another generation by now.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use farwatch_proto::guest::join::Joined;
use farwatch_proto::guest::plan::{Call, Content, Place, Target, limbo_name, plan};
use farwatch_proto::wire::abi::FARWATCH_LIMBO_NAME;
use farwatch_proto::{Entry, FileKind, GuestEvent, Name, Node, Seq};
use farwatch_sys::{handle, thread};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT,
};
use rustix::io::Errno;

use crate::root::MountRoot;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const OBJECT: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How often a rename is tried while programs keep looking up its new name.
const RENAME_TRIES_MAX: u32 = 8;

/// See the module's documentation.
#[derive(Debug)]
pub struct Replayer {
    root: MountRoot,
    limbo: Option<OwnedFd>,
    limbo_names: u64,
}

/// How the replay of one event went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Calls that the kernel took.
    pub done: u32,
    /// Calls that failed; each is logged at debug.
    pub failed: u32,
}

impl Outcome {
    fn count(&mut self, call: &Call, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.done += 1,
            Err(errno) => {
                self.failed += 1;
                tracing::debug!(?call, %errno, "call failed");
            }
        }
    }
}

impl Replayer {
    /// Replays on the mount that `root` is open on.
    pub fn new(root: MountRoot) -> Self {
        Self { root, limbo: None, limbo_names: 0 }
    }

    /// The mount that it works on.
    pub fn root(&self) -> &MountRoot {
        &self.root
    }

    /// Replays one event.
    pub fn replay(&mut self, joined: Joined) -> Outcome {
        let Joined { seq, mate, event } = joined;
        let mut outcome = Outcome::default();
        // The server wants to be asked for a node that nobody has (PROTOCOL.md, 6.5).
        let probe = matches!(&event, GuestEvent::Object { node, .. } if node.id.is_reserved());
        for call in plan(event) {
            match (self.call(seq, &call), &call, mate) {
                // The kernel holds one of the two directories no more, so nobody watches that, or
                // cannot do it in one go.
                (Err(Errno::STALE), Call::Rename(from, to), Some(mate)) => {
                    let halves = [
                        (seq, Call::Rename(from.clone(), Place::Limbo)),
                        (mate, Call::Rename(Place::Limbo, to.clone())),
                    ];
                    for (seq, half) in halves {
                        let done = self.call(seq, &half);
                        outcome.count(&half, done);
                    }
                }
                (Err(_), ..) if probe => {}
                (result, ..) => outcome.count(&call, result),
            }
        }
        outcome
    }

    /// Makes a call that belongs to notification `seq`.
    fn call(&mut self, seq: Seq, call: &Call) -> Result<(), Errno> {
        thread::set_fsgid(seq.get()).map_err(|error| error.errno())?;
        self.make(call)
    }

    fn make(&mut self, call: &Call) -> Result<(), Errno> {
        match call {
            Call::Create(entry, kind) => self.create(entry, *kind),
            Call::Link(node, entry, kind) => match self.link(*node, entry) {
                // `vfs_link()` refuses an object without a name, and one may have been forgotten.
                Err(Errno::NOENT | Errno::STALE) => self.create(entry, *kind),
                linked => linked,
            },
            Call::Content(Target::Entry(entry), content) => {
                let (dir, name) = (self.dir(entry)?, entry.name.as_bytes());
                let change = |looked_again: bool| {
                    let object = rustix::fs::openat(&dir, name, OBJECT, Mode::empty())?;
                    change_content(&object, *content, looked_again)
                };
                match change(false) {
                    Err(Errno::STALE) => {
                        look_again(&dir, name)?;
                        change(true)
                    }
                    changed => changed,
                }
            }
            Call::Content(Target::Node(node), content) => {
                change_content(&self.open(*node, OBJECT)?, *content, true)
            }
            Call::Remove(entry, directory) => {
                let flags = if *directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(&self.dir(entry)?, entry.name.as_bytes(), flags)
            }
            Call::Rename(from, to) => self.rename(from, to),
        }
    }

    /// A directory whose new name somebody has looked up already has its dentry there. The kernel can
    /// bring it back for a lookup, but not while a rename holds the lock that this needs, and gives
    /// up with ESTALE (`__d_unalias()`). So the old name is looked up alone, and the rename repeated.
    fn rename(&mut self, from: &Place, to: &Place) -> Result<(), Errno> {
        let (old_dir, old_name) = self.place(from)?;
        let (new_dir, new_name) = self.place(to)?;
        let (old_name, new_name) = (old_name.as_bytes(), new_name.as_bytes());
        let flags = RenameFlags::empty();
        let mut tries = RENAME_TRIES_MAX;
        loop {
            let renamed = rustix::fs::renameat_with(&old_dir, old_name, &new_dir, new_name, flags);
            tries -= 1;
            if renamed != Err(Errno::STALE) || tries == 0 {
                return renamed;
            }
            rustix::fs::openat(&old_dir, old_name, OBJECT, Mode::empty())?;
        }
    }

    fn link(&self, node: Node, entry: &Entry) -> Result<(), Errno> {
        let (object, dir) = (self.open(node, OBJECT)?, self.dir(entry)?);
        rustix::fs::linkat(&object, c"", &dir, entry.name.as_bytes(), AtFlags::EMPTY_PATH)
    }

    fn create(&self, entry: &Entry, kind: FileKind) -> Result<(), Errno> {
        let (dir, name) = (self.dir(entry)?, entry.name.as_bytes());
        let mode = Mode::from_raw_mode(0o644);
        let file_type = match kind {
            FileKind::Directory => {
                return rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755));
            }
            FileKind::Symlink => return rustix::fs::symlinkat(c".", &dir, name),
            FileKind::Fifo => rustix::fs::FileType::Fifo,
            FileKind::Socket => rustix::fs::FileType::Socket,
            FileKind::CharDevice => rustix::fs::FileType::CharacterDevice,
            FileKind::BlockDevice => rustix::fs::FileType::BlockDevice,
            FileKind::Regular | FileKind::Unknown => rustix::fs::FileType::RegularFile,
        };
        rustix::fs::mknodat(&dir, name, file_type, mode, 0)
    }

    fn dir(&self, entry: &Entry) -> Result<OwnedFd, Errno> {
        self.open(entry.dir, DIRECTORY)
    }

    /// Opened for the one call: a descriptor that stayed would keep a directory alive that the next
    /// event deletes, and its DELETE_SELF would not come.
    fn open(&self, node: Node, flags: OFlags) -> Result<OwnedFd, Errno> {
        let handle = handle::fuse_handle(node);
        handle::open(self.root.as_fd(), handle::FUSE_HANDLE_TYPE, &handle, flags)
            .map_err(|error| error.errno())
    }

    fn place(&mut self, place: &Place) -> Result<(OwnedFd, Name), Errno> {
        match place {
            Place::Entry(entry) => Ok((self.dir(entry)?, entry.name.clone())),
            Place::Limbo => {
                let limbo = match &self.limbo {
                    Some(limbo) => limbo,
                    None => {
                        // What we hold open may be a directory further down.
                        let (root, name) = (self.open(Node::ROOT, DIRECTORY)?, FARWATCH_LIMBO_NAME);
                        let limbo = rustix::fs::openat(&root, name, DIRECTORY, Mode::empty())?;
                        self.limbo.insert(limbo)
                    }
                };
                self.limbo_names += 1;
                Ok((rustix::io::dup(limbo)?, limbo_name(self.limbo_names)))
            }
        }
    }
}

/// Has the kernel ask the server what a name leads to, whatever it believes: an exclusive create
/// begins with that (`LOOKUP_EXCL`), and ends with it where something is.
fn look_again(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o644);
    match rustix::fs::mknodat(dir, name, rustix::fs::FileType::RegularFile, mode, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Raises OPEN, MODIFY, ATTRIB and CLOSE_WRITE, as far as asked for, on an `O_PATH` descriptor.
///
/// # Errors
/// ESTALE before anything is raised when something else than a file has its name by now, unless the
/// server was asked for it already.
fn change_content(object: &OwnedFd, content: Content, looked_again: bool) -> Result<(), Errno> {
    let writer = if content.close_write { open_for_writing(object)? } else { None };
    if content.close_write && writer.is_none() && !looked_again {
        return Err(Errno::STALE);
    }
    if content.modify {
        set_times(object, UTIME_OMIT)?;
    }
    if content.attrib {
        set_times(object, UTIME_NOW)?;
    }
    drop(writer);
    Ok(())
}

/// Only a regular file: opening a FIFO or a device would be felt by others. What the guest holds
/// under the name need not be what the event was about.
fn open_for_writing(object: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let dont_sync = AtFlags::EMPTY_PATH.union(AtFlags::STATX_DONT_SYNC);
    let stat = rustix::fs::statx(object, c"", dont_sync, StatxFlags::TYPE)?;
    if FileKind::from_mode(u32::from(stat.stx_mode)) != FileKind::Regular {
        return Ok(None);
    }
    let path = format!("/proc/thread-self/fd/{}", object.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map(Some)
}

/// Sets the mtime to now, and the atime to now or not at all.
fn set_times(object: &OwnedFd, atime_nsec: i64) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: atime_nsec },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    rustix::fs::utimensat(object, c"", &times, AtFlags::EMPTY_PATH)
}
