// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The workers: FUSE messages from `/dev/fuse` to a request queue of the device, replies back.
//!
//! One thread for each request queue, each with a [`Queue`] of its own; they share the FUSE
//! connection and the [`Hiprio`] queue, nothing else. Messages are not interpreted.
//!
//! A lone request costs a worker three to five system calls: it sleeps until there is a message, reads it
//! into shared memory, kicks if the device sleeps, polls for the reply a moment and sleeps until it is called if that has
//! not come, writes the reply out of shared memory. When
//! more than one request is on its way it goes on reading before it sleeps, and collects replies
//! that came meanwhile without being called for each.

mod hiprio;
mod slot;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{Epoll, EpollEvent, EventSet};

pub(super) use hiprio::{Hiprio, HiprioAreas};
use slot::Slot;

use super::error::Error;
use super::memory::{Area, Layout, Memory};
use super::queue::Queue;
use super::ring::RingAreas;
use super::signal::{self, Signal};
use crate::busy_poll::BusyPoll;
use crate::dev_fuse::Counts;
use crate::dev_fuse::{FuseDevice, InHeader, Incoming};

/// The most requests that one request queue has in flight; with that many the worker reads no more,
/// and the kernel queues them.
const IN_FLIGHT_MAX: u16 = 16;
/// How long requests in flight get to finish when the session is stopped. Those that do not fail
/// with the connection.
pub(super) const DRAIN_WAIT: Duration = Duration::from_secs(1);

const TOKEN_FUSE: u64 = 0;
const TOKEN_OTHER: u64 = 1;

/// The areas of one request queue.
#[derive(Debug)]
pub(super) struct WorkerAreas {
    ring: RingAreas,
    slots: Vec<Slot>,
}

impl WorkerAreas {
    /// Plans the queue.
    pub(super) fn plan(layout: &mut Layout) -> Self {
        let ring = RingAreas::plan(layout, IN_FLIGHT_MAX, 2);
        Self { ring, slots: Slot::plan(layout, IN_FLIGHT_MAX) }
    }
}

/// A request that the device has.
#[derive(Debug)]
struct Request {
    slot: Slot,
    reply: Area,
    unique: u64,
    is_init: bool,
}

/// The end of all workers.
#[derive(Clone, Debug)]
pub(super) struct Halt {
    /// Stop reading messages; requests in flight get [`DRAIN_WAIT`].
    pub(super) stop: Signal,
    /// Do not wait for requests in flight: the device is gone.
    pub(super) at_once: Signal,
}

/// What all workers of a session have in common.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// The queue for what is never answered.
    pub(super) hiprio: Arc<Mutex<Hiprio>>,
    /// The end.
    pub(super) halt: Halt,
    /// Counts the requests.
    pub(super) counts: Arc<Counts>,
}

/// Forwards between `/dev/fuse` and one request queue.
#[derive(Debug)]
pub(super) struct Worker {
    queue: Queue<Request>,
    memory: Arc<Memory>,
    free: Vec<Slot>,
    shared: Shared,
    busy_poll: BusyPoll,
}

impl Worker {
    /// A worker for queue `index`, without a FUSE connection yet.
    pub(super) fn new(
        index: usize,
        memory: &Arc<Memory>,
        areas: WorkerAreas,
        features: u64,
        shared: Shared,
    ) -> Result<Self, Error> {
        let queue = Queue::new(index, memory, areas.ring, features)?;
        let (memory, busy_poll) = (Arc::clone(memory), BusyPoll::default());
        Ok(Self { queue, memory, free: areas.slots, shared, busy_poll })
    }

    /// The virtqueue, to be handed to the device.
    pub(super) fn queue(&self) -> &Queue<impl Sized> {
        &self.queue
    }

    /// Forwards until the file system is unmounted or the session halts.
    ///
    /// # Errors
    /// When the device broke its queue, or the kernel asks for what we do not have.
    pub(super) fn run(mut self, fuse: &FuseDevice) -> Result<(), Error> {
        let idle = self.epoll(fuse, EventSet::IN)?;
        // With no free slot, a message is nothing to wake up for; the death of the connection is.
        let full = self.epoll(fuse, EventSet::empty())?;
        let mut events = [EpollEvent::default(); 3];
        loop {
            self.deliver(fuse)?;
            if self.shared.halt.stop.is_raised() {
                return self.drain(fuse);
            }
            let queue = &self.queue;
            if queue.in_flight() > 0 && self.busy_poll.wait(|| queue.has_used()) {
                continue;
            }
            if self.queue.arm() {
                continue;
            }
            let epoll = if self.free.is_empty() { &full } else { &idle };
            let woken = signal::wait(epoll, &mut events, None)
                .map_err(Error::system("waiting for requests"))?;
            let fuse_events = events[..woken].iter().find(|event| event.data() == TOKEN_FUSE);
            if let Some(event) = fuse_events {
                // fuse_dev_poll() reports an error when the connection is gone, and only then.
                let gone = event.events() & EventSet::ERROR.bits() != 0;
                if gone || !self.collect(fuse)? {
                    return Ok(());
                }
            }
        }
    }

