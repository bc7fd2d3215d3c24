// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Source`]: what a device delivers where there is no engine.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use farwatch::device::NotificationSource;
use farwatch_proto::Node;
use farwatch_proto::host::Ticket;
use farwatch_proto::wire::abi::NOTIFY_BUF_SIZE;
use farwatch_proto::wire::sync;
use rustix::io::Errno;

/// Notifications to deliver: any bytes will do.
#[derive(Default)]
pub(crate) struct Source {
    pub(crate) pending: Mutex<VecDeque<Vec<u8>>>,
    pub(crate) resets: AtomicUsize,
    pub(crate) hurried: AtomicUsize,
}

impl Source {
    pub(crate) fn push(&self, notification: &str) {
        self.pending.lock().unwrap().push_back(notification.as_bytes().to_vec());
    }
}

impl NotificationSource for Source {
    fn next(&self, buf: &mut [u8; NOTIFY_BUF_SIZE]) -> Option<usize> {
        let notification = self.pending.lock().unwrap().pop_front()?;
        buf[..notification.len()].copy_from_slice(&notification);
        Some(notification.len())
    }

    fn progress(
        &self,
        _ticket: Option<Ticket>,
        _deadline: Option<Instant>,
    ) -> Result<sync::Answer, Errno> {
        Err(Errno::NOTCONN)
    }

    fn kernel_attached(&self, _queue: bool, _tells: bool) {}

    fn watch(&self, _node: Node, _mask: u64) -> Result<u64, Errno> {
        Err(Errno::NOSYS)
    }

    fn hurry(&self) {
        self.hurried.fetch_add(1, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.pending.lock().unwrap().clear();
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}
