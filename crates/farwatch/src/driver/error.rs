// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`enum@Error`]: why a driver cannot start, or had to stop.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::REQUEST_QUEUES_MAX;
use super::notification::{NOTIFY_BUF_SIZE_MAX, NOTIFY_BUF_SIZE_MIN};
use super::ring::RingError;
use crate::dev_fuse;

/// What can go wrong between `/dev/fuse` and a virtio-fs device.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody listens on the socket.
    #[error("no device answers at {}: start `farwatch serve` or virtiofsd there", path.display())]
    NoDevice {
        /// The socket.
        path: PathBuf,
        /// What `connect(2)` said.
        source: io::Error,
    },
    /// The socket is there, its owner says nothing.
    #[error("the device did not answer {request} in time (a device serves one client at a time)")]
    Silent {
        /// The vhost-user request.
        request: &'static str,
    },
    /// A vhost-user request failed.
    #[error("the device did not take {request}")]
    Refused {
        /// The vhost-user request.
        request: &'static str,
        /// What the protocol library said.
        source: vhost::Error,
    },
    /// A device that the driver cannot use.
    #[error("the device does not offer {0}")]
    Missing(&'static str),
    /// A configuration space without sense.
    #[error(
        "the device announces a notify_buf_size of {0}, which is not in \
         {NOTIFY_BUF_SIZE_MIN}..={NOTIFY_BUF_SIZE_MAX}"
    )]
    NotifyBufSize(u32),
    /// A configuration space without a request queue, or too few queues for one.
    #[error("the device has no request queue (farwatch uses 1 to {REQUEST_QUEUES_MAX})")]
    NoRequestQueue,
    /// The device broke the rules of a virtqueue.
    #[error("the device broke queue {queue}")]
    Ring {
        /// The index of the queue.
        queue: usize,
        /// How.
        source: RingError,
    },
    /// The FUSE connection.
    #[error(transparent)]
    Fuse(#[from] dev_fuse::Error),
    /// `mount(2)` failed.
    #[error("cannot mount on {}", mount_point.display())]
    Mount {
        /// Where.
        mount_point: PathBuf,
        /// What `mount(2)` said.
        source: io::Error,
    },
    /// `umount2(2)` failed.
    #[error("cannot unmount {}", mount_point.display())]
    Unmount {
        /// Where.
        mount_point: PathBuf,
        /// What `umount2(2)` said.
        source: io::Error,
    },
    /// A system call that does not fail in a healthy system.
    #[error("{what}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread of the driver panicked: a bug.
    #[error("a thread of the driver panicked")]
    Panicked,
}

impl Error {
    /// For `map_err`: `what` was being done when a system call failed.
    pub(super) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}
