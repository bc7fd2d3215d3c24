// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The primitives by which threads of ours meet.
//!
//! Files that take them from here are included by `farwatch-interleavings` too, with the primitives of shuttle or loom in
//! the place of these: its tests explore the orders in which threads can run. So these files name nothing else of the
//! crate but `virtio` and what is beside them.

pub(crate) use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// Atomic access to memory that is shared with another process.
pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{Ordering, fence};
}
