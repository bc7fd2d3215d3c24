// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Device`]: the vhost-user socket of a virtio-fs device, seen from the frontend.
//!
//! What is negotiated is decided here, and nothing is forwarded here: queues are handed to the
//! device and never looked at again. The requests block, so a watchdog bounds each conversation.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};

use super::REQUEST_QUEUES_MAX;
use super::error::Error;
use super::memory::Memory;
use super::notification::{NOTIFY_BUF_SIZE_MAX, NOTIFY_BUF_SIZE_MIN};
use super::queue::Queue;
use crate::virtio::{F_VERSION_1, FS_F_NOTIFICATION, RING_F_EVENT_IDX, RING_F_INDIRECT_DESC};

const F_PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// The longest that the handshake or a part of the setup may take before the device counts as silent.
const ANSWER_WAIT: Duration = Duration::from_millis(if cfg!(fuzzing) { 50 } else { 5_000 });
/// The longest to wait for the queues at the end; a device that is stuck does not matter then.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// How long a socket that refuses connections may take to listen, and how often to look.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
const CONNECT_PAUSE: Duration = Duration::from_millis(5);

/// Where the device is.
#[derive(Debug)]
pub enum Endpoint {
    /// A socket that a device listens on.
    Path(PathBuf),
    /// A connection to a device.
    Stream(UnixStream),
}

/// The configuration space of a virtio-fs device, virtio 1.2 §5.11.4.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Config {
    tag: String,
    request_queues: usize,
    /// `None` without `VIRTIO_FS_F_NOTIFICATION`.
    notify_buf_size: Option<usize>,
}

impl Config {
    const TAG_LEN: usize = 36;
    /// Tag and `num_request_queues`.
    const LEN: usize = 40;
    /// With `notify_buf_size`, which is there when the notification queue is.
    const LEN_WITH_NOTIFICATION: usize = 44;

    /// What stands for the configuration space of a device that does not offer to show it.
    const fn unseen() -> Self {
        Self { tag: String::new(), request_queues: 1, notify_buf_size: None }
    }

    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let (tag, numbers) = bytes.split_at_checked(Self::TAG_LEN).unwrap_or((bytes, &[]));
        let number = |nth: usize| {
            let bytes = numbers.chunks_exact(4).nth(nth)?;
            Some(u32::from_le_bytes(bytes.try_into().expect("a chunk of 4")))
        };
        let tag = tag.split(|byte| *byte == 0).next().unwrap_or_default();
        let request_queues = number(0).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        if request_queues == 0 {
            return Err(Error::NoRequestQueue);
        }
        let notify_buf_size = number(1)
            .map(|size| {
                usize::try_from(size)
                    .ok()
                    .filter(|size| (NOTIFY_BUF_SIZE_MIN..=NOTIFY_BUF_SIZE_MAX).contains(size))
                    .ok_or(Error::NotifyBufSize(size))
            })
            .transpose()?;
        Ok(Self { tag: String::from_utf8_lossy(tag).into_owned(), request_queues, notify_buf_size })
    }
}

/// A device whose features are negotiated and whose queues are not set up yet, or are.
pub(super) struct Device {
    frontend: Frontend,
    stream: UnixStream,
    features: u64,
    config: Config,
    started: Vec<usize>,
}

/// Connects to a device that may be just about to listen: its socket is there a moment before it
/// takes connections.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let patience = Instant::now() + CONNECT_WAIT;
    loop {
        match UnixStream::connect(path) {
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && Instant::now() < patience =>
            {
                thread::sleep(CONNECT_PAUSE);
            }
            connected => return connected,
        }
    }
}

impl Device {
    /// Connects and negotiates, up to `SET_FEATURES`. Uses at most `request_queues_max` queues.
    pub(super) fn connect(endpoint: Endpoint, request_queues_max: usize) -> Result<Self, Error> {
        let stream = match endpoint {
            Endpoint::Stream(stream) => stream,
            Endpoint::Path(path) => {
                connect(&path).map_err(|source| Error::NoDevice { path, source })?
            }
        };
        let own = stream.try_clone().map_err(Error::system("duplicating the device's socket"))?;
        // Two queues before the request queues, until the device says how many it has.
        let queues_max = u64::try_from(REQUEST_QUEUES_MAX + 2).expect("a small number");
        let frontend = Frontend::from_stream(stream, queues_max);
        let mut device =
            Self { frontend, stream: own, features: 0, config: Config::unseen(), started: vec![] };
        device.bounded("the vhost-user handshake", ANSWER_WAIT, |device| device.negotiate())?;
        device.config.request_queues =
            device.config.request_queues.min(request_queues_max).clamp(1, REQUEST_QUEUES_MAX);
        tracing::info!(
            tag = device.config.tag,
            features = format_args!("{:#x}", device.features),
            request_queues = device.config.request_queues,
            notify_buf_size = device.config.notify_buf_size,
            "connected to the device"
        );
        Ok(device)
    }

