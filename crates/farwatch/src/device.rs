// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Device`]: the virtio-fs device, as a vhost-user backend around virtiofsd's file server.
//!
//! It differs from virtiofsd's own backend in three ways: it has a notification queue (virtio 1.2
//! §5.11.2, `VIRTIO_FS_F_NOTIFICATION`), it has several request queues, each with a thread of its
//! own, and nothing that a guest does ends it.
//!
//! Queues, by what the driver acknowledged:
//!
//! | queue | with the feature | without it |
//! |---|---|---|
//! | 0 | hiprio | hiprio |
//! | 1 | notification | requests |
//! | 2.. | requests | requests, one queue fewer |
//!
//! The rooms: `request` decides about one request, on the copy that `desk` made of it; `ring`
//! is the vring; `waiting` takes what waits; `notification` delivers; `migration` moves the
//! state to another host; [`serve()`] accepts connections and ends sessions. Called by the daemon's `main`; the file system behind it and the
//! engine that makes notifications are other modules.
//!
//! Migration is offered as virtiofsd does it: `LOG_ALL` and `LOG_SHMFD` have the library note which
//! pages are written to, which is done by the bitmap of the memory; `DEVICE_STATE` moves what the
//! guest knows of the file system (nodeids, open files, its tree). Every write to the guest's memory
//! goes through vm-memory, and so past that bitmap: the used rings by virtio-queue, replies by
//! virtiofsd's `Writer`.

mod desk;
mod direct;
mod gate;
mod in_flight;
mod lane;
mod migration;
mod notification;
mod request;
mod ring;
mod serve;
mod stats;
mod taken;
mod waiting;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{io, slice, thread};

use farwatch_proto::wire::abi::NOTIFY_BUF_SIZE;
use tracing::error;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_queue::DescriptorChain;
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use vm_memory::{
    GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap,
    GuestMemoryRegion,
};
use vmm_sys_util::epoll::EventSet;

pub use self::notification::NotificationSource;
pub use self::ring::Ring;
pub use self::serve::{Ended, ServeError, StopHandle, serve};
pub use self::stats::Stats;

use self::desk::Desk;
use self::direct::{Direct, StopOnDrop};
use self::migration::Migration;
use self::notification::NotificationQueue;
use self::request::{Requests, Waits, waits};
use self::taken::Taken;
use self::waiting::{WAITING_MAX, Waiting};
pub(crate) use self::waiting::{may_wait, put_off};
use crate::busy_poll::BusyPoll;
use crate::dev_fuse::{self, Counts, FuseDevice, Handoff};
use crate::replay_cpu::{Follower, ReplayCpu};
use crate::virtio::{F_VERSION_1, FS_F_NOTIFICATION, RING_F_EVENT_IDX, RING_F_INDIRECT_DESC};

type Memory = GuestMemoryMmap<BitmapMmapRegion>;
type AtomicMemory = GuestMemoryAtomic<Memory>;
type Chain = DescriptorChain<GuestMemoryLoadGuard<Memory>>;

/// Entries of the largest queue that a driver may set up; what virtiofsd and QEMU offer.
const QUEUE_SIZE_MAX: u16 = 1024;

/// Bytes of `struct virtio_fs_config` with the notification feature (virtio 1.2 §5.11.4).
const CONFIG_LEN: usize = Tag::LEN_MAX + 4 + 4;
/// Bytes of the longest reply to GET_CONFIG (`VHOST_USER_CONFIG_SIZE` of the vhost crate, which
/// refuses to ask for more).
const CONFIG_REPLY_LEN_MAX: usize = 256;

/// The name by which the guest mounts the share: 1 to 36 bytes, without NUL (virtio 1.2 §5.11.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tag(String);

/// Not a [`Tag`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TagError {
    /// The empty string.
    #[error("a tag cannot be empty")]
    Empty,
    /// More than [`Tag::LEN_MAX`] bytes.
    #[error("a tag of {0} bytes is longer than {max}", max = Tag::LEN_MAX)]
    TooLong(usize),
    /// A NUL, which is what the device fills the field up with.
    #[error("a tag cannot contain a NUL byte")]
    Nul,
}

