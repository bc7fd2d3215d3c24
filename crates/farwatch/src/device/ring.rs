// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Ring`]: a vring that is not stopped while something taken from it is in flight.
//!
//! vhost-user stops a ring with GET_VRING_BASE, and after its answer the device must not touch the
//! ring: a chain that was taken and not given back would be lost over a pause of the virtual
//! machine, or be given back to a driver that never posted it. vhost-user-backend 0.22 tells the
//! device nothing about it, but it does it through [`VringT`]. So this is a [`VringMutex`] whose
//! `set_queue_ready(false)` and `set_enabled(false)` return when all is given back.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::trace;
use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryLoadGuard};

use super::in_flight::InFlight;
use super::notification::NotificationSource;
use super::taken::Taken;
use super::{AtomicMemory, Memory};

/// A vring and the number of its chains that are in flight. Clones are the same ring.
#[derive(Clone)]
pub struct Ring {
    vring: VringMutex<AtomicMemory>,
    memory: AtomicMemory,
    in_flight: Arc<InFlight<dyn NotificationSource>>,
}

/// A chain that is out of its ring. While it exists, the ring is not stopped.
pub(super) struct Out(Ring);

impl Ring {
    /// Takes the next chain that the driver has made available; `None` if there is none, or the
    /// ring is not to be processed, or the driver has broken it.
    pub(super) fn take(&self, mem: GuestMemoryLoadGuard<Memory>) -> Option<Taken> {
        let mut state = self.vring.get_mut();
        if !state.is_enabled() {
            return None;
        }
        let chain = state.get_queue_mut().iter(mem).ok()?.next()?;
        self.in_flight.add();
        Some(Taken::from_ring(chain, Out(self.clone())))
    }

    /// Whether the driver has made something available that was not taken.
    pub(super) fn has_available(&self) -> bool {
        let state = self.vring.get_ref();
        let queue = state.get_queue();
        let available = queue.avail_idx(&*self.memory.memory(), Ordering::Acquire);
        available.is_ok_and(|available| available.0 != queue.next_avail())
    }
}

impl Out {
    /// Descriptors of the queue.
    pub(super) fn queue_size(&self) -> usize {
        usize::from(self.0.vring.get_ref().get_queue().size())
    }

    /// Will be answered when `source` has something. When the ring is stopped it is told to hurry.
    pub(super) fn waits_for(&self, source: &Arc<dyn NotificationSource>) {
        self.0.in_flight.waits_for(source);
    }

    /// Gives the chain back with `len` bytes written to it, and calls the driver if it wants to be
    /// called.
    pub(super) fn give_back(self, head: u16, len: u32) {
        let mut state = self.0.vring.get_mut();
        give_back(&mut state, head, len);
        call(&mut state);
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.0.in_flight.remove();
    }
}

/// Counts one on an eventfd, unless that would wait.
fn kick_once(kick: &File) -> io::Result<()> {
    let mut fds = [PollFd::new(kick, PollFlags::OUT)];
    if poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {
        rustix::io::write(kick, &1_u64.to_ne_bytes())?;
    }
    Ok(())
}

/// Puts a chain into the used ring.
pub(super) fn give_back(state: &mut VringState<AtomicMemory>, head: u16, len: u32) {
    if let Err(error) = state.add_used(head, len) {
        // The used ring is not in memory, or the head was none.
        trace!(%error, "the driver has broken its ring");
    }
}

/// Signals the call eventfd, unless the driver has said that it need not be (EVENT_IDX).
pub(super) fn call(state: &mut VringState<AtomicMemory>) {
    if state.needs_notification().unwrap_or(true)
        && let Err(error) = state.signal_used_queue()
    {
        trace!(%error, "the driver cannot be called");
    }
}

impl<'a> VringStateGuard<'a, AtomicMemory> for Ring {
    type G = MutexGuard<'a, VringState<AtomicMemory>>;
}

impl<'a> VringStateMutGuard<'a, AtomicMemory> for Ring {
    type G = MutexGuard<'a, VringState<AtomicMemory>>;
}

impl VringT<AtomicMemory> for Ring {
    fn new(mem: AtomicMemory, max_queue_size: u16) -> Result<Self, QueueError> {
        let vring = VringMutex::new(mem.clone(), max_queue_size)?;
        Ok(Self { vring, memory: mem, in_flight: Arc::default() })
    }

    fn set_enabled(&self, enabled: bool) {
        self.vring.set_enabled(enabled);
        if !enabled {
            self.in_flight.wait_for_none(NotificationSource::hurry);
        }
    }

    /// A ring that stops is left with kicks asked for: whoever takes it up cannot know that they were
    /// not wanted for a moment.
    fn set_queue_ready(&self, ready: bool) {
        let was_ready = self.vring.get_ref().get_queue().ready();
        self.vring.set_queue_ready(ready);
        if !ready {
            self.in_flight.wait_for_none(NotificationSource::hurry);
            if was_ready && let Err(error) = self.vring.enable_notification() {
                trace!(%error, "the driver has broken its ring");
            }
        }
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<AtomicMemory>> {
        self.vring.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<AtomicMemory>> {
        self.vring.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.vring.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.vring.signal_used_queue()
    }

    /// Not of a ring that is stopped: its memory may be on its way to another host.
    fn enable_notification(&self) -> Result<bool, QueueError> {
        let mut state = self.vring.get_mut();
        if state.get_queue().ready() { state.enable_notification() } else { Ok(false) }
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        let mut state = self.vring.get_mut();
        if state.get_queue().ready() { state.disable_notification() } else { Ok(()) }
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.vring.needs_notification()
    }

    fn set_queue_info(&self, desc: u64, avail: u64, used: u64) -> Result<(), QueueError> {
        self.vring.set_queue_info(desc, avail, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.vring.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.vring.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.vring.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.vring.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.vring.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.vring.set_queue_event_idx(enabled);
    }

    /// What is available already may have been kicked for elsewhere, before the ring was stopped, and
    /// the driver need not kick again.
    fn set_kick(&self, file: Option<File>) {
        if let Some(kick) = file.as_ref().filter(|_| self.has_available())
            && let Err(error) = kick_once(kick)
        {
            trace!(%error, "a ring is looked at when it is kicked");
        }
        self.vring.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.vring.read_kick()
    }

    fn set_call(&self, file: Option<File>) {
        self.vring.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.vring.set_err(file);
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic};

    use super::*;

    const USED: u64 = 0x3000;

    /// `virtq_used.flags`: 1 when the driver need not kick (`VIRTQ_USED_F_NO_NOTIFY`).
    fn flags(memory: &AtomicMemory) -> u16 {
        memory.memory().read_obj(GuestAddress(USED)).unwrap()
    }

    #[test]
    fn a_ring_that_has_stopped_has_kicks_asked_for_and_is_not_touched_any_more() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let memory = GuestMemoryAtomic::new(memory);
        let ring = Ring::new(memory.clone(), 16).unwrap();
        ring.set_queue_size(16);
        ring.set_queue_info(0x1000, 0x2000, USED).unwrap();
        ring.set_queue_ready(true);
        ring.set_enabled(true);
        ring.disable_notification().unwrap();
        assert_eq!(flags(&memory), 1);

        ring.set_queue_ready(false);
        assert_eq!(flags(&memory), 0);
        ring.disable_notification().unwrap();
        assert_eq!(flags(&memory), 0);
        assert!(!ring.enable_notification().unwrap());
    }
}
