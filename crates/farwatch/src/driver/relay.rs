// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Relay`]: hands notifications on to the kernel, where that raises the events itself (`docs/PROTOCOL.md`, 10).
//!
//! One thread, which makes no call on the mount. What it writes the kernel copies and raises later, so the write waits
//! for nothing; when too many wait to be raised it fails, and is repeated. The device's backlog waits meanwhile.

use std::sync::Weak;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{Epoll, EpollEvent};

use super::error::Error;
use super::notification::{NotificationQueue, Received};
use super::signal;
use crate::dev_fuse::{FuseDevice, Notified};

/// How long a message waits until it is written again. The kernel does not say when it has room.
const FULL_WAIT: Duration = Duration::from_millis(1);

/// See the module's documentation.
#[derive(Debug)]
pub struct Relay(JoinHandle<()>);

impl Relay {
    /// Starts the thread, which ends when the queue is closed. It has no reference to `fuse` of its own.
    pub(super) fn start(queue: NotificationQueue, fuse: Weak<FuseDevice>) -> Result<Self, Error> {
        let run = move || match run(queue, &fuse) {
            Ok(Counts { written, refused }) => {
                tracing::info!(written, refused, "the relay of notifications exits");
            }
            Err(error) => {
                tracing::error!(%error, "delivering events failed: no more events; mount again");
            }
        };
        let thread = thread::Builder::new().name("relay".into()).spawn(run);
        thread.map(Self).map_err(Error::system("starting a thread"))
    }

    /// Waits for its end.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the relay of notifications panicked");
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    written: u64,
    /// The kernel knows no such message.
    refused: u64,
}

fn run(mut queue: NotificationQueue, fuse: &Weak<FuseDevice>) -> Result<Counts, Error> {
    let end = queue.end()?;
    let mut counts = Counts::default();
    let mut message = vec![0; queue.buf_size()];
    while let Received::Message(len) = queue.receive(None, &mut message)? {
        match write(fuse, &message[..len], &end)? {
            Notified::Taken => counts.written += 1,
            Notified::Refused => counts.refused += 1,
            Notified::Full | Notified::Gone => break,
        }
    }
    Ok(counts)
}

/// Writes a message, again and again while the kernel has no room, until the session ends.
fn write(fuse: &Weak<FuseDevice>, message: &[u8], end: &Epoll) -> Result<Notified, Error> {
    loop {
        // Without a reference while it waits: the connection is to close when the workers have ended.
        let notified = fuse.upgrade().map_or(Notified::Gone, |fuse| fuse.notify(message));
        tracing::trace!(len = message.len(), ?notified);
        if notified != Notified::Full {
            return Ok(notified);
        }
        let again = Instant::now() + FULL_WAIT;
        let ended = signal::wait(end, &mut [EpollEvent::default()], Some(again));
        if ended.map_err(Error::system("waiting for room"))? > 0 {
            return Ok(notified);
        }
    }
}