impl Tag {
    /// Bytes of the longest tag.
    pub const LEN_MAX: usize = 36;

    /// Checks a tag. Called by the command line.
    pub fn new(tag: impl Into<String>) -> Result<Self, TagError> {
        let tag = tag.into();
        match tag.len() {
            0 => Err(TagError::Empty),
            len if len > Self::LEN_MAX => Err(TagError::TooLong(len)),
            _ if tag.contains('\0') => Err(TagError::Nul),
            _ => Ok(Self(tag)),
        }
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(tag: &str) -> Result<Self, TagError> {
        Self::new(tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not between 1 and [`REQUEST_QUEUES_MAX`].
    #[error("{0} request queues, where 1 to {REQUEST_QUEUES_MAX} are possible")]
    RequestQueues(u32),
    /// No memory to copy requests to, or no thread for those that wait.
    #[error("cannot set up the device's queues")]
    Setup(#[from] io::Error),
}

/// Request queues of the largest device. Each is a thread.
pub const REQUEST_QUEUES_MAX: u32 = 8;

/// Requests that threads off the queues have or may have waiting for them.
const WAITING_OVERALL_MAX: usize = 2 * (WAITING_MAX + 1) + AHEAD_MAX;

/// The event that ends the threads of a session's queues. Numbers up to that of queues are the library's.
const SESSION_END: u16 = u16::MAX;

/// Requests that wait at a time since their reply is ahead of events. Those beyond are answered at once.
const AHEAD_MAX: usize = 4;

/// The device: the file server, the engine's outlet, and the state of the vhost-user session, if
/// there is one. Served by [`serve()`], one session after the other.
///
/// Locks: a queue's desk before `requests`' admission before a vring's own; `notifications` has an
/// order of its own ([`NotificationSource::next`]). `memory` is held for a clone only.
pub struct Device<F: FileSystem + Sync> {
    tag: Tag,
    request_queues: u32,
    requests: Arc<Requests<F>>,
    /// One for each queue.
    desks: Vec<Mutex<Desk>>,
    /// READs of the agent.
    reads: Waiting,
    /// Questions for barriers.
    syncs: Waiting,
    /// Requests whose reply is ahead of events.
    ahead: Vec<Waiting>,
    migration: Migration,
    notifications: NotificationQueue,
    acked_features: AtomicU64,
    memory: Mutex<Option<AtomicMemory>>,
}

thread_local! {
    /// For the next request of the queue that this thread serves.
    static BUSY_POLL: RefCell<BusyPoll> = RefCell::default();
}

/// What a queue is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Requests, urgent ones (queue 0) or others: the device treats them alike.
    Requests,
    /// Notifications.
    Notification,
}

impl<F: FileSystem + Send + Sync + 'static> Device<F> {
    /// A device with `request_queues` request queues (1 to [`REQUEST_QUEUES_MAX`]) around `fs`.
    pub fn new(
        fs: F,
        tag: Tag,
        request_queues: u32,
        source: Arc<dyn NotificationSource>,
    ) -> Result<Self, DeviceError> {
        if !(1..=REQUEST_QUEUES_MAX).contains(&request_queues) {
            return Err(DeviceError::RequestQueues(request_queues));
        }
        let requests = Arc::new(Requests::new(fs, Arc::clone(&source)));
        let desks = (0..2 + request_queues).map(|_| Desk::new().map(Mutex::new));
        Ok(Self {
            tag,
            request_queues,
            desks: desks.collect::<io::Result<_>>()?,
            reads: Waiting::start("control_reads", Arc::clone(&requests), WAITING_MAX)?,
            syncs: Waiting::start("syncs", Arc::clone(&requests), WAITING_MAX)?,
            ahead: (0..AHEAD_MAX)
                .map(|_| Waiting::start("ahead", Arc::clone(&requests), 0))
                .collect::<io::Result<_>>()?,
            migration: Migration::default(),
            requests,
            notifications: NotificationQueue::new(source),
            acked_features: AtomicU64::new(0),
            memory: Mutex::new(None),
        })
    }

    /// Delivers what the source has pending, as far as the driver has posted buffers. Called by the
    /// watch thread when there is something new. It waits for nobody, and must not be called with a
    /// lock held that [`NotificationSource::next`] takes.
    pub fn pump(&self) {
        self.notifications.pump();
    }

    /// True when the driver has taken the notification queue and posted to it: notifications will
    /// be fetched from the source. Not so for the stock kernels, whose agent reads the control node.
    pub fn wants_notifications(&self) -> bool {
        self.has_acked(FS_F_NOTIFICATION) && self.notifications.is_live()
    }

    /// What the device has done so far.
    pub fn stats(&self) -> Stats {
        Stats {
            requests: self.requests.dispatched.get(),
            malformed: self.requests.malformed.get(),
            refused: self.requests.refused.get(),
            panics: self.requests.panics.get(),
            notifications: self.notifications.delivered.get(),
            bad_buffers: self.notifications.bad_buffers.get(),
        }
    }

    fn has_acked(&self, feature: u64) -> bool {
        self.acked_features.load(Ordering::Relaxed) & feature != 0
    }

    fn role(&self, queue: usize) -> Role {
        if queue == 1 && self.has_acked(FS_F_NOTIFICATION) {
            Role::Notification
        } else {
            Role::Requests
        }
    }

    /// `struct virtio_fs_config`.
    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let (tag, numbers) = config.split_at_mut(Tag::LEN_MAX);
        tag[..self.tag.0.len()].copy_from_slice(self.tag.0.as_bytes());
        let (num_request_queues, notify_buf_size) = numbers.split_at_mut(4);
        num_request_queues.copy_from_slice(&self.request_queues.to_le_bytes());
        let len = u32::try_from(NOTIFY_BUF_SIZE).expect("a notification has a few hundred bytes");
        notify_buf_size.copy_from_slice(&len.to_le_bytes());
        config
    }

    /// Serves a request queue until it is empty and stays so for a moment, with the kick asked for again.
    fn serve_requests(&self, ring: &Ring, desk: &mut Desk, memory: &AtomicMemory) {
        let mut idle = false;
        while ring.disable_notification().is_ok() {
            let served = self.serve_available(ring, desk, memory);
            // A ring that claims to have chains and twice gives none is broken.
            let broken = idle && !served;
            idle = !served;
            let polled = || BUSY_POLL.with_borrow_mut(|poll| poll.wait(|| ring.has_available()));
            if served && polled() {
                continue;
            }
            if broken || !matches!(ring.enable_notification(), Ok(true)) {
                return;
            }
        }
    }

    /// Serves what is available; true if there was something.
    fn serve_available(&self, ring: &Ring, desk: &mut Desk, memory: &AtomicMemory) -> bool {
        let mut served = false;
        while let Some(_admission) = self.requests.gate.admit() {
            let mem = memory.memory();
            let Some(taken) = ring.take(mem.clone()) else { break };
            served = true;
            self.serve_taken(taken, desk, &mem);
        }
        served
    }

    /// Serves a request, or hands it to a thread that may wait.
    fn serve_taken(&self, taken: Taken, desk: &mut Desk, mem: &GuestMemoryLoadGuard<Memory>) {
        let fetched = desk.fetch(mem, taken.chain.clone());
        match fetched.as_ref().ok().and_then(waits) {
            Some(Waits::Read) => self.serve_later(slice::from_ref(&self.reads), taken, desk, mem),
            Some(Waits::Sync) => self.serve_later(slice::from_ref(&self.syncs), taken, desk, mem),
            Some(Waits::Ahead) => match waiting::unless_put_off(|| self.requests.serve(fetched)) {
                Some(len) => taken.complete(len),
                None => self.serve_later(&self.ahead, taken, desk, mem),
            },
            None => taken.complete(self.requests.serve(fetched)),
        }
    }

    /// Hands a request to the first of the threads that takes it, or serves it at once if none does.
    fn serve_later(
        &self,
        threads: &[Waiting],
        mut taken: Taken,
        desk: &mut Desk,
        mem: &GuestMemoryLoadGuard<Memory>,
    ) {
        taken.waits_for(self.notifications.source());
        for thread in threads {
            match thread.push(taken, mem.clone()) {
                Ok(()) => return,
                Err(refused) => taken = refused,
            }
        }
        let len = self.requests.serve(desk.fetch(mem, taken.chain.clone()));
        taken.complete(len);
    }

    /// Serves the connection that the driver gives away over `handoff`, in threads that end with it. Called once, before
    /// the session. `on_cpu` learns where events are replayed.
    ///
    /// # Errors
    /// When there is no thread to wait for it.
    pub(crate) fn serve_kernel(
        self: &Arc<Self>,
        handoff: Handoff,
        counts: Arc<Counts>,
        on_cpu: impl FnOnce(Arc<ReplayCpu>) + Send + 'static,
    ) -> io::Result<()> {
        let device = Arc::clone(self);
        let wait = move || {
            let outcome = handoff.try_clone().and_then(|own| match handoff.take()? {
                Some((fuse, cpu)) => {
                    let cpu = Arc::new(cpu);
                    on_cpu(Arc::clone(&cpu));
                    device.start_direct(fuse, own, counts, &cpu).map(Some)
                }
                None => Ok(None),
            });
            match outcome {
                Ok(Some(direct)) => {
                    handoff.wait_for_end();
                    if let Some(direct) = direct.upgrade() {
                        direct.stop();
                    }
                }
                Ok(None) => {}
                Err(error) => error!(%error, "the mount cannot be served"),
            }
        };
        thread::Builder::new().name("handoff".to_owned()).spawn(wait).map(drop)
    }

    fn start_direct(
        self: &Arc<Self>,
        fuse: FuseDevice,
        handoff: Handoff,
        counts: Arc<Counts>,
        replay_cpu: &Arc<ReplayCpu>,
    ) -> io::Result<Weak<Direct>> {
        let threads = usize::try_from(self.request_queues).expect("a small number");
        let direct = Direct::new(fuse, threads + WAITING_OVERALL_MAX, counts, handoff)?;
        for nth in 0..threads {
            let (device, direct) = (Arc::clone(self), Arc::clone(&direct));
            let mut desk = Desk::new()?;
            let follower = Follower::new(Arc::clone(replay_cpu));
            thread::Builder::new().name(format!("fuse_{nth}")).spawn(move || {
                // The others end with this one, be it in a panic.
                let _stop = StopOnDrop(&direct);
                if let Err(error) = device.serve_direct(&direct, &mut desk, follower) {
                    error!(%error, "the mount is not served any more");
                }
            })?;
        }
        Ok(Arc::downgrade(&direct))
    }

    /// Serves the kernel until there is nothing more to come.
    fn serve_direct(
        &self,
        direct: &Arc<Direct>,
        desk: &mut Desk,
        mut follower: Follower,
    ) -> Result<(), dev_fuse::Error> {
        let mut poll = BusyPoll::default();
        let mem = direct.memory().memory();
        while let Some(taken) = direct.next(&mut poll)? {
            let Some(_admission) = self.requests.gate.admit() else { break };
            follower.serves(taken.is_of_agent());
            self.serve_taken(taken, desk, &mem);
        }
        Ok(())
    }

    /// A driver may use the device from now on.
    fn begin_session(&self) {
        self.requests.gate.open();
    }

    /// No request runs any more when this returns.
    fn stop_requests(&self) {
        self.notifications.source().hurry();
        self.requests.gate.close();
        self.reads.drain();
        self.syncs.drain();
        self.ahead.iter().for_each(Waiting::drain);
    }

    /// The driver is gone, and the threads of its queues with it: forgets all about it.
    fn end_session(&self) {
        self.migration.abandon();
        self.stop_requests();
        self.forget_driver();
        if farwatch_sys::missing_memory_was_touched() {
            tracing::warn!(
                "the machine's memory is in a file that is shorter than the frontend said, or was made shorter: what \
                 was there is lost, and so may requests be"
            );
        }
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn forget_driver(&self) {
        self.acked_features.store(0, Ordering::Relaxed);
        self.notifications.reset();
        self.requests.reset();
    }
}

/// Checks that a region of the guest's memory lies in its file. To touch what lies behind the end of a file is SIGBUS.
fn check_file(region: &impl GuestMemoryRegion) -> io::Result<()> {
    let Some(file) = region.file_offset() else { return Ok(()) };
    let len = file.file().metadata()?.len();
    let end = file.start().checked_add(region.len());
    if end.is_none_or(|end| end > len) {
        let (region, start) = (region.len(), file.start());
        let error = format!("a region of {region} bytes at {start} of a file that has {len}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    Ok(())
}

impl<F> VhostUserBackend for Device<F>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    type Bitmap = BitmapMmapRegion;
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        self.desks.len()
    }

    fn max_queue_size(&self) -> usize {
        usize::from(QUEUE_SIZE_MAX)
    }

    fn features(&self) -> u64 {
        FS_F_NOTIFICATION
            | RING_F_INDIRECT_DESC
            | RING_F_EVENT_IDX
            | F_VERSION_1
            | VhostUserVirtioFeatures::LOG_ALL.bits()
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        self.acked_features.store(features, Ordering::Relaxed);
        let notifying = features & FS_F_NOTIFICATION != 0;
        self.requests.set_notifying(notifying);
        if !notifying {
            // A driver before this one may have had queue 1 for notifications.
            self.notifications.forget_ring();
        }
        let logging = features & VhostUserVirtioFeatures::LOG_ALL.bits() != 0;
        self.migration.logging(logging, &self.requests);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::DEVICE_STATE
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    /// The library has disabled all rings, so nothing is in flight.
    fn reset_device(&self) {
        self.migration.abandon();
        self.forget_driver();
    }

    /// Each ring has been told.
    fn set_event_idx(&self, _enabled: bool) {}

    /// The config space from `offset` on, zeros behind its end: a driver that knows 40 bytes of it
    /// reads 40, one that knows more than the 44 finds nothing there.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let (offset, size) = (offset as usize, (size as usize).min(CONFIG_REPLY_LEN_MAX));
        let mut part = self.config().into_iter().skip(offset).take(size).collect::<Vec<_>>();
        part.resize(size, 0);
        part
    }

    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        phase: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<Option<File>> {
        // The frontend is told that it went wrong, and not why.
        self.migration
            .begin(direction, phase, file, &self.requests)
            .inspect_err(|error| error!(%error, "no state is moved"))?;
        Ok(None)
    }

    fn check_device_state(&self) -> io::Result<()> {
        self.migration.outcome().inspect_err(|error| error!(%error, "the state was not moved"))
    }

    /// An error ends the session.
    fn update_memory(&self, memory: AtomicMemory) -> io::Result<()> {
        for region in memory.memory().iter() {
            check_file(region)?;
        }
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.num_queues()).map(|queue| 1 << queue).collect()
    }

    /// A kick, which never fails: an error ends the queue's thread without a word. That is how it is ended with the session.
    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        rings: &[Ring],
        thread: usize,
    ) -> io::Result<()> {
        if event == SESSION_END {
            return Err(io::Error::other("the session ends"));
        }
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // One queue a thread, so the thread's number is the queue's.
        let (Some(ring), Some(memory), Some(desk)) =
            (rings.first(), memory, self.desks.get(thread))
        else {
            return Ok(());
        };
        match self.role(thread) {
            Role::Notification => self.notifications.kicked(ring, memory),
            Role::Requests => {
                let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
                self.serve_requests(ring, &mut desk, &memory);
            }
        }
        Ok(())
    }
}
