// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Gate`]: whether requests may run. With a session it opens, and it closes when none runs any more.

use crate::sync::{PoisonError, RwLock, RwLockReadGuard};

/// A request runs with the lock held for reading.
pub(super) struct Gate(RwLock<bool>);

/// While it exists, the gate does not close.
pub(super) struct Admission<'a>(#[expect(dead_code, reason = "held")] RwLockReadGuard<'a, bool>);

impl Gate {
    /// Lets nothing in.
    pub(super) fn closed() -> Self {
        Self(RwLock::new(false))
    }

    /// Lets requests run from now on.
    pub(super) fn open(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Lets no request run any more and waits for those that do.
    pub(super) fn close(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// `None` when no request may run.
    pub(super) fn admit(&self) -> Option<Admission<'_>> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.then_some(Admission(open))
    }

    /// While what it returns exists, no request runs.
    pub(super) fn alone(&self) -> impl Sized {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
