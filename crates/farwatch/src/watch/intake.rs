// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Intake`]: what the watch thread needs of the share. `share` implements it, so that this room does
//! not depend on that one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use farwatch_proto::NodeId;
use farwatch_proto::host::{HostChange, Input, Output, ReadMark, Tree};

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

    /// The same, and takes in what `observe` returns before the view can change.
    fn take_in(&self, observe: &mut dyn FnMut(&Tree) -> Observed);

    /// Takes in anything else that the watch thread has found out.
    fn input(&self, input: Input);

    /// What to do next.
    fn poll_output(&self) -> Output;

    /// A descriptor of a known directory. If none is at hand the directory is looked for where the guest
    /// knows it, and taken only if it is found there.
    fn open_dir(&self, id: NodeId) -> Option<Arc<OwnedFd>>;

    /// Tries to have a directory watched that could not be. If it is now, the engine knows.
    fn mark_again(&self, id: NodeId) -> bool;

    /// A descriptor of a known directory, if one is at hand.
    fn dir_at_hand(&self, id: NodeId) -> Option<Arc<OwnedFd>>;

    /// There may be something new to send: wakes all sinks.
    fn wake_sinks(&self);

    /// How far the guest's view is behind.
    fn dropped(&self) -> Dropped;

    /// Whether an OPEN has to wait for what says how the file was opened. An agent needs to know, a kernel that raises
    /// events itself does not.
    fn holds_opens(&self) -> bool;

    /// Up to where the kernel's queue is to be read, if anything waits for that.
    fn to_read(&self) -> Option<ReadMark>;
}

/// What one round of reading gives.
#[derive(Debug, Default)]
pub struct Observed {
    /// The changes, in order.
    pub changes: Vec<HostChange>,
    /// The kernel's queue was empty at this time or later, by the host's clock, and everything read
    /// before is among the changes or has been taken in.
    pub drained: Option<SystemTime>,
    /// A moment before the changes were read, from which their latency counts. `None` for now.
    pub read_at: Option<Instant>,
}

/// What is to be made up for, since events were dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Directories that are marked for rescan.
    pub dirs: usize,
    /// Events that were dropped since the start.
    pub events: u64,
}
