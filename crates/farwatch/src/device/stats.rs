// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counts of what the device did and refused. The guest makes most of these numbers grow, so they
//! are counted and not logged.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of the device's counters since it was made. The counters are read one by one: their
/// sums need not fit together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Requests handed to the file system.
    pub requests: u64,
    /// Chains given back empty: no request could be made out of them, or there was no room for a
    /// reply.
    pub malformed: u64,
    /// Requests answered with an error without asking the file system, or because it could not
    /// decode them.
    pub refused: u64,
    /// Requests during which the file system panicked; answered with EIO.
    pub panics: u64,
    /// Notifications delivered.
    pub notifications: u64,
    /// Notification buffers given back empty, since they were too small or not writable memory.
    pub bad_buffers: u64,
}

/// One counter that several threads add to.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The present number.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
