// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Ring`]: the driver's side of a split virtqueue (virtio 1.2 §2.7).
//!
//! It knows descriptors, the two rings and when to wake whom; it does no system call, and it is not
//! the queue: eventfds are in `driver::queue`.
//!
//! The device can write all of the shared memory, so nothing is read back from it but the used ring
//! and the two notification hints. Free list, links and lengths live in private memory; a used
//! element must name a chain that is really out, and its length is cut to what that chain can hold.

use std::sync::Arc;

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use vm_memory::Bytes;

use super::memory::{Area, Layout, Memory};
use crate::sync::atomic::{Ordering, fence};
use crate::virtio::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, RING_F_EVENT_IDX,
    RING_F_INDIRECT_DESC, USED_F_NO_NOTIFY,
};

/// The most buffers that one chain can have.
pub(super) const CHAIN_LEN_MAX: usize = 4;
/// The most descriptors that a ring can have, virtio 1.2 §2.7.
pub(super) const SIZE_MAX: u16 = 1 << 15;

const DESC_LEN: usize = size_of::<Descriptor>();
/// `id` and `len`, 32 bits each.
const USED_ELEM_LEN: usize = 8;
/// `flags` and `idx`, which both rings begin with.
const RING_HEADER_LEN: usize = 4;
const FLAGS: usize = 0;
const IDX: usize = 2;

/// What the device did to a ring that no device may do. The ring is of no use afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RingError {
    /// More elements used than chains are out.
    #[error("used index {index} is more than the {in_flight} chains in flight ahead of {expected}")]
    UsedIndex {
        /// As the device wrote it.
        index: u16,
        /// The next one to come.
        expected: u16,
        /// How many chains the device had.
        in_flight: u16,
    },
    /// A used element that names no chain that is out.
    #[error("used element names descriptor {0}, which heads no chain in flight")]
    UsedId(u32),
}

/// The areas of one ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingAreas {
    size: u16,
    /// The descriptor table.
    pub(super) desc: Area,
    /// The avail ring, with `used_event`.
    pub(super) avail: Area,
    /// The used ring, with `avail_event`.
    pub(super) used: Area,
    /// One table of [`CHAIN_LEN_MAX`] for each descriptor.
    indirect: Area,
}

impl RingAreas {
    /// Plans a ring for at least `chains` chains of `chain_len` buffers each, with or without
    /// indirect descriptors.
    pub(super) fn plan(layout: &mut Layout, chains: u16, chain_len: u16) -> Self {
        let size = chains.saturating_mul(chain_len).clamp(1, SIZE_MAX).next_power_of_two();
        let n = usize::from(size);
        Self {
            size,
            desc: layout.take(DESC_LEN * n, 16),
            avail: layout.take(RING_HEADER_LEN + 2 * n + 2, 2),
            used: layout.take(RING_HEADER_LEN + USED_ELEM_LEN * n + 2, 4),
            indirect: layout.take(DESC_LEN * CHAIN_LEN_MAX * n, 16),
        }
    }

    /// The number of descriptors, a power of two.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    fn used_event(&self) -> usize {
        RING_HEADER_LEN + 2 * usize::from(self.size)
    }

    fn avail_event(&self) -> usize {
        RING_HEADER_LEN + USED_ELEM_LEN * usize::from(self.size)
    }
}

/// A chain that the device has.
#[derive(Debug)]
struct Chain<T> {
    last: u16,
    descriptors: u16,
    writable_len: u32,
    token: T,
}

/// The driver's side of a split virtqueue; `T` is what the caller wants back with a used chain.
#[derive(Debug)]
pub(super) struct Ring<T> {
    memory: Arc<Memory>,
    areas: RingAreas,
    event_idx: bool,
    indirect: bool,
    /// The chains in flight, by head.
    chains: Vec<Option<Chain<T>>>,
    in_flight: u16,
    /// Links of the chains in flight and of the free list.
    next: Vec<u16>,
    free_head: u16,
    free_len: u16,
    next_avail: u16,
    /// `next_avail` when the device was last told, or needed no telling.
    announced: u16,
    last_used: u16,
    /// A call has been asked for and has not come in vain since.
    armed: bool,
}

