// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`HostChange`]: what a watcher on the host observed, before anybody decided what it means for the
//! guest. The watch room of the daemon makes these from fanotify records, [`super::inotify`] from inotify's.

use crate::{Fid, Mask, Name};

/// A directory entry on the host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostEntry {
    /// The directory.
    pub dir: Fid,
    /// The name in it.
    pub name: Name,
}

/// One observation. The watcher has already left out what this daemon did itself for the guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostChange {
    /// Something happened to an entry of a watched directory: one or more of CREATE, DELETE,
    /// [`Mask::CONTENT`] and [`Mask::READS`], which the kernel may have put together (`fanotify_merge()`).
    Entry {
        /// Where.
        entry: HostEntry,
        /// What, with ISDIR for a directory.
        mask: Mask,
        /// The object, when the kernel tells (`FAN_REPORT_TARGET_FID`).
        object: Option<Fid>,
    },
    /// Something happened to a watched directory itself.
    Object {
        /// The directory.
        object: Fid,
        /// What.
        mask: Mask,
    },
    /// `FAN_RENAME`. A side is missing when its directory is not watched, which puts it out of the
    /// guest's view (S8).
    Move {
        /// The old entry.
        from: Option<HostEntry>,
        /// The new one.
        to: Option<HostEntry>,
        /// The object that moved.
        object: Option<Fid>,
        /// It is a directory.
        directory: bool,
    },
    /// The kernel's queue was full (`FAN_Q_OVERFLOW`): any watched directory may have changed.
    Overflow,
}
