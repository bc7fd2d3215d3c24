// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device over its socket, with a fake driver on the other end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/fake_driver.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod fake_driver;
#[path = "common/source.rs"]
mod source;

use std::ffi::CStr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, io, thread};

use fake_driver::{Buffer, FakeDriver};
use farwatch::device::{Device, DeviceError, Ended, ServeError, StopHandle, Tag, TagError, serve};
use farwatch::virtio::{FS_F_NOTIFICATION, RING_F_EVENT_IDX};
use farwatch_proto::NodeId;
use farwatch_proto::wire::abi::NOTIFY_BUF_SIZE;
use source::Source;
use tempfile::TempDir;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use virtiofsd::filesystem::{
    Context, DirEntry, DirectoryIterator, Entry, FileSystem, SerializableFileSystem, ZeroCopyWriter,
};
use virtiofsd::passthrough::{Config, PassthroughFs};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;

const ENOENT: i32 = 2;
const EBADF: i32 = 9;
const EINVAL: i32 = 22;

const BUF: u32 = 319;
const _: () = assert!(BUF as usize == NOTIFY_BUF_SIZE);

/// How long a test looks whether something happens that must not. It never waits for something
/// that must.
const A_WHILE: Duration = Duration::from_millis(100);

/// A device that is being served, on a socket in a directory of its own.
struct Served<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> {
    device: Arc<Device<F>>,
    source: Arc<Source>,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<Ended, ServeError>>>,
    dir: TempDir,
}

impl<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> Served<F> {
    fn new(dir: TempDir, fs: F, request_queues: u32, once: bool) -> Self {
        let source = Arc::new(Source::default());
        let tag = Tag::new("share").unwrap();
        let device = Device::new(fs, tag, request_queues, Arc::clone(&source) as _).unwrap();
        let device = Arc::new(device);
        let stop = StopHandle::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let thread = thread::spawn({
            let (device, stop) = (Arc::clone(&device), stop.clone());
            move || serve(&listener, &device, once, &stop)
        });
        Self { device, source, stop, thread: Some(thread), dir }
    }

    fn connect(&self, queues: usize, size: u16, features: u64) -> FakeDriver {
        FakeDriver::connect(&self.dir.path().join("socket"), queues, size, features)
    }

    /// How serving ended.
    fn ended(mut self) -> Result<Ended, ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

/// A device that shares a directory with one file, `hello`.
fn passthrough(request_queues: u32) -> Served<PassthroughFs> {
    let dir = TempDir::new().unwrap();
    let share: PathBuf = dir.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::write(share.join("hello"), "hello, guest").unwrap();
    let root_dir = share.to_str().unwrap().to_owned();
    let fs = PassthroughFs::new(Config { root_dir, ..Config::default() }).unwrap();
    Served::new(dir, fs, request_queues, false)
}

/// A file system whose `read` waits until the test lets it go on.
struct SlowFs {
    reading: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

struct NoEntries;

impl DirectoryIterator for NoEntries {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        None
    }
}

impl FileSystem for SlowFs {
    type Inode = u64;
    type Handle = u64;
    type DirIter = NoEntries;

