// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Replayer`]: carries out the calls of a plan in one superblock of the mount.
//!
//! The calling thread has its marks ([`crate::Link`]), and for each event its fsgid is the number of
//! the notification, so the server answers from the record of that very event. A call that fails is
//! counted and the next one is made: the guest may have forgotten the directory, or have it under
//! another generation by now.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use farwatch_proto::guest::join::Joined;
use farwatch_proto::guest::limbo::Limbo;
use farwatch_proto::guest::opens::{Opens, Step};
use farwatch_proto::guest::plan::{Call, Place, Target, plan};
use farwatch_proto::replay::{self, CallKind, OpenMode, Times};
use farwatch_proto::wire::abi::FARWATCH_LIMBO_NAME;
use farwatch_proto::{Entry, FileKind, GuestEvent, Mask, Name, Node, NodeId, Seq};
use farwatch_sys::{handle, thread};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RawDir, RenameFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT,
};
use rustix::io::Errno;

use crate::root::MountRoot;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const OBJECT: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Room for a listing, as programs have it.
const LISTING_LEN: usize = 4096;

/// How often a name is looked up again to which programs in the mount bring other objects at the same time.
const LOOKS_MAX: u32 = 8;

/// How often a rename is tried while programs keep looking up its new name.
const RENAME_TRIES_MAX: u32 = 8;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Replayer {
    root: MountRoot,
    /// The root of the superblock.
    top: Node,
    limbo_dir: Option<OwnedFd>,
    limbo: Limbo,
    opens: Opens<OwnedFd>,
}

/// How the replay of one event went.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Calls that the kernel took.
    pub done: u32,
    /// Calls that failed; each is logged at debug.
    pub failed: u32,
    /// The last that failed, and why.
    pub error: Option<String>,
}

impl Outcome {
    /// What was done in another superblock, too.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            done: self.done + other.done,
            failed: self.failed + other.failed,
            error: other.error.or(self.error),
        }
    }

    fn count(&mut self, call: &Call, result: Result<(), Errno>) {
        tracing::trace!(?call, ?result, "called");
        match result {
            Ok(()) => self.done += 1,
            Err(errno) => {
                self.failed += 1;
                tracing::debug!(?call, %errno, "call failed");
                self.error = Some(format!("{call:?}: {errno}"));
            }
        }
    }
}

impl Replayer {
    /// Replays on the mount that `root` is open on, in the superblock with that root.
    pub(crate) fn new(root: MountRoot, top: Node) -> Self {
        let (limbo, opens) = (Limbo::default(), Opens::default());
        Self { root, top, limbo_dir: None, limbo, opens }
    }

    /// Looks a name up in the root of the superblock, on behalf of notification `seq`: the server is told something by that,
    /// and says that there is nothing.
    pub(crate) fn look_up(&self, seq: Seq, name: &[u8]) {
        let found = thread::set_fsgid(seq.get())
            .map_err(|error| error.errno())
            .and_then(|()| self.open(self.top, DIRECTORY))
            .and_then(|top| rustix::fs::openat(&top, name, OBJECT, Mode::empty()));
        if found.as_ref().err() != Some(&Errno::NOENT) {
            tracing::debug!(?found, "the server does not know what it is told");
        }
    }

    /// Closes what is kept open, since the closes on the host will not be told.
    pub(crate) fn close_files(&mut self) {
        self.opens.clear();
    }

    /// The mount that it works on.
    pub(crate) fn root(&self) -> &MountRoot {
        &self.root
    }

    /// Replays one event.
    pub(crate) fn replay(&mut self, joined: &Joined) -> Outcome {
        let Joined { seq, mate, event, .. } = joined;
        let mut outcome = Outcome::default();
        if *event == GuestEvent::Overflow {
            self.close_files();
        }
        if let Err(error) = thread::set_fsgid(seq.get()) {
            tracing::debug!(%error, "event not replayed");
            outcome.error = Some(error.to_string());
            outcome.failed += 1;
            return outcome;
        }
        // The server wants to be asked: for a node that nobody has, or for one that may be gone (PROTOCOL.md, 6.5
        // and 6.6).
        let is_probe = matches!(event, GuestEvent::Object { node, .. } if node.id.is_reserved());
        let is_question = is_probe || event.is_end();
        for call in plan(event.clone()) {
            match (self.call(&call), &call, *mate) {
                // The kernel holds one of the two directories no more, so nobody watches that, or
                // cannot do it in one go.
                (Err(Errno::STALE), Call::Rename(from, to), Some(mate)) => {
                    let limbo = Place::Limbo(child_of(event));
                    let out = Call::Rename(from.clone(), limbo.clone());
                    outcome.count(&out, self.call(&out));
                    let back = Call::Rename(limbo, to.clone());
                    let numbered = thread::set_fsgid(mate.get()).map_err(|error| error.errno());
                    outcome.count(&back, numbered.and_then(|()| self.call(&back)));
                }
                (Err(_), ..) if is_question => {}
                // The kernel has found something else there, and has not asked the server.
                (result, Call::Remove(..) | Call::Rename(..), _) if found_another(result) => {
                    outcome.count(&call, self.call_again(&call));
                }
                (result, ..) => outcome.count(&call, result),
            }
        }
        drop(self.opens.ended(event));
        outcome
    }

