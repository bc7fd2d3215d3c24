// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`NotificationQueue`]: the driver's end of the notification queue (virtio 1.2 §5.11.6.3).
//!
//! It posts buffers, copies messages out of them and posts them again; what is in a message is
//! the caller's business (`farwatch_proto::wire`). The caller is the thread of `farwatch mount` that
//! joins and replays.

use std::sync::Arc;
use std::time::Instant;

use vmm_sys_util::epoll::{Epoll, EpollEvent};

use super::error::Error;
use super::memory::{Area, Layout, Memory};
use super::queue::Queue;
use super::ring::RingAreas;
use super::signal::{self, Signal};

/// The smallest buffer that holds a notification: `fuse_out_header` and the fixed part.
pub(super) const NOTIFY_BUF_SIZE_MIN: usize = 16 + 48;
/// The largest buffer that a device can ask for; a notification with the longest name has 319 bytes.
pub(super) const NOTIFY_BUF_SIZE_MAX: usize = 64 << 10;

/// What [`NotificationQueue::receive`] came back with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A message of that many bytes is in `out`.
    Message(usize),
    /// The deadline has come.
    TimedOut,
    /// The session is over; nothing will ever come again.
    Closed,
}

/// The areas of the notification queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotificationAreas {
    ring: RingAreas,
    buffers: Area,
    count: u16,
    size: usize,
}

impl NotificationAreas {
    /// Plans `count` buffers of `size` bytes.
    pub(super) fn plan(layout: &mut Layout, count: u16, size: usize) -> Self {
        let count = count.clamp(1, super::ring::SIZE_MAX);
        let buffers = layout.take(usize::from(count) * size, 64);
        Self { ring: RingAreas::plan(layout, count, 1), buffers, count, size }
    }
}

/// The consumer of notifications. A message is copied out and its buffer given back before the
/// caller sees it, so that the device is never short of buffers because the caller waits for the
/// mate of a half: one buffer is enough (S10).
#[derive(Debug)]
pub struct NotificationQueue {
    queue: Queue<Area>,
    memory: Arc<Memory>,
    buf_size: usize,
    closed: Signal,
    epoll: Epoll,
}

impl NotificationQueue {
    /// All buffers posted, the device not told yet.
    pub(super) fn new(
        index: usize,
        memory: &Arc<Memory>,
        areas: NotificationAreas,
        features: u64,
        closed: Signal,
    ) -> Result<Self, Error> {
        let mut queue = Queue::new(index, memory, areas.ring, features)?;
        for nth in 0..usize::from(areas.count) {
            let buffer = areas.buffers.part(nth * areas.size, areas.size);
            queue.add(&[], &[buffer], buffer).expect("the ring has a place for each buffer");
        }
        let epoll = Epoll::new().map_err(Error::system("making an epoll"))?;
        queue.register_call(&epoll, 0)?;
        closed.register(&epoll, 0).map_err(Error::system("watching for the end"))?;
        let memory = Arc::clone(memory);
        Ok(Self { queue, memory, buf_size: areas.size, closed, epoll })
    }

    /// The longest message in bytes: what `out` of [`NotificationQueue::receive`] should hold.
    pub fn buf_size(&self) -> usize {
        self.buf_size
    }

    /// Waits for a message until `deadline`, for ever without one, and copies it to `out`; one that
    /// is longer than `out` is cut there. Messages that the device sends empty are skipped.
    ///
    /// # Errors
    /// When the device broke the rules of the queue; do not call this again then.
    pub fn receive(
        &mut self,
        deadline: Option<Instant>,
        out: &mut [u8],
    ) -> Result<Received, Error> {
        // Tested on each turn, not only when asleep: a device that never stops sending must not
        // keep the caller from seeing its end.
        while !self.closed.is_raised() {
            if let Some((buffer, used)) = self.queue.pop()? {
                let len = usize::try_from(used).expect("a length that fits its buffer");
                let len = self.memory.slice(buffer.part(0, len)).copy_to(out);
                self.queue.add(&[], &[buffer], buffer).expect("its own place is free");
                self.queue.kick();
                if len > 0 {
                    return Ok(Received::Message(len));
                }
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    return Ok(Received::TimedOut);
                }
            } else if !self.queue.arm() {
                let woken = signal::wait(&self.epoll, &mut [EpollEvent::default()], deadline)
                    .map_err(Error::system("waiting for a notification"))?;
                if woken == 0 {
                    return Ok(Received::TimedOut);
                }
            }
        }
        Ok(Received::Closed)
    }

    /// What wakes when the session ends, and for nothing else.
    pub(super) fn end(&self) -> Result<Epoll, Error> {
        let end = Epoll::new().map_err(Error::system("making an epoll"))?;
        self.closed.register(&end, 0).map_err(Error::system("watching for the end"))?;
        Ok(end)
    }

    /// The virtqueue, to be handed to the device; then [`NotificationQueue::announce`].
    pub(super) fn queue(&self) -> &Queue<Area> {
        &self.queue
    }

    /// Tells the device of the buffers posted.
    pub(super) fn announce(&mut self) {
        self.queue.kick();
    }
}
