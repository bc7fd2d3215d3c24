// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Taken`]: a request that the device has and is to give back, wherever it came from.

use std::sync::Arc;

use super::Chain;
use super::direct::Place;
use super::notification::NotificationSource;
use super::ring::Out;

/// What part of a queue's descriptors one request that waits may hold: all of them together leave half
/// of the queue to others.
const HELD_PART_MAX: usize = 8;

/// A request. It must be given back with [`Taken::complete`]; dropped without, it is lost to whoever asked, which is
/// right only if that is gone.
pub(super) struct Taken {
    /// Where it lies.
    pub(super) chain: Chain,
    from: Origin,
}

/// Where a request came from.
enum Origin {
    /// A queue of a driver.
    Ring(Out),
    /// This machine's kernel.
    Kernel(Place),
}

impl Taken {
    /// A chain of a ring.
    pub(super) fn from_ring(chain: Chain, out: Out) -> Self {
        Self { chain, from: Origin::Ring(out) }
    }

    /// A message of the kernel, laid out as a chain.
    pub(super) fn from_kernel(chain: Chain, place: Place) -> Self {
        Self { chain, from: Origin::Kernel(place) }
    }

    /// Whether it holds too much of its queue to wait for something.
    pub(super) fn holds_too_much_to_wait(&self) -> bool {
        match &self.from {
            Origin::Ring(out) => self.chain.clone().count() * HELD_PART_MAX > out.queue_size(),
            Origin::Kernel(_) => false,
        }
    }

    /// Whether an agent on this machine asks: not known of a driver's queues.
    pub(super) fn is_of_agent(&self) -> bool {
        match &self.from {
            Origin::Ring(_) => false,
            Origin::Kernel(place) => place.is_of_agent(),
        }
    }

    /// Will be answered when `source` has something. When the ring is stopped it is told to hurry.
    pub(super) fn waits_for(&self, source: &Arc<dyn NotificationSource>) {
        match &self.from {
            Origin::Ring(out) => out.waits_for(source),
            // Ended by the session, which tells the source itself.
            Origin::Kernel(_) => {}
        }
    }

    /// Gives it back with `len` bytes of reply.
    pub(super) fn complete(self, len: u32) {
        match self.from {
            Origin::Ring(out) => out.give_back(self.chain.head_index(), len),
            Origin::Kernel(place) => place.answer(len),
        }
    }
}