    /// What to sleep on: the connection, the call of the queue, the halt.
    fn epoll(&self, fuse: &FuseDevice, events: EventSet) -> Result<Epoll, Error> {
        let epoll = Epoll::new().map_err(Error::system("making an epoll"))?;
        // Of several workers that sleep, one message wakes one.
        let exclusive = if events.is_empty() { events } else { events | EventSet::EXCLUSIVE };
        signal::register(&epoll, fuse, exclusive, TOKEN_FUSE)
            .map_err(Error::system("watching /dev/fuse"))?;
        self.queue.register_call(&epoll, TOKEN_OTHER)?;
        self.shared
            .halt
            .stop
            .register(&epoll, TOKEN_OTHER)
            .map_err(Error::system("watching for the end"))?;
        Ok(epoll)
    }

    /// Reads messages and hands them to the device; false when the connection is gone.
    fn collect(&mut self, fuse: &FuseDevice) -> Result<bool, Error> {
        while let Some(slot) = self.free.pop() {
            let incoming = fuse.read(&mut self.memory.slice(slot.message_space()));
            match incoming? {
                Incoming::Message(len) => self.forward(slot, len)?,
                Incoming::Nothing => {
                    self.free.push(slot);
                    break;
                }
                Incoming::Gone => return Ok(false),
            }
            if self.queue.in_flight() <= 1 {
                // A lone request: the next comes after its reply, to look for it now is in vain.
                break;
            }
        }
        Ok(true)
    }

    fn forward(&mut self, slot: Slot, len: usize) -> Result<(), Error> {
        let message = slot.message(len);
        let header = InHeader::read(&self.memory.slice(message));
        let [uid, gid] = header.ids;
        tracing::trace!(
            queue = self.queue.index(),
            opcode = header.opcode,
            uid,
            gid,
            header.unique,
            len
        );
        self.shared.counts.add(header.opcode);
        if header.is_hiprio() {
            let mut hiprio = self.shared.hiprio.lock().unwrap_or_else(PoisonError::into_inner);
            self.free.push(hiprio.send(slot, len)?);
            return Ok(());
        }
        let room = slot.reply(len);
        let reply = room.part(0, room.len().min(header.reply_len_max.unwrap_or(usize::MAX)));
        let (unique, is_init) = (header.unique, header.is_init());
        let request = Request { slot, reply, unique, is_init };
        self.queue.add(&[message], &[reply], request).expect("the ring has a place for each slot");
        self.queue.kick();
        Ok(())
    }

    /// Writes the replies that have come.
    fn deliver(&mut self, fuse: &FuseDevice) -> Result<(), Error> {
        while let Some((request, used)) = self.queue.pop()? {
            let Request { slot, reply, unique, is_init } = request;
            let len = usize::try_from(used).expect("a length that fits its buffer");
            let reply = self.memory.slice(reply.part(0, len));
            if is_init {
                fuse.note_init(&reply);
            }
            fuse.reply(unique, &reply);
            self.free.push(slot);
        }
        Ok(())
    }

    /// Waits a while for the requests in flight.
    fn drain(mut self, fuse: &FuseDevice) -> Result<(), Error> {
        let deadline = Instant::now() + DRAIN_WAIT;
        let epoll = Epoll::new().map_err(Error::system("making an epoll"))?;
        self.queue.register_call(&epoll, TOKEN_OTHER)?;
        self.shared
            .halt
            .at_once
            .register(&epoll, TOKEN_OTHER)
            .map_err(Error::system("watching for the end"))?;
        while self.queue.in_flight() > 0 && !self.shared.halt.at_once.is_raised() {
            self.deliver(fuse)?;
            let woken = if self.queue.arm() || self.queue.in_flight() == 0 {
                continue;
            } else {
                signal::wait(&epoll, &mut [EpollEvent::default()], Some(deadline))
                    .map_err(Error::system("waiting for replies"))?
            };
            if woken == 0 {
                tracing::warn!(in_flight = self.queue.in_flight(), "abandoning requests in flight");
                break;
            }
        }
        Ok(())
    }
}
