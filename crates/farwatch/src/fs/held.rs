// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`HeldFiles`]: keeps files that the guest has looked up last from being deleted for good on the host.
//!
//! The file server opens files by their handles, and the handle of a deleted file is dead (ESTALE) as soon as nobody has
//! it open. On a local file system a program has what it has: a bind mount of one file (Docker's `-v
//! ./app.yml:/app.yml`), an `O_PATH` descriptor, the file that a process executes. So a descriptor is held of each file
//! that was looked up or opened last, until the guest's kernel forgets it.
//!
//! A held file that is deleted on the host takes space there until the guest forgets it. That is soon, since its kernel is
//! told of the deletion; where nobody tells it, nothing is held.

use std::ffi::{CStr, CString};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use farwatch_proto::{FileKind, Name, NodeId};
use lru::LruCache;
use virtiofsd::filesystem::FileSystem;
use virtiofsd::fuse::Attr;

use super::identify::{is_object, resolve};
use super::{Interposer, ourselves};

/// The most files that are held. Each pins an inode in the host's memory, about 1 KiB.
pub(crate) const FILES_HELD_MAX: usize = 8192;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct HeldFiles(Option<Mutex<LruCache<NodeId, OwnedFd>>>);

impl HeldFiles {
    /// Holds `max` files at most.
    pub(super) fn new(max: usize) -> Self {
        // Grows as it is filled.
        Self(NonZeroUsize::new(max).map(|max| {
            let mut files = LruCache::unbounded();
            files.resize(max);
            Mutex::new(files)
        }))
    }

    /// Whether it is held. It counts as used last.
    fn uses(&self, id: NodeId) -> bool {
        self.lock().is_some_and(|mut files| files.promote(&id))
    }

    fn insert(&self, id: NodeId, fd: OwnedFd) {
        // Closed when the lock is free again: closing a deleted file may take long.
        let _replaced = self.lock().and_then(|mut files| files.push(id, fd));
    }

    /// The guest has forgotten it.
    pub(super) fn remove(&self, id: NodeId) {
        let _closed = self.lock().and_then(|mut files| files.pop(&id));
    }

    /// Lets all go.
    pub(super) fn clear(&self) {
        let _closed = self.lock().map(|mut files| {
            let max = files.cap();
            let held = std::mem::replace(&mut *files, LruCache::unbounded());
            files.resize(max);
            held
        });
    }

    fn lock(&self) -> Option<MutexGuard<'_, LruCache<NodeId, OwnedFd>>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Interposer {
    /// Holds a file that the guest has looked up: `id` under `name` in `dir`.
    pub(super) fn hold(&self, id: NodeId, attr: &Attr, dir: NodeId, name: &Name) {
        let is_file = FileKind::from_mode(attr.mode) == FileKind::Regular;
        if !is_file || !self.holds() || self.held.uses(id) {
            return;
        }
        let Ok(name) = CString::new(name.as_bytes()) else { return };
        if let Some(fd) = self.path_descriptor(dir, &name, attr) {
            self.held.insert(id, fd);
        }
    }

    /// Holds a file that the guest opens.
    pub(super) fn hold_opened(&self, id: NodeId) {
        if !self.holds() || self.held.uses(id) {
            return;
        }
        let Some((dir, name)) = self.share.entry_of(id) else { return };
        if let Ok((attr, _)) = self.inner.getattr(ourselves(), id.get(), None) {
            self.hold(id, &attr, dir, &name);
        }
    }

    /// Only where the guest is told what is deleted.
    fn holds(&self) -> bool {
        self.share.agent_tid().is_some() || self.share.is_native()
    }

    fn path_descriptor(&self, dir: NodeId, name: &CStr, attr: &Attr) -> Option<OwnedFd> {
        let above = self.share.dir(dir, || self.open_directory(dir.get()).ok())?;
        resolve(&above, name).filter(|fd| is_object(fd, attr))
    }
}