    fn call(&mut self, call: &Call) -> Result<(), Errno> {
        match call {
            Call::Create(entry, kind) => self.create(entry, *kind),
            Call::CreateAndClose(entry, events) => self.create_and_close(entry, *events),
            Call::Link(node, entry, kind) => match self.link(*node, entry) {
                // `vfs_link()` refuses an object without a name, and one may have been forgotten.
                Err(Errno::NOENT | Errno::STALE) => self.create(entry, *kind),
                linked => linked,
            },
            Call::Content(target, events) => self.content(target, *events),
            Call::Remove(entry, directory) => {
                let flags = if *directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                let dir = match entry.dir.id {
                    NodeId::LIMBO => self.limbo_dir()?,
                    _ => self.dir(entry)?,
                };
                let removed = rustix::fs::unlinkat(&dir, entry.name.as_bytes(), flags);
                drop(self.opens.removed(entry));
                removed
            }
            Call::Rename(from, to) => {
                let renamed = self.rename(from, to);
                match (from, to) {
                    (Place::Entry(from), Place::Entry(to)) => drop(self.opens.renamed(from, to)),
                    (Place::Entry(entry), Place::Limbo(_))
                    | (Place::Limbo(_), Place::Entry(entry)) => {
                        drop(self.opens.removed(entry));
                    }
                    (Place::Limbo(_), Place::Limbo(_)) => {}
                }
                renamed
            }
        }
    }

    /// Repeats a call, and has the kernel ask the server before it does. A program that reads the name at the
    /// same time can bring what is there now in between.
    fn call_again(&mut self, call: &Call) -> Result<(), Errno> {
        let mut looks = LOOKS_MAX;
        loop {
            self.look_again_for(call);
            let result = self.call(call);
            looks -= 1;
            if looks == 0 || !found_another(result) {
                return result;
            }
        }
    }

    /// Has the kernel ask the server for the names of a call, whatever it believes.
    fn look_again_for(&self, call: &Call) {
        let entries = match call {
            Call::Remove(entry, _) => [Some(entry), None],
            Call::Rename(from, to) => [from.entry(), to.entry()],
            Call::Create(..) | Call::CreateAndClose(..) | Call::Link(..) | Call::Content(..) => {
                [None, None]
            }
        };
        for entry in entries.into_iter().flatten() {
            // Where nothing is, the server refuses the call that follows.
            let _asked = self.dir(entry).and_then(|dir| look_again(&dir, entry.name.as_bytes()));
        }
    }

    /// Raises what comes to an object without changing its name. When a call fails those behind it are
    /// not made, but what is to be closed is.
    fn content(&mut self, target: &Target, events: Mask) -> Result<(), Errno> {
        let mut object = None;
        let mut looks = LOOKS_MAX;
        let mut result = Ok(());
        for step in self.opens.steps(target, events) {
            if result.is_err() && !matches!(step, Step::Close(_)) {
                continue;
            }
            let mut done = self.step(target, step, &mut object, looks == 0);
            while done == Err(Errno::STALE)
                && looks > 0
                && let Target::Entry(entry) = target
            {
                looks -= 1;
                object = None;
                done = look_again(&self.dir(entry)?, entry.name.as_bytes())
                    .and_then(|()| self.step(target, step, &mut object, looks == 0));
            }
            result = result.and(done);
        }
        result
    }

    /// `object` is the target, opened with `O_PATH` by the first step that needs it.
    ///
    /// # Errors
    /// ESTALE when something else has the name of a file by now, unless this is the last try.
    fn step(
        &mut self,
        target: &Target,
        step: Step,
        object: &mut Option<OwnedFd>,
        is_last: bool,
    ) -> Result<(), Errno> {
        match step {
            Step::Open(mode) => match open_file(self.object(target, object)?, mode)? {
                Some(file) => {
                    drop(self.opens.keep(target.clone(), mode, file));
                    Ok(())
                }
                None if is_last || matches!(target, Target::Node(_)) => Ok(()),
                None => Err(Errno::STALE),
            },
            Step::Access => self.opens.any(target).map_or(Ok(()), read_something),
            Step::SetTimes(times) => set_times(self.object(target, object)?, times),
            Step::Refresh => match self.opens.any(target) {
                Some(file) => {
                    let sync = AtFlags::EMPTY_PATH.union(AtFlags::STATX_FORCE_SYNC);
                    rustix::fs::statx(file, c"", sync, StatxFlags::MTIME).map(drop)
                }
                None => Ok(()),
            },
            Step::Close(writes) => {
                drop(self.opens.take(target, writes));
                Ok(())
            }
        }
    }

