// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Queue`]: a [`Ring`] with its two eventfds, that is, a whole virtqueue of a vhost-user device.

use std::sync::Arc;

use vmm_sys_util::epoll::{Epoll, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::error::Error;
use super::memory::{Area, Memory};
use super::ring::{Ring, RingAreas};
use super::signal;

/// A virtqueue, driver's side.
#[derive(Debug)]
pub(super) struct Queue<T> {
    index: usize,
    ring: Ring<T>,
    kick: EventFd,
    call: EventFd,
}

impl<T> Queue<T> {
    /// An empty queue with number `index`; `features` as acked.
    pub(super) fn new(
        index: usize,
        memory: &Arc<Memory>,
        areas: RingAreas,
        features: u64,
    ) -> Result<Self, Error> {
        // Non-blocking, since the device holds the same open files: one that fills a counter up
        // would make our write to it sleep.
        let event =
            || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(Error::system("making an eventfd"));
        let ring = Ring::new(Arc::clone(memory), areas, features);
        Ok(Self { index, ring, kick: event()?, call: event()? })
    }

    /// [`Ring::add`].
    pub(super) fn add(&mut self, readable: &[Area], writable: &[Area], token: T) -> Result<(), T> {
        self.ring.add(readable, writable, token)
    }

    /// Wakes the device if it wants to be woken for what was added.
    pub(super) fn kick(&mut self) {
        if self.ring.should_kick()
            && let Err(error) = self.kick.write(1)
        {
            // The counter is full: the device has been kicked 2^64 times over already.
            tracing::debug!(queue = self.index, %error, "kick");
        }
    }

    /// [`Ring::pop`].
    pub(super) fn pop(&mut self) -> Result<Option<(T, u32)>, Error> {
        self.ring.pop().map_err(|source| Error::Ring { queue: self.index, source })
    }

    /// [`Ring::arm`].
    pub(super) fn arm(&mut self) -> bool {
        self.ring.arm()
    }

    /// [`Ring::has_used`].
    pub(super) fn has_used(&self) -> bool {
        self.ring.has_used()
    }

    /// The number of the queue.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// How many chains the device has.
    pub(super) fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    /// Wakes sleepers on `epoll` with `token` for every call.
    ///
    /// Edge-triggered: each write of the device is an edge, so the counter is never read, which
    /// saves a system call for every wake-up. It would take the device 2^64 calls to fill it.
    pub(super) fn register_call(&self, epoll: &Epoll, token: u64) -> Result<(), Error> {
        signal::register(epoll, &self.call, EventSet::IN | EventSet::EDGE_TRIGGERED, token)
            .map_err(Error::system("watching a call eventfd"))
    }

    /// What the device is told about the queue: its number, its rings, its eventfds.
    pub(super) fn setup(&self) -> (usize, (&Memory, &RingAreas), [&EventFd; 2]) {
        (self.index, self.ring.areas(), [&self.kick, &self.call])
    }
}
