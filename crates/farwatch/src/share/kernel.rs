// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest whose kernel takes notifications itself, and raises the events: `docs/PROTOCOL.md`, section 10.

use std::sync::atomic::{AtomicBool, Ordering};

use farwatch_proto::host::InterestError;
use farwatch_proto::wire::control::Delivery;
use farwatch_proto::{Mask, Node};
use rustix::io::Errno;

use super::{Share, State};

/// What is asked of each request, readable without the lock.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// The client raises the events itself, be it the kernel or a module.
    native: AtomicBool,
    /// The kernel itself is the client, or is to become it.
    kernel: AtomicBool,
}

impl Flags {
    /// Called with the lock held after each change of what they say.
    pub(super) fn publish(&self, state: &State) {
        self.native.store(state.engine.is_native(), Ordering::Release);
        self.kernel.store(state.engine.is_kernel(), Ordering::Release);
    }
}

impl Share {
    /// See [`NotificationSource::kernel_attached`](crate::device::NotificationSource::kernel_attached).
    pub(super) fn kernel_attached(&self, queue: bool, tells: bool) {
        let mut state = self.lock();
        if state.engine.attach_kernel(tells).is_err() {
            return;
        }
        if queue {
            self.begin_delivery(&mut state, Delivery::Queue, Mask::all());
            tracing::info!(
                "the guest's kernel raises events itself, and takes notifications from the queue"
            );
        } else {
            // It has yet to open the control node.
            self.publish_agent(&state);
        }
    }

    /// The kernel has opened the control node. Returns the number of the link; `None` if it is not to, or has done so.
    pub(crate) fn kernel_reads(&self) -> Option<u64> {
        let mut state = self.lock();
        if !state.engine.is_kernel() || state.engine.is_listening() {
            return None;
        }
        self.begin_delivery(&mut state, Delivery::Reads, Mask::all())
    }

    /// Whether a request is the guest's kernel's own: such a request bears nobody's ids. Does not take the lock.
    pub(crate) fn is_kernel(&self, uid: u32, pid: i32) -> bool {
        uid == 0 && pid == 0 && self.flags.kernel.load(Ordering::Acquire)
    }

    /// Whether the client raises the events itself. Does not take the lock: each marked request asks.
    pub(crate) fn is_native(&self) -> bool {
        self.flags.native.load(Ordering::Acquire)
    }

    /// See [`NotificationSource::watch`](crate::device::NotificationSource::watch).
    pub(super) fn watch(&self, node: Node, mask: u64) -> Result<u64, Errno> {
        let pairs = self.pairs_renames();
        let watched = self.lock().engine.watch(node, mask, pairs);
        tracing::trace!(?node, mask, ?watched, "watched in the guest");
        watched.map_err(|error| match error {
            InterestError::NotNative => Errno::NOSYS,
            InterestError::Unknown => Errno::STALE,
            InterestError::Bits => Errno::INVAL,
        })
    }
}
