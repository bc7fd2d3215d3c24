// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Intake`]: what the watch thread needs of the share. `share` implements it, so that this room does
//! not depend on that one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use farwatch_proto::host::{Check, Checked, HostChange, Listing, Look, ReadMark, Rescan, Tree};
use farwatch_proto::{FileKind, NodeId};

use super::backend::Backend;

/// See the module's documentation. All methods return without waiting for the guest.
pub trait Intake: Send + Sync {
    /// The backend in use; `None` when nothing is watched.
    fn backend(&self) -> Option<&dyn Backend>;

    /// The watch thread begins. `work` is an eventfd: it is written when the thread has something to do.
    fn watch_begins(&self, work: Arc<OwnedFd>);

    /// The watch thread has ended.
    fn watch_ended(&self);

    /// Shows the guest's view of the share, with the lock held.
    fn inspect(&self, look: &mut dyn FnMut(&Tree));

    /// The same, and takes in what `observe` returns before the view can change. `true` when there is
    /// something to send.
    fn take_in(&self, observe: &mut dyn FnMut(&Tree) -> Observed) -> bool;

    /// A descriptor of a known directory. If none is at hand the directory is looked for where the guest
    /// knows it, and taken only if it is found there.
    fn open_dir(&self, id: NodeId) -> Option<Arc<OwnedFd>>;

    /// A descriptor of a known directory, if one is at hand.
    fn dir_at_hand(&self, id: NodeId) -> Option<Arc<OwnedFd>>;

    /// What to look at before the next event can be sent.
    fn poll_look(&self) -> Option<Look>;

    /// The type of what was to be looked at.
    fn handle_look(&self, look: &Look, found: FileKind);

    /// There may be something new to send: wakes all sinks.
    fn wake_sinks(&self);

    /// The directory to list next.
    fn poll_rescan(&self, now: Instant) -> Option<Rescan>;

    /// What is in it.
    fn handle_listing(&self, now: Instant, listing: Listing);

    /// It could not be listed.
    fn handle_unlisted(&self, now: Instant);

    /// When to ask for a directory again.
    fn rescan_timeout(&self) -> Option<Instant>;

    /// How far the guest's view is behind.
    fn dropped(&self) -> Dropped;

    /// Up to where the kernel's queue is to be read, if anything waits for that.
    fn to_read(&self) -> Option<ReadMark>;

    /// The queue has been read up to the mark, and handed in. `true` when there is something to send.
    fn handle_read(&self, mark: ReadMark) -> bool;

    /// Sends the probes that are due: by these the agent shows how far it is. `true` when it did.
    fn poll_probes(&self) -> bool;

    /// The next entry to compare with what watchers were told.
    fn poll_check(&self, now: Instant) -> Option<Check>;

    /// What is under its name.
    fn handle_checked(&self, now: Instant, check: Check, checked: Checked);

    /// It could not be looked at.
    fn handle_unchecked(&self, now: Instant, check: Check);

    /// When to call [`Intake::poll_probes`] and [`Intake::poll_check`] again though nothing is reported.
    fn check_timeout(&self) -> Option<Instant>;
}

/// What one round of reading gives.
#[derive(Debug, Default)]
pub struct Observed {
    /// The changes, in order.
    pub changes: Vec<HostChange>,
    /// The kernel's queue was empty at this time or later, by the host's clock, and everything read
    /// before is among the changes or has been taken in.
    pub drained: Option<SystemTime>,
}

/// What is to be made up for, since events were dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Directories that are marked for rescan.
    pub dirs: usize,
    /// Events that were dropped since the start.
    pub events: u64,
}
