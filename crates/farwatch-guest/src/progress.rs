// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Progress`]: what an agent has done so far, readable by another thread while it works.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::run::Report;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Progress {
    received: AtomicU64,
    undecoded: AtomicU64,
    calls: AtomicU64,
    failed: AtomicU64,
    overflows: AtomicU64,
    last_error: Mutex<Option<(SystemTime, String)>>,
}

impl Progress {
    /// What was done. The numbers are read one by one and need not fit together.
    pub fn report(&self) -> Report {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Report {
            received: read(&self.received),
            undecoded: read(&self.undecoded),
            calls: read(&self.calls),
            failed: read(&self.failed),
            overflows: read(&self.overflows),
        }
    }

    /// The last call that failed, and when.
    pub fn last_error(&self) -> Option<(SystemTime, String)> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what was done. The agent's thread alone calls this.
    pub(crate) fn add(&self, more: &Report) {
        let add = |count: &AtomicU64, by| {
            if by > 0 {
                count.fetch_add(by, Ordering::Relaxed);
            }
        };
        let Report { received, undecoded, calls, failed, overflows } = *more;
        add(&self.received, received);
        add(&self.undecoded, undecoded);
        add(&self.calls, calls);
        add(&self.failed, failed);
        add(&self.overflows, overflows);
    }

    /// Notes why a call has failed.
    pub(crate) fn failed(&self, error: String) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((SystemTime::now(), error));
    }
}