    fn object<'a>(
        &self,
        target: &Target,
        opened: &'a mut Option<OwnedFd>,
    ) -> Result<&'a OwnedFd, Errno> {
        let object = match opened.take() {
            Some(object) => object,
            None => match target {
                Target::Entry(entry) => {
                    let (dir, name) = (self.dir(entry)?, entry.name.as_bytes());
                    rustix::fs::openat(&dir, name, OBJECT, Mode::empty())?
                }
                Target::Node(node) => self.open(*node, OBJECT)?,
            },
        };
        Ok(opened.insert(object))
    }

    /// A directory whose new name somebody has looked up already has its dentry there. The kernel can
    /// bring it back for a lookup, but not while a rename holds the lock that this needs, and gives
    /// up with ESTALE (`__d_unalias()`). So the old name is looked up alone, and the rename repeated.
    fn rename(&mut self, from: &Place, to: &Place) -> Result<(), Errno> {
        let (old_dir, old_name) = self.place(from, Limbo::leave)?;
        let (new_dir, new_name) = self.place(to, Limbo::enter)?;
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

    /// A server that does not know CREATE in a replay refuses it, and so does one for which something is there.
    fn create_and_close(&mut self, entry: &Entry, events: Mask) -> Result<(), Errno> {
        let target = Target::Entry(entry.clone());
        let Ok(file) = self.dir(entry).and_then(|dir| create_file(&dir, entry.name.as_bytes()))
        else {
            let created = self.create(entry, FileKind::Regular);
            let changed = self.content(&target, events);
            return created.and(changed);
        };
        let mut result = Ok(());
        for row in replay::rows(events, FileKind::Regular, false) {
            if let CallKind::SetTimes(times) = row.call {
                let set = set_times(&file, times).or_else(|_| self.content(&target, times.event()));
                result = result.and(set);
            }
        }
        result
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

    fn place(
        &mut self,
        place: &Place,
        pass: fn(&mut Limbo, Option<Node>) -> Name,
    ) -> Result<(OwnedFd, Name), Errno> {
        match place {
            Place::Entry(entry) => Ok((self.dir(entry)?, entry.name.clone())),
            Place::Limbo(child) => Ok((self.limbo_dir()?, pass(&mut self.limbo, *child))),
        }
    }

    fn limbo_dir(&mut self) -> Result<OwnedFd, Errno> {
        let dir = match &self.limbo_dir {
            Some(dir) => dir,
            None => {
                // What we hold open may be a directory further down.
                let (root, name) = (self.open(self.top, DIRECTORY)?, FARWATCH_LIMBO_NAME);
                let dir = rustix::fs::openat(&root, name, DIRECTORY, Mode::empty())?;
                self.limbo_dir.insert(dir)
            }
        };
        rustix::io::dup(dir)
    }
}

/// Whether a call that removes or renames has failed for what the kernel has found under the name.
fn found_another(result: Result<(), Errno>) -> bool {
    matches!(result, Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::NOENT))
}

/// The object of an event about an entry, as far as the guest knows it.
fn child_of(event: &GuestEvent) -> Option<Node> {
    match event {
        GuestEvent::Entry { child, .. } | GuestEvent::Rename { child, .. } => *child,
        GuestEvent::Object { .. } | GuestEvent::Overflow => None,
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

/// Makes a file that is not there, opened for writing.
fn create_file(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
    let flags = new | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))
}

/// Only a regular file, or a directory for reading: opening a FIFO or a device would be felt by others.
/// What the guest holds under the name need not be what the event was about.
fn open_file(object: &OwnedFd, mode: OpenMode) -> Result<Option<OwnedFd>, Errno> {
    let dont_sync = AtFlags::EMPTY_PATH.union(AtFlags::STATX_DONT_SYNC);
    let stat = rustix::fs::statx(object, c"", dont_sync, StatxFlags::TYPE)?;
    let kind = FileKind::from_mode(u32::from(stat.stx_mode));
    if kind != FileKind::Regular && (kind != FileKind::Directory || mode.writes()) {
        return Ok(None);
    }
    let path = format!("/proc/thread-self/fd/{}", object.as_raw_fd());
    let mode = OFlags::from_bits_retain(mode.flags());
    let flags = mode | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map(Some)
}

/// The server lets it read a byte of nothing, or an empty listing.
fn read_something(file: &OwnedFd) -> Result<(), Errno> {
    match rustix::io::pread(file, &mut [0_u8], 0) {
        Err(Errno::ISDIR) => {
            let mut buf = Vec::with_capacity(LISTING_LEN);
            RawDir::new(file, buf.spare_capacity_mut()).next().map_or(Ok(()), |it| it.map(drop))
        }
        read => read.map(drop),
    }
}

/// Sets these times to now, and leaves the other.
fn set_times(object: &OwnedFd, times: Times) -> Result<(), Errno> {
    let atime_nsec = match times {
        Times::Mtime => UTIME_OMIT,
        Times::Both => UTIME_NOW,
    };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: atime_nsec },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    rustix::fs::utimensat(object, c"", &times, AtFlags::EMPTY_PATH)
}
