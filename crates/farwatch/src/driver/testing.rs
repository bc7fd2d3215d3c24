// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtio-fs device for the driver's tests: `vhost-user-backend` around a closure that answers
//! FUSE messages. It is no file server.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use farwatch_proto::wire::abi::NOTIFY_BUF_SIZE;
use tempfile::TempDir;
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

type Memory = GuestMemoryAtomic<GuestMemoryMmap<()>>;
type AnswerFn = dyn Fn(&[u8]) -> Answer + Send + Sync;

/// What a test device does with a message.
pub(super) enum Answer {
    /// Answers.
    Reply(Vec<u8>),
    /// Uses the chain and writes nothing.
    Empty,
    /// Keeps the chain.
    Never,
}

/// What a test device offers.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    /// `VIRTIO_FS_F_NOTIFICATION`, with a configuration space of 44 bytes.
    pub(super) notification: bool,
    /// The configuration space.
    pub(super) config: bool,
    /// `num_request_queues`.
    pub(super) request_queues: u32,
}

const NOTIFY: u16 = 100;
const QUEUES: usize = 6;

pub(super) struct TestDevice {
    backend: Arc<Backend>,
    daemon: Mutex<Option<VhostUserDaemon<Arc<Backend>>>>,
    stream: Mutex<Option<UnixStream>>,
    _dir: TempDir,
}

impl TestDevice {
    /// Starts a device that one client can connect to, with what [`TestDevice::connect`] gives.
    pub(super) fn start(
        offer: Offer,
        answer: impl Fn(&[u8]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut listener = Listener::new(&path, true).unwrap();
        let backend = Arc::new(Backend {
            offer,
            answer: Box::new(answer),
            memory: Mutex::new(None),
            acked: AtomicU64::new(0),
            event_idx: AtomicBool::new(false),
            outbox: Mutex::new(VecDeque::new()),
            wake: EventFd::new(EFD_NONBLOCK).unwrap(),
            seen: Mutex::new(Vec::new()),
            more: Condvar::new(),
        });
        let memory = Memory::new(GuestMemoryMmap::new());
        let mut daemon =
            VhostUserDaemon::new("device".into(), Arc::clone(&backend), memory).unwrap();
        daemon.get_epoll_handlers()[0]
            .register_listener(backend.wake.as_raw_fd(), EventSet::IN, NOTIFY.into())
            .unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        daemon.start(&mut listener).unwrap();
        let (daemon, stream) = (Mutex::new(Some(daemon)), Mutex::new(Some(stream)));
        Self { backend, daemon, stream, _dir: dir }
    }

    /// The one connection; a clone stays here for [`TestDevice::die`].
    pub(super) fn connect(&self) -> UnixStream {
        self.stream.lock().unwrap().as_ref().unwrap().try_clone().unwrap()
    }

    /// Hangs up, as the death of the device's process would.
    pub(super) fn die(&self) {
        let stream = self.stream.lock().unwrap().take().unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        drop(self.daemon.lock().unwrap().take());
    }

    /// Sends a notification as soon as there is a buffer.
    pub(super) fn notify(&self, message: &[u8]) {
        self.backend.outbox.lock().unwrap().push_back(message.to_vec());
        self.backend.wake.write(1).unwrap();
    }

    /// Notifications that have found no buffer.
    pub(super) fn unsent(&self) -> usize {
        self.backend.outbox.lock().unwrap().len()
    }

    /// Waits until a message that `wanted` likes has come, and gives it with the number of its queue.
    pub(super) fn wait_for(&self, wanted: impl Fn(usize, &[u8]) -> bool) -> (usize, Vec<u8>) {
        let seen = self.backend.seen.lock().unwrap();
        let find = |seen: &[(usize, Vec<u8>)]| seen.iter().find(|(q, m)| wanted(*q, m)).cloned();
        let (seen, waited) = self
            .backend
            .more
            .wait_timeout_while(seen, Duration::from_secs(20), |seen| find(seen).is_none())
            .unwrap();
        assert!(!waited.timed_out(), "the message has not come; these have: {:?}", *seen);
        find(&seen).unwrap()
    }

    pub(super) fn acked(&self) -> u64 {
        self.backend.acked.load(Ordering::SeqCst)
    }
}

struct Backend {
    offer: Offer,
    answer: Box<AnswerFn>,
    memory: Mutex<Option<Memory>>,
    acked: AtomicU64,
    event_idx: AtomicBool,
    outbox: Mutex<VecDeque<Vec<u8>>>,
    wake: EventFd,
    seen: Mutex<Vec<(usize, Vec<u8>)>>,
    more: Condvar,
}

impl Backend {
    fn has_notifications(&self) -> bool {
        self.acked.load(Ordering::SeqCst) & 1 != 0
    }

