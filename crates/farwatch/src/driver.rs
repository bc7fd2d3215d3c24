// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver: a virtio-fs device of this machine, mounted through `/dev/fuse`.
//!
//! It plays the guest's part for `farwatch mount`: a vhost-user frontend with virtqueues in shared
//! memory, which forwards FUSE messages between `/dev/fuse` and the device without looking at them, unless it is a device
//! of this program, which is given `/dev/fuse` itself (`Driver::connect_direct`); and a consumer of the notification
//! queue. It is not a file server, and it does not know what a
//! notification says.
//!
//! [`Driver::connect`] talks to the device, [`Driver::mount`] makes a [`Session`] of it.
//! [`Session::wait`] tells why that ends; the caller then lets go of what it has of the mount and
//! calls [`Session::close`]. Whatever happens, nothing waits for ever: when the device dies, every
//! request fails; when it is merely silent, a [`Stopper`] ends the session all the same.

mod error;
mod forward;
mod frontend;
#[cfg(any(test, fuzzing))]
pub mod lying;
mod memory;
mod mount;
mod mount_watch;
mod notification;
mod queue;
mod relay;
mod ring;
mod service;
mod signal;
mod supervisor;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(any(test, fuzzing))]
mod unmounted;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

pub use error::Error;
pub use frontend::Endpoint;
pub use mount::FS_TYPE;
pub use notification::{NotificationQueue, Received};
pub use relay::Relay;
pub use ring::RingError;

use forward::{Hiprio, HiprioAreas, Shared, Worker, WorkerAreas};
use frontend::Device;
use memory::Layout;
use mount::Mount;
use notification::NotificationAreas;
use service::{Kill, Service};
use signal::Signal;
use supervisor::{Orders, Supervisor};

use crate::dev_fuse::{Counts, FuseDevice, Handoff};
use crate::replay_cpu::ReplayCpu;

/// The most request queues that a driver uses, each with a thread.
pub const REQUEST_QUEUES_MAX: usize = 4;

/// The number of the notification queue, virtio 1.2 §5.11.2.
const NOTIFICATION_QUEUE: usize = 1;

/// What the caller of [`Driver::connect`] can choose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Buffers in the notification queue, at least 1.
    pub notification_buffers: u16,
    /// The most request queues to use: 1 to [`REQUEST_QUEUES_MAX`].
    pub request_queues_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { notification_buffers: 64, request_queues_max: REQUEST_QUEUES_MAX }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// A [`Stopper`] asked for it.
    Stopped,
    /// Someone unmounted the file system.
    Unmounted,
    /// The device hung up.
    DeviceGone,
}

/// Ends a session from any thread, also before it has begun.
#[derive(Clone, Debug)]
pub struct Stopper(Signal);

impl Stopper {
    /// Ends the session: [`Session::wait`] returns.
    pub fn stop(&self) {
        self.0.raise();
    }
}

/// A device with its queues, not mounted yet.
pub struct Driver {
    // Dropped, and so stopped, before the queues, whose memory it uses.
    device: Device,
    workers: Vec<Worker>,
    hiprio: Arc<Mutex<Hiprio>>,
    notification_queue: Option<NotificationQueue>,
    orders: Orders,
    counts: Arc<Counts>,
    direct: Option<DirectDevice>,
}

/// A device that serves the kernel itself.
struct DirectDevice {
    /// The way of the FUSE connection to it.
    handoff: Handoff,
    kill: Kill,
    replay_cpu: Arc<ReplayCpu>,
}

impl Driver {
    /// Connects to a device, negotiates, and starts its queues.
    ///
    /// # Errors
    /// When no device is there, it says nothing for five seconds, or it is none that we can use.
    pub fn connect(endpoint: Endpoint, options: &Options) -> Result<Self, Error> {
        Self::connect_with(endpoint, options, None)
    }

