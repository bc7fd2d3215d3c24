// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Backend`]: one way to see what changes on the host, and everything that depends on the way.
//!
//! `share` owns the backend in use and marks directories with it, the watch thread reads from it. Neither
//! knows which it is. Each has a room of its own beside this file.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use farwatch_proto::host::Tree;
use farwatch_proto::host::inotify::{CallId, Expected};
use farwatch_proto::{Fid, Mask};

use super::intake::Intake;
use crate::limits::Limit;

/// See the module's documentation.
///
/// Methods with a tree are called with the share's lock held: they must not call back, and must not wait
/// for the guest. A lock of the backend's own comes after the share's.
pub trait Backend: fmt::Debug + Send + Sync {
    /// What it is called, for the log.
    fn name(&self) -> &'static str;

    /// The system calls that it makes while the share is served, besides those of a file server. The
    /// seccomp filter allows them.
    fn system_calls(&self) -> &'static [&'static str];

    /// The events that it can report.
    fn events(&self) -> Mask;

    /// Whether both names of a rename are reported together (S12, S13).
    fn pairs_renames(&self) -> bool;

    /// Whether the kernel merges equal events that have others between them, so that single changes go
    /// unseen. What comes of them is then compared with the host.
    fn merges(&self) -> bool;

    /// Whether a report about an entry names the object under it.
    fn names_objects(&self) -> bool;

    /// Whether objects are identified by their file handles, where they have such.
    fn uses_handles(&self) -> bool;

    /// Identifies the object behind `fd`, as reports about it will.
    ///
    /// # Errors
    /// Those of the file system.
    fn fid(&self, fd: BorrowedFd<'_>) -> io::Result<Fid>;

    /// Marks a directory. Called with the share's lock held.
    ///
    /// # Errors
    /// When nothing in it will be reported; with what the user can do about it.
    fn mark(&self, dir: BorrowedFd<'_>, fid: &Fid) -> Result<Marked, NotMarked>;

    /// Removes the mark of a directory, which may be gone. `dir` gives its descriptor. Called with the
    /// share's lock held.
    fn unmark(&self, fid: &Fid, dir: &mut dyn FnMut() -> Option<Arc<OwnedFd>>);

    /// Removes all marks. Called with the share's lock held.
    fn clear(&self);

    /// The guest gets to know an object that is no directory, which has `nlink` names. Called with the
    /// share's lock held.
    fn learned(&self, object: Fid, nlink: u32, tree: &Tree);

    /// How to announce the calls that this process makes for its guest. `None` when reports say who
    /// caused them; such a backend leaves out this process's.
    fn own_calls(&self) -> Option<&dyn OwnCalls>;

    /// Whether everything that was reported until now has been handed in.
    fn is_quiet(&self) -> bool;

    /// The descriptors that become readable when there are reports. They can become more, see
    /// [`Marked::InNewQueue`].
    fn fds(&self) -> Vec<Arc<dyn AsFd>>;

    /// The reading side, for the watch thread.
    fn reader(&self) -> Box<dyn Reader + '_>;
}

/// Where a mark was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marked {
    /// Its reports come to a descriptor that was there before.
    InKnownQueue,
    /// They come to a new one: the watch thread has to ask for the descriptors again.
    InNewQueue,
}

/// A directory could not be marked.
#[derive(Debug)]
pub struct NotMarked {
    /// Why, and what the user can do: one sentence.
    pub why: String,
}

impl NotMarked {
    /// For a limit that was reached, or another error of the call.
    pub(super) fn new(limit: Option<Limit>, error: impl Error) -> Self {
        let why = match limit {
            Some(limit) => limit.reached().to_string(),
            None => {
                let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                format!("{error}{cause} (`farwatch doctor DIRECTORY` says more)")
            }
        };
        Self { why }
    }
}

/// Tells reports of this process's own calls from others'. Called with the share's lock held.
pub trait OwnCalls {
    /// A call is about to be made, and will be reported so.
    fn expect(&self, reports: Vec<(Expected, Mask)>, tree: &Tree) -> CallId;

    /// The call has returned. If everything reported until now has been taken in, this ends it as
    /// [`OwnCalls::end`] does; `None` if not.
    fn end_if_quiet(&self, call: CallId, succeeded: bool) -> Option<Vec<Fid>>;

    /// The call has returned, after which its object's `ctime` was `changed`. Returns the directories
    /// in which something may have been taken for the call's that was not.
    fn end(&self, call: CallId, succeeded: bool, changed: Option<SystemTime>) -> Vec<Fid>;
}

/// What a reader has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// Reports of nothing but calls that this process has made for its guest.
    OwnAlone,
    /// Anything else, or nothing.
    Other,
}

/// The reading side of a backend. It belongs to the watch thread.
pub trait Reader {
    /// Reads everything that is reported and hands it in, until there is no more.
    ///
    /// # Errors
    /// When nothing can be read any more.
    fn read(&mut self, intake: &dyn Intake) -> io::Result<Came>;

    /// When to call [`Reader::read`] again though nothing is reported.
    fn poll_timeout(&self) -> Option<Instant>;
}
