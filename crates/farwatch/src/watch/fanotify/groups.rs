// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Groups`]: the fanotify groups of a share, and which of them takes a mark.
//!
//! One group is enough unless the share spans file systems that the kernel does not want to mix. Where
//! objects of one file system have different fsids (the subvolumes of btrfs) or none (FUSE), Linux marks
//! them since 6.8, but in a group that watches nothing else (`fanotify_set_mark_fsid()`). Such a group is
//! opened when it is needed, by then without CAP_SYS_ADMIN and so with the limits of an ordinary user.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use farwatch_proto::Mask;
use farwatch_sys::Error;
use farwatch_sys::fanotify::Fanotify;
use rustix::io::Errno;

use super::mark_mask;
use crate::watch::Marked;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Groups {
    first: Arc<Fanotify>,
    /// Opened later; never closed before the share.
    more: Mutex<Vec<Arc<Fanotify>>>,
    /// A group of its own did not help: this kernel cannot.
    in_vain: AtomicBool,
    /// What directories are marked for.
    events: Mask,
}

impl Groups {
    /// The most groups of one share: a user has 128 (`fs.fanotify.max_user_groups`). What would need
    /// another is not watched.
    const LEN_MAX: usize = 8;

    pub(super) fn new(first: Fanotify, events: Mask) -> Self {
        let (more, in_vain) = (Mutex::default(), AtomicBool::new(false));
        Self { first: Arc::new(first), more, in_vain, events }
    }

    pub(super) fn events(&self) -> Mask {
        self.events
    }

    /// The group that most directories are marked in, and whose level holds for all.
    pub(super) fn first(&self) -> &Fanotify {
        &self.first
    }

    /// All of them, the first one first.
    pub(super) fn all(&self) -> Vec<Arc<Fanotify>> {
        let more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(&self.first).chain(&*more).map(Arc::clone).collect()
    }

    pub(super) fn mark(&self, dir: impl AsFd) -> Result<Marked, Error> {
        let groups = self.all();
        let mut refused = None;
        for group in &groups {
            match self.mark_in(group, &dir) {
                Err(error) if error.errno() == Errno::XDEV => refused = Some(error),
                marked => return marked.map(|()| Marked::InKnownQueue),
            }
        }
        if let Some(error) = refused
            && (groups.len() >= Self::LEN_MAX || self.in_vain.load(Ordering::Relaxed))
        {
            return Err(error);
        }
        let group = Fanotify::open()?;
        self.mark_in(&group, &dir).inspect_err(|_| self.in_vain.store(true, Ordering::Relaxed))?;
        tracing::info!(level = ?group.level(), groups = groups.len() + 1, "another fanotify group");
        self.more.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(group));
        Ok(Marked::InNewQueue)
    }

    fn mark_in(&self, group: &Fanotify, dir: &impl AsFd) -> Result<(), Error> {
        group.mark(dir.as_fd(), mark_mask(group.level(), self.events))
    }

    /// Takes the mark from the group that has it.
    pub(super) fn unmark(&self, dir: impl AsFd) -> Result<(), Error> {
        let mut unmarked = Ok(());
        for group in self.all() {
            unmarked = group.unmark(dir.as_fd(), mark_mask(group.level(), self.events));
            if unmarked.is_ok() {
                break;
            }
        }
        unmarked
    }

    pub(super) fn unmark_all(&self) -> Result<(), Error> {
        self.all().iter().try_for_each(|group| group.unmark_all())
    }
}
