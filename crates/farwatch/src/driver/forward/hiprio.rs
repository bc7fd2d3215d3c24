// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Hiprio`]: queue 0, which takes what is never answered: FORGET, BATCH_FORGET, INTERRUPT.

use std::sync::Arc;

use vmm_sys_util::epoll::{Epoll, EpollEvent};

use super::slot::Slot;
use crate::driver::error::Error;
use crate::driver::memory::{Layout, Memory};
use crate::driver::queue::Queue;
use crate::driver::ring::RingAreas;
use crate::driver::signal::{self, Signal};

/// The most messages that the device can have at once; a worker with one more waits.
const HIPRIO_IN_FLIGHT_MAX: u16 = 16;

/// The areas of the hiprio queue.
#[derive(Debug)]
pub(in crate::driver) struct HiprioAreas {
    ring: RingAreas,
    slots: Vec<Slot>,
}

impl HiprioAreas {
    /// Plans the queue.
    pub(in crate::driver) fn plan(layout: &mut Layout) -> Self {
        let ring = RingAreas::plan(layout, HIPRIO_IN_FLIGHT_MAX, 1);
        Self { ring, slots: Slot::plan(layout, HIPRIO_IN_FLIGHT_MAX) }
    }
}

/// The hiprio queue, shared by all workers behind a mutex. It asks for no calls as long as there is
/// room, so forgetting wakes nobody but the device.
#[derive(Debug)]
pub(in crate::driver) struct Hiprio {
    queue: Queue<Slot>,
    free: Vec<Slot>,
    halt: Signal,
    epoll: Epoll,
}

impl Hiprio {
    /// An empty queue; `halt` ends a wait for room.
    pub(in crate::driver) fn new(
        memory: &Arc<Memory>,
        areas: HiprioAreas,
        features: u64,
        halt: Signal,
    ) -> Result<Self, Error> {
        let queue = Queue::new(0, memory, areas.ring, features)?;
        let epoll = Epoll::new().map_err(Error::system("making an epoll"))?;
        queue.register_call(&epoll, 0)?;
        halt.register(&epoll, 0).map_err(Error::system("watching for the end"))?;
        Ok(Self { queue, free: areas.slots, halt, epoll })
    }

    /// The virtqueue, to be handed to the device.
    pub(in crate::driver) fn queue(&self) -> &Queue<Slot> {
        &self.queue
    }

    /// Sends the message of `len` bytes in `slot` and gives another slot for it, so nothing is
    /// copied and no worker runs short. Waits for room; the message is dropped when the session
    /// ends meanwhile.
    pub(super) fn send(&mut self, slot: Slot, len: usize) -> Result<Slot, Error> {
        loop {
            while let Some((used, _)) = self.queue.pop()? {
                self.free.push(used);
            }
            if let Some(spare) = self.free.pop() {
                let message = slot.message(len);
                self.queue.add(&[message], &[], slot).expect("the ring has a place for each slot");
                self.queue.kick();
                return Ok(spare);
            }
            if self.halt.is_raised() {
                return Ok(slot);
            }
            if !self.queue.arm() {
                signal::wait(&self.epoll, &mut [EpollEvent::default()], None)
                    .map_err(Error::system("waiting for the hiprio queue"))?;
            }
        }
    }
}