    /// Connects to a device of this program, which serves the kernel itself: the driver keeps the notification queue, and
    /// gives the FUSE connection away. A device that is stuck at the end is ended by `kill`.
    ///
    /// # Errors
    /// Those of [`Driver::connect`].
    pub(crate) fn connect_direct(
        stream: UnixStream,
        handoff: Handoff,
        kill: impl Fn() + Send + 'static,
        options: &Options,
    ) -> Result<Self, Error> {
        let replay_cpu = ReplayCpu::new().map_err(Error::system("making the shared memory"))?;
        let (kill, replay_cpu) = (Kill(Box::new(kill)), Arc::new(replay_cpu));
        let direct = Some(DirectDevice { handoff, kill, replay_cpu });
        Self::connect_with(Endpoint::Stream(stream), options, direct)
    }

    fn connect_with(
        endpoint: Endpoint,
        options: &Options,
        direct: Option<DirectDevice>,
    ) -> Result<Self, Error> {
        let mut device = Device::connect(endpoint, options.request_queues_max)?;
        let features = device.features();
        let orders = Orders::new().map_err(Error::system("making eventfds"))?;

        let mut layout = Layout::default();
        let hiprio = HiprioAreas::plan(&mut layout);
        let forwarded = if direct.is_some() { 0..0 } else { device.request_queues() };
        let requests: Vec<_> =
            forwarded.map(|index| (index, WorkerAreas::plan(&mut layout))).collect();
        let notification = device
            .notify_buf_size()
            .map(|size| NotificationAreas::plan(&mut layout, options.notification_buffers, size));
        let memory = layout.map().map_err(Error::system("making the shared memory"))?;

        let counts = Arc::<Counts>::default();
        let halt = orders.halt.clone();
        let hiprio = Hiprio::new(&memory, hiprio, features, halt.stop.clone())?;
        let hiprio = Arc::new(Mutex::new(hiprio));
        let workers = requests
            .into_iter()
            .map(|(index, areas)| {
                let shared = Shared {
                    hiprio: Arc::clone(&hiprio),
                    halt: halt.clone(),
                    counts: Arc::clone(&counts),
                };
                Worker::new(index, &memory, areas, features, shared)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let notification_queue = notification
            .map(|areas| {
                let closed = orders.closed.clone();
                NotificationQueue::new(NOTIFICATION_QUEUE, &memory, areas, features, closed)
            })
            .transpose()?;

        device.share(&memory)?;
        let mut driver =
            Self { device, workers, hiprio, notification_queue, orders, counts, direct };
        driver.start_queues()?;
        Ok(driver)
    }

    fn start_queues(&mut self) -> Result<(), Error> {
        let device = &mut self.device;
        device.start(self.hiprio.lock().unwrap_or_else(PoisonError::into_inner).queue())?;
        if let Some(notifications) = &mut self.notification_queue {
            device.start(notifications.queue())?;
            notifications.announce();
        }
        self.workers.iter().try_for_each(|worker| device.start(worker.queue()))
    }

    /// The tag of the share; empty when the device does not tell.
    pub fn tag(&self) -> &str {
        self.device.tag()
    }

    /// Whether the device has a notification queue.
    pub fn has_notifications(&self) -> bool {
        self.device.has_notifications()
    }

    /// The consumer of notifications, once, and if the device has the queue.
    pub fn notification_queue(&mut self) -> Option<NotificationQueue> {
        self.notification_queue.take()
    }

    /// Where the agent is to replay, if the device serves the kernel itself.
    pub(crate) fn replay_cpu(&self) -> Option<Arc<ReplayCpu>> {
        self.direct.as_ref().map(|direct| Arc::clone(&direct.replay_cpu))
    }

    /// What ends the session.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.orders.stop.clone())
    }

    /// How many requests the kernel makes, now and in the session. Of those that the device serves itself it knows none.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Mounts the share on the directory `mount_point` and starts to serve it; `source` is what the
    /// mount table shows as its source. Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// When `/dev/fuse` cannot be opened or mounted; nothing is mounted then.
    pub fn mount(self, mount_point: &Path, source: &str) -> Result<Session, Error> {
        let fuse = Arc::new(FuseDevice::open()?);
        let mount = Mount::new(&fuse, mount_point, source)?;
        let kernel = Arc::downgrade(&fuse);
        let socket = self.device.socket().map_err(Error::system("duplicating a socket"))?;
        let orders = self.orders.clone();
        let (service, handoff) = match self.direct {
            None => (Service::start_workers(self.workers, &fuse, &orders.halt)?, None),
            Some(DirectDevice { handoff, kill, replay_cpu }) => {
                let handoff = Arc::new(handoff);
                let service = Service::hand_over(&handoff, &fuse, &replay_cpu, kill)?;
                (service, Some(handoff))
            }
        };
        // The service has the references that last.
        drop(fuse);
        let supervisor = Supervisor::start(orders, socket, mount.id(), service)?;
        tracing::info!(mount_point = %mount_point.display(), source, "mounted");
        Ok(Session {
            mount: Some(mount),
            supervisor: Some(supervisor),
            kernel,
            handoff,
            device: self.device,
            orders: self.orders,
        })
    }
}

/// A mounted share. Dropping it is [`Session::close`] with errors logged.
pub struct Session {
    mount: Option<Mount>,
    supervisor: Option<JoinHandle<()>>,
    kernel: Weak<FuseDevice>,
    /// If the device serves the kernel itself.
    handoff: Option<Arc<Handoff>>,
    device: Device,
    orders: Orders,
}

impl Session {
    /// Whether the kernel raises the events of notifications itself (`FUSE_HAVE_FSNOTIFY`). Known as soon as any
    /// request of a program has been answered.
    pub fn kernel_raises(&self) -> bool {
        match &self.handoff {
            None => self.kernel.upgrade().is_some_and(|fuse| fuse.raises()),
            Some(handoff) => handoff.raises().ok().flatten().unwrap_or(false),
        }
    }

