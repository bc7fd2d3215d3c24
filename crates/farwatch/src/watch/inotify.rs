// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`InotifyBackend`]: sees changes by inotify, where fanotify cannot be had.
//!
//! Reports name the entry, but neither the object nor who did it. What follows from them is decided by
//! the [`Observer`] of `farwatch_proto`; this room has its state, the kernel's `instance`, and the `reader`
//! that looks up what the observer asks for.
//!
//! Lock order: the share's state before the observer. The observer is locked alone, or inside of
//! [`Intake::inspect`] and [`Intake::take_in`], never the other way around.
//!
//! [`Intake::inspect`]: super::Intake::inspect
//! [`Intake::take_in`]: super::Intake::take_in

mod instance;
mod reader;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use farwatch_proto::host::Tree;
use farwatch_proto::host::inotify::{CallId, Expected, Observer};
use farwatch_proto::{Fid, Mask};
use rustix::io::Errno;

use self::instance::Instance;
use self::reader::InotifyReader;
use super::{Backend, Marked, NotMarked, OwnCalls, Reader};
use crate::limits::Limit;

/// See the module's documentation.
#[derive(Debug)]
pub struct InotifyBackend {
    instance: Instance,
    observer: Mutex<Observer>,
    joins: bool,
}

impl InotifyBackend {
    /// See [`Backend::system_calls`].
    pub(crate) const SYSTEM_CALLS: &[&str] = &["inotify_add_watch", "inotify_rm_watch"];

    /// Opens an instance. Without `handles` objects are identified by their inode numbers; with `joins`
    /// the two halves of a rename become one move.
    ///
    /// # Errors
    /// EMFILE when this user has `fs.inotify.max_user_instances` of them.
    pub fn open(handles: bool, joins: bool) -> io::Result<Self> {
        let instance = Instance::open(handles)?;
        Ok(Self { instance, observer: Mutex::new(Observer::new(joins)), joins })
    }

    /// Whether an instance can be had, and watch a directory if one is named. Changes the working
    /// directory of the calling thread, and makes it the thread's own.
    ///
    /// # Errors
    /// ENOSPC when this user has `fs.inotify.max_user_watches` of them, and those of
    /// [`InotifyBackend::open`].
    pub(crate) fn probe(dir: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let instance = Instance::open(true)?;
        dir.map_or(Ok(()), |dir| instance.add(dir).map(drop))
    }

    fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for InotifyBackend {
    fn name(&self) -> &'static str {
        "inotify"
    }

    fn system_calls(&self) -> &'static [&'static str] {
        Self::SYSTEM_CALLS
    }

    /// Never reads, since it is not reported whose they are.
    fn events(&self) -> Mask {
        Mask::DEFAULT
    }

    fn pairs_renames(&self) -> bool {
        self.joins
    }

    fn merges(&self) -> bool {
        false
    }

    fn names_objects(&self) -> bool {
        false
    }

    fn uses_handles(&self) -> bool {
        self.instance.uses_handles()
    }

    fn fid(&self, fd: BorrowedFd<'_>) -> io::Result<Fid> {
        self.instance.fid(fd)
    }

    /// The share's lock keeps the reader from taking in reports of the watch before its number is known.
    fn mark(&self, dir: BorrowedFd<'_>, fid: &Fid) -> Result<Marked, NotMarked> {
        let watch = self.instance.add(dir).map_err(|error| {
            let no_space = error.raw_os_error() == Some(Errno::NOSPC.raw_os_error());
            NotMarked::new(no_space.then_some(Limit::InotifyWatches), error)
        })?;
        self.observer().watch(watch, fid.clone());
        Ok(Marked::InKnownQueue)
    }

    fn unmark(&self, fid: &Fid, _dir: &mut dyn FnMut() -> Option<Arc<OwnedFd>>) {
        let mut observer = self.observer();
        if let Some(watch) = observer.unwatch(fid)
            && !self.instance.remove(watch)
        {
            observer.was_gone(watch);
        }
    }

    fn clear(&self) {
        let mut observer = self.observer();
        for watch in observer.clear() {
            if !self.instance.remove(watch) {
                observer.was_gone(watch);
            }
        }
    }

    fn learned(&self, object: Fid, nlink: u32, tree: &Tree) {
        self.observer().learn(object, nlink, tree);
    }

    fn own_calls(&self) -> Option<&dyn OwnCalls> {
        Some(self)
    }

    fn is_quiet(&self) -> bool {
        self.observer().is_idle() && self.instance.is_empty()
    }

    fn fds(&self) -> Vec<Arc<dyn AsFd>> {
        vec![self.instance.fd() as Arc<dyn AsFd>]
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(InotifyReader::new(self))
    }
}

impl OwnCalls for InotifyBackend {
    fn expect(&self, reports: Vec<(Expected, Mask)>, tree: &Tree) -> CallId {
        self.observer().expect(reports, tree)
    }

    /// Most often the watch thread has read the call's reports when it returns, or there were none.
    fn end_if_quiet(&self, call: CallId, succeeded: bool) -> Option<Vec<Fid>> {
        let mut observer = self.observer();
        if !observer.is_idle() || !self.instance.is_empty() {
            return None;
        }
        let lost = observer.end(call, succeeded, None);
        observer.found_empty();
        Some(lost)
    }

    fn end(&self, call: CallId, succeeded: bool, changed: Option<SystemTime>) -> Vec<Fid> {
        self.observer().end(call, succeeded, changed)
    }
}