    fn serve(&self, index: usize, vring: &VringRwLock<Memory>) -> io::Result<()> {
        let memory = self.memory.lock().unwrap().clone().unwrap().memory();
        loop {
            vring.disable_notification().unwrap();
            loop {
                let next = vring.get_mut().get_queue_mut().iter(memory.clone()).unwrap().next();
                let Some(chain) = next else { break };
                let mut message = Vec::new();
                for part in chain.clone().readable() {
                    let start = message.len();
                    message.resize(start + usize::try_from(part.len()).unwrap(), 0);
                    memory.read_slice(&mut message[start..], part.addr()).unwrap();
                }
                let answer = (self.answer)(&message);
                self.seen.lock().unwrap().push((index, message));
                self.more.notify_all();
                let reply = match answer {
                    Answer::Reply(reply) => reply,
                    Answer::Empty => Vec::new(),
                    Answer::Never => continue,
                };
                if let Some(room) = chain.clone().writable().next() {
                    memory.write_slice(&reply, room.addr()).unwrap();
                }
                let len = u32::try_from(reply.len()).unwrap();
                vring.add_used(chain.head_index(), len).unwrap();
                self.call(vring)?;
            }
            if !vring.enable_notification().unwrap() {
                return Ok(());
            }
        }
    }

    fn send(&self, vring: &VringRwLock<Memory>) -> io::Result<()> {
        let memory = self.memory.lock().unwrap().clone().unwrap().memory();
        let mut outbox = self.outbox.lock().unwrap();
        while !outbox.is_empty() {
            let next = vring.get_mut().get_queue_mut().iter(memory.clone()).unwrap().next();
            let Some(chain) = next else {
                if vring.enable_notification().unwrap() {
                    continue;
                }
                break;
            };
            let room = chain.clone().writable().next().unwrap();
            assert_eq!(usize::try_from(room.len()).unwrap(), NOTIFY_BUF_SIZE);
            let message = outbox.pop_front().unwrap();
            memory.write_slice(&message, room.addr()).unwrap();
            vring.add_used(chain.head_index(), u32::try_from(message.len()).unwrap()).unwrap();
            self.call(vring)?;
        }
        Ok(())
    }

    fn call(&self, vring: &VringRwLock<Memory>) -> io::Result<()> {
        if !self.event_idx.load(Ordering::SeqCst) || vring.needs_notification().unwrap() {
            vring.signal_used_queue()?;
        }
        Ok(())
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringRwLock<Memory>;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        let notification = u64::from(self.offer.notification);
        notification
            | 1 << 32
            | 1 << 28
            | 1 << 29
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        self.acked.store(features, Ordering::SeqCst);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        use VhostUserProtocolFeatures as Protocol;
        let config = if self.offer.config { Protocol::CONFIG } else { Protocol::empty() };
        config | Protocol::MQ | Protocol::REPLY_ACK
    }

    fn reset_device(&self) {}

    fn set_event_idx(&self, enabled: bool) {
        self.event_idx.store(enabled, Ordering::SeqCst);
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut space = b"test".to_vec();
        space.resize(36, 0);
        space.extend(self.offer.request_queues.to_le_bytes());
        if self.offer.notification {
            space.extend(u32::try_from(NOTIFY_BUF_SIZE).unwrap().to_le_bytes());
        }
        // An answer of another size than asked for is an error at the frontend, as it should be.
        let wanted = usize::try_from(offset).unwrap()..usize::try_from(offset + size).unwrap();
        space.get(wanted).unwrap_or_default().to_vec()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.lock().unwrap() = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[Self::Vring],
        _thread: usize,
    ) -> io::Result<()> {
        if event == NOTIFY {
            self.wake.read()?;
        }
        match usize::from(event) {
            1 if self.has_notifications() => self.send(&vrings[1]),
            index if index < QUEUES => self.serve(index, &vrings[index]),
            _ if vrings[1].get_ref().get_queue().ready() && self.has_notifications() => {
                self.send(&vrings[1])
            }
            _ => Ok(()),
        }
    }
}