    /// Hands the notifications on to such a kernel.
    ///
    /// # Errors
    /// When there is no thread for that.
    pub fn relay(&self, queue: NotificationQueue) -> Result<Relay, Error> {
        Relay::start(queue, Weak::clone(&self.kernel))
    }

    /// What ends the session.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.orders.stop.clone())
    }

    /// Waits until the session ends and tells why; any number of times. From then on the
    /// [`NotificationQueue`] is closed. Requests are still served, unless the device is gone, so that
    /// the caller can let go of what it has of the mount. `Unmounted` is told as soon as the mount has
    /// left the mount table, though a clone of it may keep the file system alive.
    ///
    /// # Errors
    /// When the device broke the rules or the system failed us. All requests have failed then.
    pub fn wait(&self) -> Result<Ended, Arc<Error>> {
        self.orders.outcome.wait()
    }

    /// Unmounts, if that is not done, and ends everything; first stops the session if nothing else
    /// did. After `umount -l` the file system is served until its last user has gone, or until a
    /// [`Stopper`] is used.
    ///
    /// # Errors
    /// When the mount cannot be taken away; everything else has ended all the same.
    pub fn close(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        let (Some(mount), Some(supervisor)) = (self.mount.take(), self.supervisor.take()) else {
            return Ok(());
        };
        let gone = self.orders.outcome.is(Ended::Unmounted);
        if !gone {
            self.orders.stop.raise();
        }
        self.orders.unmounting.raise();
        let unmounted = if gone {
            mount.was_unmounted();
            Ok(())
        } else {
            mount.unmount()
        };
        self.orders.unmounted.raise();
        let joined = supervisor.join().map_err(|_| Error::Panicked);
        self.device.stop();
        unmounted.and(joined)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "ending the session");
        }
    }
}
