// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Unmounted`]: the workers of a driver with a socket in the place of `/dev/fuse`, for tests and fuzzing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::OwnedFd;
use std::sync::Arc;
#[cfg(test)]
use std::sync::Weak;
use std::thread::{self, JoinHandle};

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::forward::Halt;
use super::signal::Signal;
use super::{Device, Driver, Error, NotificationQueue};
use crate::dev_fuse::FuseDevice;

/// See the module's documentation.
pub(super) struct Unmounted {
    /// The kernel's end of the socket.
    pub(super) kernel: OwnedFd,
    /// The other end, which the workers hold.
    #[cfg(test)]
    pub(super) fuse: Weak<FuseDevice>,
    pub(super) halt: Halt,
    pub(super) closed: Signal,
    pub(super) notifications: Option<NotificationQueue>,
    pub(super) workers: Vec<JoinHandle<Result<(), Error>>>,
    // Stops the queues when it goes.
    pub(super) _device: Device,
}

impl Unmounted {
    /// Starts the workers.
    pub(super) fn new(mut driver: Driver) -> Self {
        let notifications = driver.notification_queue();
        let (kernel, fuse) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        rustix::fs::fcntl_setfl(&fuse, OFlags::NONBLOCK).unwrap();
        let fuse = Arc::new(FuseDevice::from(fuse));
        let workers = driver
            .workers
            .into_iter()
            .map(|worker| {
                let fuse = Arc::clone(&fuse);
                thread::spawn(move || worker.run(&fuse))
            })
            .collect();
        let (halt, closed) = (driver.orders.halt, driver.orders.closed);
        Self {
            kernel,
            #[cfg(test)]
            fuse: Arc::downgrade(&fuse),
            halt,
            closed,
            notifications,
            workers,
            _device: driver.device,
        }
    }
}
