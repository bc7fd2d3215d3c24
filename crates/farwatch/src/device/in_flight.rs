// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`InFlight`]: what has been taken from a ring and not been given back, for whoever has to wait until that is nothing.

use std::sync::Arc;

use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Counts what is in flight, and lets one wait until nothing is. `S` is what keeps chains waiting.
pub(super) struct InFlight<S: ?Sized> {
    count: Mutex<Count<S>>,
    none: Condvar,
}

struct Count<S: ?Sized> {
    chains: usize,
    /// Somebody waits for 0. Notifying a condition costs a system call, also when nobody does.
    awaited: bool,
    /// Whoever keeps chains waiting.
    waiting: Option<Arc<S>>,
}

impl<S: ?Sized> Default for InFlight<S> {
    fn default() -> Self {
        let count = Count { chains: 0, awaited: false, waiting: None };
        Self { count: Mutex::new(count), none: Condvar::new() }
    }
}

impl<S: ?Sized> InFlight<S> {
    /// One more. The caller holds the lock under which the ring is stopped, and has seen that it is not.
    pub(super) fn add(&self) {
        self.count().chains += 1;
    }

    /// One less.
    pub(super) fn remove(&self) {
        let mut count = self.count();
        count.chains -= 1;
        if count.chains == 0 && count.awaited {
            count.awaited = false;
            self.none.notify_all();
        }
    }

    /// One of them is given back when `source` has something.
    pub(super) fn waits_for(&self, source: &Arc<S>) {
        let mut count = self.count();
        if count.waiting.is_none() {
            count.waiting = Some(Arc::clone(source));
        }
    }

    /// Waits until there is none. Nothing is taken any more. What keeps chains waiting is told to `hurry` first.
    pub(super) fn wait_for_none(&self, hurry: impl FnOnce(&S)) {
        let waiting = { self.count().waiting.clone() };
        if let Some(source) = waiting {
            hurry(&source);
        }
        let none = self.none.wait_while(self.count(), |count| {
            count.awaited = count.chains > 0;
            count.awaited
        });
        drop(none.unwrap_or_else(PoisonError::into_inner));
    }

    fn count(&self) -> MutexGuard<'_, Count<S>> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