    fn lookup(&self, _ctx: Context, _parent: u64, _name: &CStr) -> io::Result<Entry> {
        Err(io::Error::from_raw_os_error(ENOENT))
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        _ctx: Context,
        _inode: u64,
        _handle: u64,
        _writer: W,
        _size: u32,
        _offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        self.reading.send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
        Ok(0)
    }
}

impl SerializableFileSystem for SlowFs {}

/// A device around a [`SlowFs`], with what tells that a read has begun and what ends it.
fn slow() -> (Served<SlowFs>, Receiver<()>, Sender<()>) {
    let ((reading, is_reading), (go_on, let_go_on)) = (channel(), channel());
    let fs = SlowFs { reading, go_on: Mutex::new(let_go_on) };
    (Served::new(TempDir::new().unwrap(), fs, 1, false), is_reading, go_on)
}

fn request(opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + body.len()).unwrap();
    let mut request = Vec::new();
    request.extend(len.to_le_bytes());
    request.extend(opcode.to_le_bytes());
    request.extend(77_u64.to_le_bytes());
    request.extend(nodeid.to_le_bytes());
    request.extend([0; 16]);
    request.extend(body);
    request
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The body of a reply, or its errno.
fn body(reply: &[u8]) -> Result<&[u8], i32> {
    assert_eq!(le32(reply, 0) as usize, reply.len());
    assert_eq!(le64(reply, 8), 77, "unique");
    match -i32::from_le_bytes(reply[4..8].try_into().unwrap()) {
        0 => Ok(&reply[16..]),
        errno => Err(errno),
    }
}

fn init(driver: &mut FakeDriver, queue: usize) {
    let mut init = [0; 64];
    init[0] = 7;
    init[4] = 38;
    assert_eq!(body(&driver.request(queue, request(INIT, 0, &init), 80)).unwrap().len(), 64);
}

/// Looks `hello` up and returns its nodeid.
fn lookup_hello(driver: &mut FakeDriver, queue: usize) -> u64 {
    let reply = driver.request(queue, request(LOOKUP, 1, b"hello\0"), 144);
    le64(body(&reply).unwrap(), 0)
}

fn read_at(size: u32) -> Vec<u8> {
    let mut read = vec![0; 40];
    read[16..20].copy_from_slice(&size.to_le_bytes());
    read
}

#[test]
fn files_are_read_and_written_through_every_request_queue_of_both_layouts() {
    for (features, request_queues) in
        [(0, 1..4), (FS_F_NOTIFICATION, 2..5), (FS_F_NOTIFICATION | RING_F_EVENT_IDX, 2..5)]
    {
        let served = passthrough(3);
        let mut driver = served.connect(request_queues.end, 16, features);
        init(&mut driver, request_queues.start);
        for queue in request_queues {
            let hello = lookup_hello(&mut driver, queue);
            let attr = driver.request(queue, request(GETATTR, hello, &[0; 16]), 120);
            assert_eq!(le64(body(&attr).unwrap(), 16 + 8), 12, "size");
            let opened = driver.request(queue, request(OPEN, hello, &[2, 0, 0, 0, 0, 0, 0, 0]), 32);
            let fh = le64(body(&opened).unwrap(), 0);

            let mut write = read_at(5);
            write[..8].copy_from_slice(&fh.to_le_bytes());
            write.extend(b"HELLO");
            let written = driver.request(queue, request(WRITE, hello, &write), 24);
            assert_eq!(le32(body(&written).unwrap(), 0), 5);

            let mut read = read_at(4096);
            read[..8].copy_from_slice(&fh.to_le_bytes());
            let read = driver.request(queue, request(READ, hello, &read), 16 + 4096);
            assert_eq!(body(&read).unwrap(), b"HELLO, guest");

            // The hiprio queue takes the kernel's FORGET.
            driver.post(0, &[Buffer::In(request(FORGET, hello, &1_u64.to_le_bytes()))]);
            driver.kick(0);
            assert!(driver.wait(0).is_empty());
        }
        assert_eq!(served.device.stats().refused, 0);
        served.stop.stop();
    }
}

#[test]
fn the_config_space_has_the_tag_the_queues_and_the_size_of_a_buffer() {
    let served = passthrough(3);
    let mut driver = served.connect(5, 16, FS_F_NOTIFICATION);
    let mut expected = b"share".to_vec();
    expected.resize(36, 0);
    expected.extend([3, 0, 0, 0, 63, 1, 0, 0]);
    assert_eq!(driver.config(0, 44), expected);
    assert_eq!(driver.config(0, 40), expected[..40]);
    assert_eq!(driver.config(40, 4), expected[40..]);
    expected.resize(256, 0);
    assert_eq!(driver.config(0, 256), expected);
    assert_eq!(driver.config(44, 8), [0; 8]);
    served.stop.stop();
}

#[test]
fn a_tag_has_1_to_36_bytes_and_a_device_1_to_8_request_queues() {
    assert_eq!(Tag::new(""), Err(TagError::Empty));
    assert_eq!(Tag::new("x".repeat(37)), Err(TagError::TooLong(37)));
    assert_eq!(Tag::new("a\0b"), Err(TagError::Nul));
    let longest: Tag = "x".repeat(36).parse().unwrap();
    for request_queues in [0, 9] {
        let fs = PassthroughFs::new(Config::default()).unwrap();
        let device = Device::new(fs, longest.clone(), request_queues, Arc::new(Source::default()));
        assert!(matches!(device, Err(DeviceError::RequestQueues(n)) if n == request_queues));
    }
}

#[test]
fn queue_still_works_after_malformed_requests() {
    let served = passthrough(1);
    let mut driver = served.connect(2, 16, RING_F_EVENT_IDX);
    for queue in [1, 0] {
        init(&mut driver, queue);
        // A chain that is too short, a head that is none, and a length that is wrong.
        assert!(driver.request(queue, vec![0; 8], 144).is_empty());
        driver.post_nonsense(queue, u16::MAX, 1);
        let mut long = request(LOOKUP, 1, b"hello\0");
        long[0] += 1;
        assert_eq!(body(&driver.request(queue, long, 144)), Err(EINVAL));
        lookup_hello(&mut driver, queue);
    }
    let stats = served.device.stats();
    assert_eq!((stats.malformed, stats.refused, stats.panics), (4, 2, 0));
    served.stop.stop();
}

#[test]
fn no_kick_is_lost_when_kicks_are_suppressed() {
    let served = passthrough(1);
    let mut driver = served.connect(2, 16, RING_F_EVENT_IDX);
    init(&mut driver, 1);
    for batch in 0..500 {
        let batch = 1 + batch % 8;
        for _ in 0..batch {
            let lookup = Buffer::In(request(LOOKUP, 1, b"hello\0"));
            driver.post(1, &[lookup, Buffer::Out(144)]);
            driver.kick(1);
        }
        (0..batch).for_each(|_| assert_eq!(driver.wait(1).len(), 144));
    }
    served.stop.stop();
}

#[test]
fn a_driver_that_breaks_one_ring_keeps_the_others_and_may_start_again() {
    let served = passthrough(2);
    let mut driver = served.connect(3, 16, 0);
    init(&mut driver, 1);
    // More available than the ring has entries.
    driver.post_nonsense(1, 0, 17);
    driver.kick(1);
    lookup_hello(&mut driver, 2);
    driver.frontend.reset_device().unwrap();
    driver.frontend.set_features(1 << 32 | 1 << 30).unwrap();
    driver.start();
    init(&mut driver, 1);
    lookup_hello(&mut driver, 1);
    served.stop.stop();
}

#[test]
fn a_queue_of_one_buffer_gets_all_notifications_in_order() {
    for features in [FS_F_NOTIFICATION, FS_F_NOTIFICATION | RING_F_EVENT_IDX] {
        let served = passthrough(1);
        let mut driver = served.connect(3, 1, features);
        for notification in ["one", "two", "three", "four"] {
            served.source.push(notification);
        }
        for notification in ["one", "two", "three"] {
            driver.post(1, &[Buffer::Out(BUF)]);
            driver.kick(1);
            assert_eq!(driver.wait(1), notification.as_bytes());
            served.device.pump();
            assert!(driver.used(1).is_none(), "there is no buffer");
        }
        // The buffer first, then the notification: no kick is needed.
        driver.post(1, &[Buffer::Out(BUF)]);
        served.device.pump();
        assert_eq!(driver.used(1).unwrap(), b"four");
        driver.post(1, &[Buffer::Out(BUF)]);
        served.device.pump();
        assert!(driver.used(1).is_none(), "there is no notification");
        served.source.push("five");
        served.device.pump();
        assert_eq!(driver.used(1).unwrap(), b"five");
        assert_eq!(served.device.stats().notifications, 5);
        served.stop.stop();
    }
}

#[test]
fn many_notifications_are_delivered_with_one_call() {
    let served = passthrough(1);
    let mut driver = served.connect(3, 16, FS_F_NOTIFICATION);
    for _ in 0..8 {
        driver.post(1, &[Buffer::Out(BUF)]);
    }
    served.source.push("first");
    driver.kick(1);
    assert_eq!(driver.wait(1), b"first");
    // Returns when the queue's thread, which delivered it, has called too.
    served.device.pump();
    driver.calls(1);
    (0..9).for_each(|_| served.source.push("more"));
    served.device.pump();
    assert_eq!(driver.calls(1), 1);
    (0..7).for_each(|_| assert_eq!(driver.used(1).unwrap(), b"more"));
    assert!(driver.used(1).is_none());
    served.stop.stop();
}

#[test]
fn a_buffer_that_is_too_small_goes_back_empty_and_its_notification_into_the_next() {
    let served = passthrough(1);
    let mut driver = served.connect(3, 16, FS_F_NOTIFICATION);
    served.source.push("kept");
    driver.post(1, &[Buffer::Out(BUF - 1)]);
    driver.post(1, &[Buffer::In(vec![0; 400])]);
    driver.post(1, &[Buffer::Out(BUF - 1), Buffer::Out(1)]);
    driver.kick(1);
    assert!(driver.wait(1).is_empty());
    assert!(driver.wait(1).is_empty());
    assert_eq!(driver.wait(1), b"kept");
    let stats = served.device.stats();
    assert_eq!((stats.bad_buffers, stats.notifications), (2, 1));
    served.stop.stop();
}

#[test]
fn notifications_are_wanted_from_the_first_kick_of_their_queue_until_the_driver_is_gone() {
    let served = passthrough(1);
    let mut driver = served.connect(3, 16, FS_F_NOTIFICATION);
    assert!(!served.device.wants_notifications());
    served.source.push("hello");
    driver.post(1, &[Buffer::Out(BUF)]);
    driver.kick(1);
    driver.wait(1);
    assert!(served.device.wants_notifications());

    driver.frontend.set_vring_enable(1, false).unwrap();
    assert!(!served.device.wants_notifications());
    driver.frontend.set_vring_enable(1, true).unwrap();
    assert!(served.device.wants_notifications());

    driver.frontend.reset_device().unwrap();
    assert!(!served.device.wants_notifications());
    assert_eq!(served.source.resets.load(Ordering::SeqCst), 1);
    served.stop.stop();
}

#[test]
fn a_driver_without_the_feature_gets_no_notification_into_its_request_queue() {
    let served = passthrough(1);
    let mut driver = served.connect(3, 16, FS_F_NOTIFICATION);
    served.source.push("hello");
    driver.post(1, &[Buffer::Out(BUF)]);
    driver.kick(1);
    driver.wait(1);
    // Another driver on the same connection, as after a reboot into another kernel.
    for queue in 0..3 {
        driver.frontend.get_vring_base(queue).unwrap();
    }
    driver.frontend.set_features(1 << 32 | 1 << 30).unwrap();
    driver.start();
    served.source.push("not for this one");
    driver.post(1, &[Buffer::In(request(LOOKUP, 1, b"hello\0")), Buffer::Out(BUF)]);
    served.device.pump();
    assert!(driver.used(1).is_none());
    assert!(!served.device.wants_notifications());
    driver.kick(1);
    // Nothing is known before INIT.
    assert_eq!(body(&driver.wait(1)), Err(EBADF));
    served.stop.stop();
}

#[test]
fn the_next_driver_finds_a_device_that_has_forgotten_the_one_before() {
    let served = passthrough(1);
    let mut driver = served.connect(3, 16, FS_F_NOTIFICATION);
    init(&mut driver, 2);
    let hello = lookup_hello(&mut driver, 2);
    served.source.push("seen");
    driver.post(1, &[Buffer::Out(BUF)]);
    driver.kick(1);
    driver.wait(1);
    served.source.push("not seen");
    drop(driver);

    let mut driver = served.connect(2, 16, RING_F_EVENT_IDX);
    assert!(!served.device.wants_notifications());
    assert_eq!(served.source.resets.load(Ordering::SeqCst), 1);
    assert!(served.source.pending.lock().unwrap().is_empty());
    let attr = driver.request(1, request(GETATTR, hello, &[0; 16]), 120);
    assert_eq!(body(&attr), Err(EBADF));
    init(&mut driver, 1);
    lookup_hello(&mut driver, 1);
    served.stop.stop();
}

#[test]
fn memory_that_is_longer_than_its_file_is_refused_and_the_next_driver_is_served() {
    let served = passthrough(1);
    let socket = served.dir.path().join("socket");
    assert!(!FakeDriver::shares_memory_of(&socket, 0x2000, 0x1000));
    assert!(FakeDriver::shares_memory_of(&socket, 0x2000, 0x2000));
    let mut driver = served.connect(2, 16, 0);
    init(&mut driver, 1);
    lookup_hello(&mut driver, 1);
    served.stop.stop();
}

#[test]
fn serving_once_ends_with_its_frontend() {
    let dir = TempDir::new().unwrap();
    let fs = PassthroughFs::new(Config::default()).unwrap();
    let served = Served::new(dir, fs, 1, true);
    drop(served.connect(2, 16, 0));
    assert_eq!(served.ended().unwrap(), Ended::Disconnected);
}

#[test]
fn serving_ends_when_it_is_stopped_between_sessions() {
    let served = passthrough(1);
    served.stop.stop();
    assert_eq!(served.ended().unwrap(), Ended::Stopped);
}

#[test]
fn a_stop_in_a_session_lets_the_running_request_finish_and_no_other_begin() {
    let (served, reading, go_on) = slow();
    let mut driver = served.connect(2, 16, 0);
    driver.post(1, &[Buffer::In(request(READ, 5, &read_at(64))), Buffer::Out(80)]);
    driver.kick(1);
    reading.recv().unwrap();
    served.stop.stop();
    let (end, ended) = channel();
    thread::spawn(move || end.send(served.ended()));
    assert!(ended.recv_timeout(A_WHILE).is_err(), "a request is running");
    go_on.send(()).unwrap();
    assert_eq!(ended.recv().unwrap().unwrap(), Ended::Stopped);
    assert_eq!(body(&driver.wait(1)), Ok(&[][..]));
    driver.post(1, &[Buffer::In(request(LOOKUP, 1, b"x\0")), Buffer::Out(144)]);
    driver.kick(1);
    assert_eq!(driver.frontend.get_vring_base(1).unwrap(), 1, "one request was taken");
}

#[test]
fn a_read_of_the_control_node_waits_beside_its_queue() {
    let (served, reading, go_on) = slow();
    let mut driver = served.connect(2, 64, RING_F_EVENT_IDX);
    let control = request(READ, NodeId::CONTROL.get(), &read_at(64));
    driver.post(1, &[Buffer::In(control), Buffer::Out(80)]);
    driver.kick(1);
    reading.recv().unwrap();
    // It has been taken and not answered; the queue serves what comes after it.
    for _ in 0..20 {
        let reply = driver.request(1, request(LOOKUP, 1, b"x\0"), 144);
        assert_eq!(body(&reply), Err(ENOENT));
    }
    go_on.send(()).unwrap();
    assert_eq!(body(&driver.wait(1)), Ok(&[][..]));
    served.stop.stop();
}

#[test]
fn a_ring_is_stopped_only_after_the_waiting_read_is_given_back() {
    let (served, reading, go_on) = slow();
    let mut driver = served.connect(2, 16, 0);
    let control = request(READ, NodeId::CONTROL.get(), &read_at(64));
    driver.post(1, &[Buffer::In(control), Buffer::Out(80)]);
    driver.kick(1);
    reading.recv().unwrap();
    let (stop, stopped) = channel();
    let frontend = driver.frontend.clone();
    thread::spawn(move || stop.send(frontend.get_vring_base(1).unwrap()));
    assert!(stopped.recv_timeout(A_WHILE).is_err(), "a read is waiting");
    assert_eq!(served.source.hurried.load(Ordering::SeqCst), 1, "its answer is asked for");
    go_on.send(()).unwrap();
    assert_eq!(stopped.recv().unwrap(), 1);
    assert_eq!(body(&driver.used(1).expect("given back before the stop")), Ok(&[][..]));
    served.stop.stop();
}