impl<T> Ring<T> {
    /// An empty ring over areas that hold zeroes; `features` as acked.
    pub(super) fn new(memory: Arc<Memory>, areas: RingAreas, features: u64) -> Self {
        let mut ring = Self {
            memory,
            areas,
            event_idx: features & RING_F_EVENT_IDX != 0,
            indirect: features & RING_F_INDIRECT_DESC != 0,
            chains: (0..areas.size).map(|_| None).collect(),
            in_flight: 0,
            next: (1..=areas.size).collect(),
            free_head: 0,
            free_len: areas.size,
            next_avail: 0,
            announced: 0,
            last_used: 0,
            armed: true,
        };
        ring.disarm();
        ring
    }

    /// Gives the device a chain of buffers to read, then buffers to write. The caller asks
    /// [`Ring::should_kick`] afterwards, once for all that it has added.
    ///
    /// # Errors
    /// Gives the token back when there are too few free descriptors.
    ///
    /// # Panics
    /// When there is no buffer at all, or more than [`CHAIN_LEN_MAX`].
    pub(super) fn add(&mut self, readable: &[Area], writable: &[Area], token: T) -> Result<(), T> {
        let len = readable.len() + writable.len();
        assert!((1..=CHAIN_LEN_MAX).contains(&len), "a chain has 1 to CHAIN_LEN_MAX buffers");
        let indirect = self.indirect && len > 1;
        let descriptors = if indirect { 1 } else { u16::try_from(len).expect("len is small") };
        if descriptors > self.free_len {
            return Err(token);
        }
        let head = self.free_head;
        let buffers = readable
            .iter()
            .map(|area| (*area, 0))
            .chain(writable.iter().map(|area| (*area, DESC_F_WRITE)));
        let mut last = head;
        if indirect {
            let table = self
                .areas
                .indirect
                .part(usize::from(head) * CHAIN_LEN_MAX * DESC_LEN, CHAIN_LEN_MAX * DESC_LEN);
            for (at, (area, flags)) in (0u16..).zip(buffers) {
                let next = (usize::from(at) + 1 < len).then_some(at + 1);
                self.write_descriptor(table, at, area, flags, next);
            }
            let table = table.part(0, len * DESC_LEN);
            self.write_descriptor(self.areas.desc, head, table, DESC_F_INDIRECT, None);
        } else {
            for (nth, (area, flags)) in (1u16..).zip(buffers) {
                if nth > 1 {
                    last = self.next[usize::from(last)];
                }
                let next = (nth < descriptors).then(|| self.next[usize::from(last)]);
                self.write_descriptor(self.areas.desc, last, area, flags, next);
            }
        }
        self.free_head = self.next[usize::from(last)];
        self.free_len -= descriptors;
        self.in_flight += 1;
        let writable_len = writable.iter().map(|area| buffer_len(*area)).sum();
        self.chains[usize::from(head)] = Some(Chain { last, descriptors, writable_len, token });
        self.publish(head);
        Ok(())
    }

    /// Takes the next chain that the device has used: its token, and how many bytes the device says
    /// it wrote, at most what the chain can hold.
    ///
    /// # Errors
    /// When the device broke the rules of the used ring.
    pub(super) fn pop(&mut self) -> Result<Option<(T, u32)>, RingError> {
        let index = self.used_idx();
        let pending = index.wrapping_sub(self.last_used);
        if pending == 0 {
            return Ok(None);
        }
        let (expected, in_flight) = (self.last_used, self.in_flight);
        if pending > in_flight {
            return Err(RingError::UsedIndex { index, expected, in_flight });
        }
        let at = RING_HEADER_LEN + USED_ELEM_LEN * usize::from(self.last_used % self.areas.size);
        let used = self.memory.slice(self.areas.used);
        let id = u32::from_le(used.read_obj(at).expect("the element is inside"));
        let len = u32::from_le(used.read_obj(at + 4).expect("the element is inside"));
        let chain = usize::try_from(id)
            .ok()
            .and_then(|head| self.chains.get_mut(head))
            .and_then(Option::take)
            .ok_or(RingError::UsedId(id))?;
        self.next[usize::from(chain.last)] = self.free_head;
        self.free_head = u16::try_from(id).expect("a head is below the ring's size");
        self.free_len += chain.descriptors;
        self.in_flight -= 1;
        self.last_used = self.last_used.wrapping_add(1);
        self.disarm();
        Ok(Some((chain.token, len.min(chain.writable_len))))
    }

