// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The notification virtqueue (virtio 1.2 §5.11.6.3): buffers that the driver posts, each filled with
//! one notification.
//!
//! Two threads pump: the watch thread when the engine has something new, the queue's own when the
//! driver has posted buffers. Neither waits for the driver: without a buffer the notification stays
//! with its source, which is the bounded backlog; without a notification the buffer stays in the
//! ring. What is sent when, and what becomes of what is not sent, is the source's affair.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use farwatch_proto::Node;
use farwatch_proto::host::Ticket;
use farwatch_proto::wire::abi::NOTIFY_BUF_SIZE;
use farwatch_proto::wire::sync;
use rustix::io::Errno;
use vhost_user_backend::{VringState, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use virtiofsd::descriptor_utils::Writer;
use vm_memory::{GuestAddressSpace, GuestMemoryLoadGuard};

use super::ring::{Ring, call, give_back};
use super::stats::Counter;
use super::{AtomicMemory, Chain, Memory, QUEUE_SIZE_MAX};

/// Where the device gets notifications from: the daemon's engine.
pub trait NotificationSource: Send + Sync {
    /// Encodes the next notification into `buf` and returns its length; `None` when there is none, or
    /// none yet: [`Device::pump`](super::Device::pump) is called when there is one. Called with the lock
    /// of the notification queue held: it must not call `pump`, and must not wait for the host's file
    /// system, since GET_VRING_BASE would wait with it.
    fn next(&self, buf: &mut [u8; NOTIFY_BUF_SIZE]) -> Option<usize>;

    /// How far a barrier is, or a new one without a `ticket`; waits for it until `deadline`. The error
    /// is for whoever asks.
    fn progress(
        &self,
        ticket: Option<Ticket>,
        deadline: Option<Instant>,
    ) -> Result<sync::Answer, Errno>;

    /// A READ that waits for a notification is to be answered at once, with none, and who waits for a
    /// barrier, that it is not reached.
    fn hurry(&self);

    /// The guest's kernel takes notifications itself (`FUSE_HAVE_FSNOTIFY`): through the queue, or else by reads of the
    /// control node. `tells` says that it will say what is watched. Called before the reply to its INIT.
    fn kernel_attached(&self, queue: bool, tells: bool);

    /// The guest's kernel says for which `FS_*` bits a node is watched (FUSE_FSNOTIFY). Returns those that can be
    /// delivered; the error is for the kernel.
    fn watch(&self, node: Node, mask: u64) -> Result<u64, Errno>;

    /// The driver is gone or has reset the device: what was not delivered will not be asked for.
    fn reset(&self);
}

/// The queue as the device sees it.
///
/// Locks: `ring` before the vring's own before the source's.
pub(super) struct NotificationQueue {
    source: Arc<dyn NotificationSource>,
    /// Set at the driver's first kick, which is the first that the library shows of a ring.
    ring: Mutex<Option<(Ring, AtomicMemory)>>,
    pub(super) delivered: Counter,
    pub(super) bad_buffers: Counter,
}

/// What came of one attempt to fill a buffer.
enum Attempt {
    /// A buffer went back to the driver, filled.
    Delivered,
    /// A buffer went back to the driver, empty: it cannot hold a notification.
    BadBuffer,
    /// There is no notification.
    NothingPending,
    /// There is no buffer.
    NoBuffer,
}

impl NotificationQueue {
    pub(super) fn new(source: Arc<dyn NotificationSource>) -> Self {
        Self {
            source,
            ring: Mutex::new(None),
            delivered: Counter::default(),
            bad_buffers: Counter::default(),
        }
    }

    /// Where notifications come from, in whichever way they are fetched.
    pub(super) fn source(&self) -> &Arc<dyn NotificationSource> {
        &self.source
    }

    /// The driver has kicked the queue: remembers its ring, and pumps.
    pub(super) fn kicked(&self, ring: &Ring, memory: AtomicMemory) {
        *self.ring() = Some((ring.clone(), memory));
        self.pump();
    }

    /// Delivers while there are a buffer and a notification, then calls the driver once.
    pub(super) fn pump(&self) {
        let guard = self.ring();
        let Some((ring, memory)) = &*guard else { return };
        let mem = memory.memory();
        let mut state = ring.get_mut();
        let mut used = false;
        let mut bad_buffers = 0;
        let mut out_of_buffers = false;
        while state.is_enabled() && bad_buffers < QUEUE_SIZE_MAX {
            match self.attempt(&mut state, &mem) {
                Attempt::Delivered => (used, out_of_buffers) = (true, false),
                Attempt::BadBuffer => {
                    // A driver that posts nothing else could keep this thread here for ever.
                    bad_buffers += 1;
                    (used, out_of_buffers) = (true, false);
                }
                // The next notification comes with a pump of its own: no kick is needed.
                Attempt::NothingPending => break,
                Attempt::NoBuffer => {
                    // A kick is asked for, then the ring looked at once more. If it claims a
                    // buffer and still gives none, it is broken.
                    let more = state.enable_notification();
                    if out_of_buffers || !matches!(more, Ok(true)) {
                        break;
                    }
                    out_of_buffers = true;
                }
            }
        }
        if used {
            call(&mut state);
        }
    }

    fn attempt(
        &self,
        state: &mut VringState<AtomicMemory>,
        mem: &GuestMemoryLoadGuard<Memory>,
    ) -> Attempt {
        let queue = state.get_queue_mut();
        let Some(chain) = queue.iter(mem.clone()).ok().and_then(|mut chains| chains.next()) else {
            return Attempt::NoBuffer;
        };
        let head = chain.head_index();
        let Some(mut writer) = buffer(mem, chain) else {
            self.bad_buffers.add();
            give_back(state, head, 0);
            return Attempt::BadBuffer;
        };
        let mut bytes = [0; NOTIFY_BUF_SIZE];
        let Some(len) = self.source.next(&mut bytes) else {
            state.get_queue_mut().go_to_previous_position();
            return Attempt::NothingPending;
        };
        let bytes = &bytes[..len.min(NOTIFY_BUF_SIZE)];
        let written = writer.write(bytes).unwrap_or(0);
        give_back(state, head, u32::try_from(written).unwrap_or(0));
        self.delivered.add();
        Attempt::Delivered
    }

    /// True while the driver can be given notifications.
    pub(super) fn is_live(&self) -> bool {
        self.ring().as_ref().is_some_and(|(ring, _)| {
            let state = ring.get_ref();
            state.is_enabled() && state.get_queue().ready()
        })
    }

    /// The driver is gone or starts afresh.
    pub(super) fn reset(&self) {
        self.forget_ring();
        self.source.reset();
    }

    /// The queue is not, or no longer, one for notifications.
    pub(super) fn forget_ring(&self) {
        *self.ring() = None;
    }

    fn ring(&self) -> MutexGuard<'_, Option<(Ring, AtomicMemory)>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chain as a buffer, if it is memory and can hold any notification.
fn buffer(mem: &Memory, chain: Chain) -> Option<Writer<'_>> {
    let writer = Writer::new(mem, chain).ok()?;
    (writer.available_bytes() >= NOTIFY_BUF_SIZE).then_some(writer)
}