    fn negotiate(&mut self) -> Result<(), Error> {
        use VhostUserProtocolFeatures as Protocol;
        let frontend = &mut self.frontend;
        frontend.set_owner().map_err(refused("SET_OWNER"))?;
        let offered = frontend.get_features().map_err(refused("GET_FEATURES"))?;
        for (bit, name) in [
            (F_VERSION_1, "VIRTIO_F_VERSION_1"),
            (F_PROTOCOL_FEATURES, "vhost-user protocol features"),
        ] {
            if offered & bit == 0 {
                return Err(Error::Missing(name));
            }
        }
        let protocol =
            frontend.get_protocol_features().map_err(refused("GET_PROTOCOL_FEATURES"))?
                & (Protocol::MQ | Protocol::CONFIG | Protocol::REPLY_ACK);
        frontend.set_protocol_features(protocol).map_err(refused("SET_PROTOCOL_FEATURES"))?;
        if protocol.contains(Protocol::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let mut wanted =
            F_VERSION_1 | F_PROTOCOL_FEATURES | RING_F_EVENT_IDX | RING_F_INDIRECT_DESC;
        if protocol.contains(Protocol::CONFIG) {
            // Without a configuration space there is no notify_buf_size to go by.
            wanted |= FS_F_NOTIFICATION;
        }
        self.features = offered & wanted;
        if protocol.contains(Protocol::CONFIG) {
            let space = if self.has_notifications() {
                &[0; Config::LEN_WITH_NOTIFICATION][..]
            } else {
                &[0; Config::LEN]
            };
            let len = u32::try_from(space.len()).expect("a small number");
            let (_, bytes) = self
                .frontend
                .get_config(0, len, VhostUserConfigFlags::empty(), space)
                .map_err(refused("GET_CONFIG"))?;
            self.config = Config::parse(&bytes)?;
        }
        if protocol.contains(Protocol::MQ) {
            let queues = self.frontend.get_queue_num().map_err(refused("GET_QUEUE_NUM"))?;
            let queues = usize::try_from(queues).unwrap_or(usize::MAX);
            let room = queues
                .checked_sub(self.first_request_queue())
                .filter(|room| *room > 0)
                .ok_or(Error::NoRequestQueue)?;
            self.config.request_queues = self.config.request_queues.min(room);
        }
        self.frontend.set_features(self.features).map_err(refused("SET_FEATURES"))
    }

    /// Shows `memory` to the device.
    pub(super) fn share(&mut self, memory: &Memory) -> Result<(), Error> {
        self.bounded("SET_MEM_TABLE", ANSWER_WAIT, |device| {
            let table = [memory.table_entry()];
            device.frontend.set_mem_table(&table).map_err(refused("SET_MEM_TABLE"))
        })
    }

    /// Hands `queue` to the device, which serves it from then on.
    pub(super) fn start<T>(&mut self, queue: &Queue<T>) -> Result<(), Error> {
        let (index, (memory, areas), [kick, call]) = queue.setup();
        let addresses = VringConfigData {
            queue_max_size: areas.size(),
            queue_size: areas.size(),
            flags: 0,
            desc_table_addr: memory.host_address(areas.desc),
            used_ring_addr: memory.host_address(areas.used),
            avail_ring_addr: memory.host_address(areas.avail),
            log_addr: None,
        };
        self.bounded("the setup of a queue", ANSWER_WAIT, |device| {
            let frontend = &mut device.frontend;
            frontend.set_vring_num(index, areas.size()).map_err(refused("SET_VRING_NUM"))?;
            frontend.set_vring_base(index, 0).map_err(refused("SET_VRING_BASE"))?;
            frontend.set_vring_addr(index, &addresses).map_err(refused("SET_VRING_ADDR"))?;
            frontend.set_vring_call(index, call).map_err(refused("SET_VRING_CALL"))?;
            frontend.set_vring_kick(index, kick).map_err(refused("SET_VRING_KICK"))?;
            device.started.push(index);
            frontend.set_vring_enable(index, true).map_err(refused("SET_VRING_ENABLE"))
        })
    }

    /// Takes all queues back: `GET_VRING_BASE` stops a vring. Done when this goes, at the latest,
    /// since the memory may go afterwards.
    pub(super) fn stop(&mut self) {
        if self.started.is_empty() {
            return;
        }
        let stopped = self.bounded("GET_VRING_BASE", STOP_WAIT, |device| {
            device.started.drain(..).try_for_each(|index| {
                device.frontend.get_vring_base(index).map(drop).map_err(refused("GET_VRING_BASE"))
            })
        });
        if let Err(error) = stopped {
            // The usual end when it is the device that went first.
            tracing::debug!(%error, "taking the queues back");
        }
    }

    /// The features acked.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// The tag of the share; empty when the device does not tell.
    pub(super) fn tag(&self) -> &str {
        &self.config.tag
    }

    /// Whether the notification queue is negotiated.
    pub(super) fn has_notifications(&self) -> bool {
        self.features & FS_F_NOTIFICATION != 0
    }

    /// The size of a buffer for the notification queue, in bytes.
    pub(super) fn notify_buf_size(&self) -> Option<usize> {
        self.config.notify_buf_size
    }

    /// The numbers of the request queues to use: from 2 when 1 is the notification queue, else
    /// from 1 (virtio 1.2 §5.11.2). Queue 0 is hiprio.
    pub(super) fn request_queues(&self) -> std::ops::Range<usize> {
        self.first_request_queue()..self.first_request_queue() + self.config.request_queues
    }

    /// The socket, on which nothing is to be read and whose hang-up is the device's death.
    pub(super) fn socket(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    fn first_request_queue(&self) -> usize {
        if self.has_notifications() { 2 } else { 1 }
    }

    /// Runs a conversation with the device; when it takes too long the socket is shut down, which
    /// is the only thing that wakes a thread of the protocol library.
    fn bounded(
        &mut self,
        request: &'static str,
        limit: Duration,
        talk: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let watched = self.socket().map_err(Error::system("duplicating the device's socket"))?;
        thread::scope(|scope| {
            let (done, until_done) = mpsc::channel::<()>();
            let watchdog = scope.spawn(move || {
                let silent = until_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
                if silent
                    && let Err(error) =
                        rustix::net::shutdown(watched.as_fd(), rustix::net::Shutdown::Both)
                {
                    tracing::debug!(%error, "shutting down the device's socket");
                }
                silent
            });
            let outcome = talk(self);
            drop(done);
            match watchdog.join() {
                Ok(false) => outcome,
                Ok(true) => Err(Error::Silent { request }),
                Err(_) => Err(Error::Panicked),
            }
        })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop();
    }
}

fn refused(request: &'static str) -> impl FnOnce(vhost::Error) -> Error {
    move |source| Error::Refused { request, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(tag: &[u8], numbers: &[u32]) -> Vec<u8> {
        let mut bytes = tag.to_vec();
        bytes.resize(Config::TAG_LEN, 0);
        bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_configuration_space_of_44_bytes_has_a_notify_buf_size() {
        let config = Config::parse(&space(b"share", &[3, 319])).unwrap();
        let expected =
            Config { tag: "share".into(), request_queues: 3, notify_buf_size: Some(319) };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_configuration_space_of_40_bytes_has_none() {
        let config = Config::parse(&space(&[b'x'; 36], &[1])).unwrap();
        assert_eq!(config.tag, "x".repeat(36));
        assert_eq!(config.notify_buf_size, None);
    }

    #[test]
    fn sizes_that_no_notification_fits_or_that_cost_too_much_are_refused() {
        for size in [0, 63, 65537, u32::MAX] {
            let parsed = Config::parse(&space(b"share", &[1, size]));
            assert!(matches!(parsed, Err(Error::NotifyBufSize(refused)) if refused == size));
        }
    }

    #[test]
    fn a_device_without_request_queue_is_refused() {
        for bytes in [space(b"share", &[0, 319]), space(b"share", &[]), vec![]] {
            assert!(matches!(Config::parse(&bytes), Err(Error::NoRequestQueue)));
        }
    }

    #[test]
    fn message_about_a_socket_without_listener_names_what_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let Err(error) = Device::connect(Endpoint::Path(path.clone()), 1) else {
            panic!("connected to nothing")
        };
        assert!(error.to_string().contains("farwatch serve"), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_device_that_hangs_up_in_the_handshake_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(
            Device::connect(Endpoint::Stream(ours), 1),
            Err(Error::Refused { request: "SET_OWNER" | "GET_FEATURES", .. })
        ));
    }
}