    /// True when the device wants a kick for what was added since this was last asked.
    pub(super) fn should_kick(&mut self) -> bool {
        let added = self.next_avail.wrapping_sub(self.announced);
        self.announced = self.next_avail;
        if added == 0 {
            return false;
        }
        // The device must see the new index before its hint is read, as it writes the hint before
        // it reads the index (virtio 1.2 §2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.event_idx {
            // vring_need_event() of §2.7.10: the index the device waits for is among the new ones.
            let event = self.load(self.areas.used, self.areas.avail_event(), Ordering::Relaxed);
            self.next_avail.wrapping_sub(event).wrapping_sub(1) < added
        } else {
            self.load(self.areas.used, FLAGS, Ordering::Relaxed) & USED_F_NO_NOTIFY == 0
        }
    }

    /// Asks for a call when the next chain is used. True when one is used already: then the caller
    /// must not sleep.
    pub(super) fn arm(&mut self) -> bool {
        self.armed = true;
        if self.event_idx {
            self.store(self.areas.used_event(), self.last_used, Ordering::Relaxed);
        } else {
            self.store(FLAGS, 0, Ordering::Relaxed);
        }
        // The mirror image of should_kick(): the wish before the look.
        fence(Ordering::SeqCst);
        self.has_used()
    }

    /// Whether a chain is used, without asking for a call.
    pub(super) fn has_used(&self) -> bool {
        self.used_idx() != self.last_used
    }

    /// How many chains the device has.
    pub(super) fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Where the ring lies, for the device.
    pub(super) fn areas(&self) -> (&Memory, &RingAreas) {
        (&self.memory, &self.areas)
    }

    /// Takes the wish for a call back. With EVENT_IDX it lapses by itself once the index has passed.
    fn disarm(&mut self) {
        if self.armed && !self.event_idx {
            self.store(FLAGS, AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
        }
        self.armed = false;
    }

    fn publish(&mut self, head: u16) {
        let at = RING_HEADER_LEN + 2 * usize::from(self.next_avail % self.areas.size);
        self.store(at, head, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        // Release: descriptors, tables and the entry are there before the index says so.
        self.store(IDX, self.next_avail, Ordering::Release);
    }

    fn write_descriptor(&self, table: Area, at: u16, area: Area, flags: u16, next: Option<u16>) {
        let flags = if next.is_some() { flags | DESC_F_NEXT } else { flags };
        let address = self.memory.guest_address(area);
        let descriptor = Descriptor::new(address, buffer_len(area), flags, next.unwrap_or(0));
        self.memory
            .slice(table)
            .write_obj(descriptor, DESC_LEN * usize::from(at))
            .expect("the descriptor is inside its table");
    }

    /// Acquire: what the device wrote before it counted an element is seen after this.
    fn used_idx(&self) -> u16 {
        self.load(self.areas.used, IDX, Ordering::Acquire)
    }

    fn load(&self, area: Area, at: usize, order: Ordering) -> u16 {
        u16::from_le(self.memory.slice(area).load(at, order).expect("the field is inside its ring"))
    }

    /// Writes a field of the avail ring, the only ring that is ours.
    fn store(&self, at: usize, value: u16, order: Ordering) {
        self.memory
            .slice(self.areas.avail)
            .store(value.to_le(), at, order)
            .expect("the field is inside its ring");
    }
}

fn buffer_len(area: Area) -> u32 {
    u32::try_from(area.len()).expect("buffers are far below 4 GiB")
}

#[cfg(test)]
mod tests;
