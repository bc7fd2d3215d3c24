// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`FanotifyBackend`]: sees changes by fanotify, in one group or several.
//!
//! Reports name the entry, the object and who did it, so what this process does for its guest is simply
//! left out. The kernel merges reports that wait in its queue. `groups` has the groups and which of them
//! takes a mark, `changes` makes [`HostChange`]s of records, `reader` reads.
//!
//! [`HostChange`]: farwatch_proto::host::HostChange

mod changes;
mod groups;
mod reader;

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use farwatch_proto::host::Tree;
use farwatch_proto::{Fid, Mask};
use farwatch_sys::fanotify::{FAN_EVENT_ON_CHILD, FAN_ONDIR, FAN_RENAME, Fanotify, Level};
use farwatch_sys::handle;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use self::groups::Groups;
use self::reader::FanotifyReader;
use super::{Backend, Marked, NotMarked, OwnCalls, Reader};
use crate::limits::Limit;

/// See the module's documentation.
#[derive(Debug)]
pub struct FanotifyBackend {
    groups: Groups,
    /// The reader has taken reports from the kernel's queues, or is about to, and has not handed them in.
    in_hand: AtomicBool,
}

impl FanotifyBackend {
    /// See [`Backend::system_calls`]. Groups are opened later too.
    pub(crate) const SYSTEM_CALLS: &[&str] = &["fanotify_init", "fanotify_mark"];

    /// With a group that was opened, for these events.
    pub fn new(group: Fanotify, events: Mask) -> Self {
        Self { groups: Groups::new(group, events), in_hand: AtomicBool::new(false) }
    }

    /// Opens a group and tries it on the shared directory.
    ///
    /// # Errors
    /// One sentence for the user.
    pub(crate) fn open(shared: &str, events: Mask) -> Result<Self, String> {
        let cause = |error: &dyn Error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let group = Fanotify::open().map_err(|error| match limit(&error) {
            Some(limit) => format!("fanotify is not available: {}", limit.reached()),
            None => {
                format!("fanotify is not available (`farwatch doctor` says why): {}", cause(&error))
            }
        })?;
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(shared, path_only, Mode::empty())
            .map_err(|error| format!("the shared directory: {error}"))?;
        let marked = Self::probe(&group, root.as_fd(), events);
        marked.and_then(|()| handle::fid(root.as_fd())).map_err(|error| match limit(&error) {
            Some(limit) => {
                format!("fanotify cannot watch the shared directory: {}", limit.reached())
            }
            None => {
                format!(
                    "fanotify cannot watch the shared directory's file system: {}",
                    cause(&error)
                )
            }
        })?;
        tracing::info!(level = ?group.level(), "fanotify");
        Ok(Self::new(group, events))
    }

    /// Whether a group can mark a directory. `doctor` asks too.
    ///
    /// # Errors
    /// Those of `fanotify_mark(2)`.
    pub(crate) fn probe(
        group: &Fanotify,
        dir: BorrowedFd<'_>,
        events: Mask,
    ) -> Result<(), farwatch_sys::Error> {
        let mask = mark_mask(group.level(), events);
        group.mark(dir, mask)?;
        group.unmark(dir, mask)
    }
}

/// The limit that a call has reached.
fn limit(error: &farwatch_sys::Error) -> Option<Limit> {
    use farwatch_sys::Error::{FanotifyInit, FanotifyMark};
    match (error, error.errno()) {
        (FanotifyInit { .. }, Errno::MFILE) => Some(Limit::FanotifyGroups),
        (FanotifyMark { .. }, Errno::NOSPC) => Some(Limit::FanotifyMarks),
        (_, errno) => Limit::of_files(errno),
    }
}

/// What every known directory is marked with. The deletion or move of a directory itself is reported in
/// its parent.
fn mark_mask(level: Level, events: Mask) -> u64 {
    let moves = if level.rename { FAN_RENAME } else { Mask::MOVE.bits() };
    let entries = events.difference(Mask::MOVE);
    entries.bits() | moves | FAN_ONDIR | FAN_EVENT_ON_CHILD
}

impl Backend for FanotifyBackend {
    fn name(&self) -> &'static str {
        "fanotify"
    }

    fn system_calls(&self) -> &'static [&'static str] {
        Self::SYSTEM_CALLS
    }

    fn events(&self) -> Mask {
        self.groups.events()
    }

    fn pairs_renames(&self) -> bool {
        self.groups.first().level().rename
    }

    fn merges(&self) -> bool {
        true
    }

    fn names_objects(&self) -> bool {
        true
    }

    fn uses_handles(&self) -> bool {
        true
    }

    fn fid(&self, fd: BorrowedFd<'_>) -> io::Result<Fid> {
        handle::fid(fd).map_err(io::Error::other)
    }

    fn mark(&self, dir: BorrowedFd<'_>, _fid: &Fid) -> Result<Marked, NotMarked> {
        self.groups.mark(dir).map_err(|error| NotMarked::new(limit(&error), error))
    }

    fn unmark(&self, _fid: &Fid, dir: &mut dyn FnMut() -> Option<Arc<OwnedFd>>) {
        let Some(dir) = dir() else { return };
        if let Err(error) = self.groups.unmark(&*dir) {
            // The directory itself is gone, and the mark with it.
            tracing::trace!(%error, "mark not removed");
        }
    }

    fn clear(&self) {
        if let Err(error) = self.groups.unmark_all() {
            tracing::warn!(%error, "removing the marks of the last session failed");
        }
    }

    fn learned(&self, _object: Fid, _nlink: u32, _tree: &Tree) {}

    fn own_calls(&self) -> Option<&dyn OwnCalls> {
        None
    }

    /// The reader says that it has something in hand before it takes it, so the queues are looked at first.
    fn is_quiet(&self) -> bool {
        let are_empty = self.groups.all().iter().all(|group| group.queued() == 0);
        are_empty && !self.in_hand.load(Ordering::SeqCst)
    }

    fn fds(&self) -> Vec<Arc<dyn AsFd>> {
        self.groups.all().into_iter().map(|group| group as Arc<dyn AsFd>).collect()
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(FanotifyReader::new(self))
    }
}
