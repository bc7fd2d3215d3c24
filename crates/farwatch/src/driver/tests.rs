// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver against a test device: queues and workers with a socket in the place of `/dev/fuse`,
//! sessions with real mounts.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use farwatch_proto::wire::abi::{FUSE_HAVE_FSNOTIFY, NOTIFY_BUF_SIZE};
use farwatch_sys::mountinfo;
use farwatch_sys::thread::CapabilitySet;
use farwatch_testkit::{skip, skip_without};
use rustix::fs::OFlags;
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tempfile::TempDir;

use super::testing::{Answer, Offer, TestDevice};
use super::unmounted::Unmounted;
use super::*;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;

const FULL: Offer = Offer { notification: true, config: true, request_queues: 2 };

fn message(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + body.len()).unwrap();
    let mut message = [len.to_ne_bytes(), opcode.to_ne_bytes()].concat();
    message.extend(unique.to_ne_bytes());
    message.resize(40, 0);
    message.extend(body);
    message
}

fn opcode(message: &[u8]) -> u32 {
    u32::from_ne_bytes(message[4..8].try_into().unwrap())
}

/// A reply to `message`.
fn reply(message: &[u8], error: i32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(16 + body.len()).unwrap();
    [&len.to_ne_bytes(), &error.to_ne_bytes(), &message[8..16], body].concat()
}

fn echo(message: &[u8]) -> Answer {
    Answer::Reply(reply(message, 0, &message[40..]))
}

fn connect(device: &TestDevice, notification_buffers: u16) -> Driver {
    let options = Options { notification_buffers, ..Options::default() };
    Driver::connect(Endpoint::Stream(device.connect()), &options).unwrap()
}

/// The workers of a driver of `device`.
fn unmounted(device: &TestDevice) -> Unmounted {
    Unmounted::new(connect(device, 1))
}

impl Unmounted {
    fn send(&self, message: &[u8]) {
        assert_eq!(send(&self.kernel, message, SendFlags::empty()).unwrap(), message.len());
    }

    fn receive(&self) -> Vec<u8> {
        let mut reply = vec![0; 4096];
        let (len, _) = recv(&self.kernel, &mut reply, RecvFlags::empty()).unwrap();
        reply.truncate(len);
        reply
    }

    /// Closes the kernel's end, as unmounting does, and waits for the workers.
    fn end(self) {
        drop(self.kernel);
        for worker in self.workers {
            worker.join().unwrap().unwrap();
        }
    }
}

#[test]
fn a_request_reaches_the_device_as_it_is_and_the_reply_comes_back_as_it_is() {
    let device = TestDevice::start(FULL, echo);
    let bench = unmounted(&device);
    let request = message(GETATTR, 7, b"anything");
    bench.send(&request);
    assert_eq!(bench.receive(), reply(&request, 0, b"anything"));
    let (queue, seen) = device.wait_for(|_, _| true);
    assert_eq!(seen, request);
    assert!([2, 3].contains(&queue), "requests start at 2 when 1 is the notification queue");
    bench.end();
}

/// A reply to INIT with these flags, of which the upper half is `flags2`.
fn init_reply(message: &[u8], error: i32, flags: u64) -> Answer {
    let mut body = [0; 64];
    body[12..16].copy_from_slice(&u32::try_from(flags & 0xffff_ffff).unwrap().to_ne_bytes());
    body[32..36].copy_from_slice(&u32::try_from(flags >> 32).unwrap().to_ne_bytes());
    Answer::Reply(reply(message, error, &body))
}

#[test]
fn kernel_raises_events_itself_if_the_device_has_granted_that_at_init() {
    type Case = (fn(&[u8]) -> Answer, bool);
    let answers: [Case; 4] = [
        (|message| init_reply(message, 0, FUSE_HAVE_FSNOTIFY), true),
        (|message| init_reply(message, 0, !FUSE_HAVE_FSNOTIFY), false),
        (|message| init_reply(message, -71, FUSE_HAVE_FSNOTIFY), false),
        (|message| Answer::Reply(reply(message, 0, &[0xff; 24])), false),
    ];
    for (answer, raises) in answers {
        let device = TestDevice::start(FULL, answer);
        let bench = unmounted(&device);
        bench.send(&message(INIT, 7, b""));
        bench.receive();
        assert_eq!(bench.fuse.upgrade().unwrap().raises(), raises);
        bench.end();
    }
}

#[test]
fn notifications_are_relayed_to_the_kernel_as_they_are_until_the_session_ends() {
    let device = TestDevice::start(FULL, echo);
    let mut bench = unmounted(&device);
    let relay =
        Relay::start(bench.notifications.take().unwrap(), Weak::clone(&bench.fuse)).unwrap();
    // More than the socket holds: the relay waits for room.
    let sent: Vec<_> =
        (0..500).map(|nth: u32| [&nth.to_ne_bytes()[..], &[7; 300]].concat()).collect();
    thread::scope(|scope| {
        scope.spawn(|| sent.iter().for_each(|message| device.notify(message)));
        for message in &sent {
            assert_eq!(bench.receive(), *message);
        }
    });
    bench.closed.raise();
    relay.join();
    bench.end();
}

#[test]
fn relay_ends_when_the_workers_have() {
    let device = TestDevice::start(FULL, echo);
    let Unmounted { kernel, fuse, notifications, workers, _device, .. } = unmounted(&device);
    let relay = Relay::start(notifications.unwrap(), fuse).unwrap();
    // As unmounting does.
    drop(kernel);
    for worker in workers {
        worker.join().unwrap().unwrap();
    }
    device.notify(b"for nobody");
    relay.join();
}

#[test]
fn without_notifications_or_configuration_space_there_is_one_request_queue_and_it_is_1() {
    for offer in [
        Offer { notification: false, config: false, request_queues: 2 },
        Offer { notification: true, config: false, request_queues: 2 },
        Offer { notification: false, config: true, request_queues: 1 },
    ] {
        let device = TestDevice::start(offer, echo);
        let mut driver = connect(&device, 1);
        assert!(!driver.has_notifications());
        assert!(driver.notification_queue().is_none());
        assert_eq!(driver.tag(), if offer.config { "test" } else { "" });
        assert_eq!(device.acked() & 1, 0);
        drop(driver);

        let device = TestDevice::start(offer, echo);
        let bench = unmounted(&device);
        bench.send(&message(GETATTR, 7, b""));
        bench.receive();
        assert_eq!(device.wait_for(|_, _| true).0, 1);
        bench.end();
    }
}

#[test]
fn message_without_a_reply_is_sent_on_the_hiprio_queue() {
    let device = TestDevice::start(FULL, |message| match opcode(message) {
        FORGET => Answer::Empty,
        _ => echo(message),
    });
    let bench = unmounted(&device);
    // More than the hiprio queue holds, so that its slots must come back.
    for unique in 0..100 {
        bench.send(&message(FORGET, unique, b"node"));
    }
    let request = message(GETATTR, 200, b"");
    bench.send(&request);
    assert_eq!(bench.receive(), reply(&request, 0, b""));
    device.wait_for(|queue, seen| queue == 0 && seen == message(FORGET, 99, b"node"));
    bench.end();
}

#[test]
fn a_request_without_an_answer_of_its_own_fails_with_eio() {
    let bad: [fn(&[u8]) -> Answer; 3] = [
        |_| Answer::Empty,
        |_| Answer::Reply(vec![0; 15]),
        |_| Answer::Reply(reply(&message(GETATTR, 8, b""), 0, b"not for 7")),
    ];
    for answer in bad {
        let device = TestDevice::start(FULL, answer);
        let bench = unmounted(&device);
        let request = message(GETATTR, 7, b"");
        bench.send(&request);
        assert_eq!(bench.receive(), reply(&request, -5, b""));
        bench.end();
    }
}

#[test]
fn more_requests_than_a_queue_holds_are_all_answered() {
    /// More than fit into the queues. All replies together fit into the socket's buffer: unlike
    /// `/dev/fuse` it takes no more when that is full.
    const REQUESTS: u64 = 120;
    let device = TestDevice::start(FULL, echo);
    let bench = unmounted(&device);
    thread::scope(|scope| {
        scope.spawn(|| {
            for unique in 0..REQUESTS {
                bench.send(&message(GETATTR, unique, b"x"));
            }
        });
        let mut answered: Vec<u64> = (0..REQUESTS)
            .map(|_| u64::from_ne_bytes(bench.receive()[8..16].try_into().unwrap()))
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, (0..REQUESTS).collect::<Vec<_>>());
    });
    bench.end();
}

#[test]
fn a_read_is_given_no_more_room_than_it_asks_for() {
    const READ: u32 = 15;
    let device = TestDevice::start(FULL, |message| Answer::Reply(reply(message, 0, &[1; 500])));
    let bench = unmounted(&device);
    let mut read_in = [0; 40];
    read_in[16..20].copy_from_slice(&100u32.to_ne_bytes());
    bench.send(&message(READ, 7, &read_in));
    assert_eq!(bench.receive().len(), 16 + 100, "the used length is cut to the room given");
    bench.end();
}

#[test]
fn workers_halt_at_once_with_a_request_in_flight() {
    let device = TestDevice::start(FULL, |_| Answer::Never);
    let bench = unmounted(&device);
    bench.send(&message(GETATTR, 7, b""));
    device.wait_for(|_, _| true);
    bench.halt.at_once.raise();
    bench.halt.stop.raise();
    for worker in bench.workers {
        worker.join().unwrap().unwrap();
    }
}

#[test]
fn one_notification_buffer_is_enough() {
    let device = TestDevice::start(FULL, echo);
    let mut driver = connect(&device, 1);
    let mut queue = driver.notification_queue().unwrap();
    assert!(driver.notification_queue().is_none(), "there is one consumer");
    assert_eq!(queue.buf_size(), NOTIFY_BUF_SIZE);
    let messages: Vec<_> = (1u8..=20).map(|n| vec![n; usize::from(n)]).collect();
    for message in &messages {
        device.notify(message);
    }
    let mut out = vec![0; queue.buf_size()];
    for (nth, message) in messages.iter().enumerate() {
        assert_eq!(queue.receive(None, &mut out).unwrap(), Received::Message(message.len()));
        assert_eq!(out[..message.len()], *message);
        // The buffer is back: the device sends the next one though nobody asks for it yet.
        while device.unsent() > (messages.len() - nth).saturating_sub(2) {
            thread::yield_now();
        }
    }
}

#[test]
fn an_empty_notification_is_skipped_and_a_long_one_is_cut() {
    let device = TestDevice::start(FULL, echo);
    let mut queue = connect_for_notifications(&device);
    device.notify(b"");
    device.notify(b"abcdef");
    let mut out = [0; 4];
    assert_eq!(queue.1.receive(None, &mut out).unwrap(), Received::Message(4));
    assert_eq!(&out, b"abcd");
}

#[test]
fn waiting_for_a_notification_ends_at_the_deadline_and_with_the_session() {
    let device = TestDevice::start(FULL, echo);
    let (driver, mut queue) = connect_for_notifications(&device);
    let mut out = [0; NOTIFY_BUF_SIZE];
    let deadline = Instant::now() + Duration::from_millis(20);
    assert_eq!(queue.receive(Some(deadline), &mut out).unwrap(), Received::TimedOut);
    assert!(Instant::now() >= deadline);
    device.notify(b"late");
    while device.unsent() > 0 {
        thread::yield_now();
    }
    let past = Some(deadline);
    assert_eq!(queue.receive(past, &mut out).unwrap(), Received::Message(4));
    let waiting = thread::spawn(move || queue.receive(None, &mut [0; 64]).unwrap());
    driver.orders.closed.raise();
    assert_eq!(waiting.join().unwrap(), Received::Closed);
}

fn connect_for_notifications(device: &TestDevice) -> (Driver, NotificationQueue) {
    let mut driver = connect(device, 4);
    let queue = driver.notification_queue().unwrap();
    (driver, queue)
}

/// An empty file system; looking up `stuck` takes for ever.
fn empty_file_system(message: &[u8]) -> Answer {
    const ENOENT: i32 = -2;
    const ENOSYS: i32 = -38;
    let answer = match opcode(message) {
        INIT => {
            // struct fuse_init_out: major, minor, then zeroes, and max_write.
            let mut init = [0; 64];
            init[0] = 7;
            init[4] = 31;
            init[20..24].copy_from_slice(&4096u32.to_ne_bytes());
            reply(message, 0, &init)
        }
        GETATTR => {
            // struct fuse_attr_out: a directory that may be searched.
            let mut attr = [0; 104];
            attr[16] = 1;
            attr[76..80].copy_from_slice(&0o40755u32.to_ne_bytes());
            attr[80] = 2;
            reply(message, 0, &attr)
        }
        LOOKUP if message[40..] == *b"stuck\0" => return Answer::Never,
        LOOKUP => reply(message, ENOENT, b""),
        _ => reply(message, ENOSYS, b""),
    };
    Answer::Reply(answer)
}

fn is_mount_point(path: &Path) -> bool {
    let table = mountinfo::read().unwrap();
    mountinfo::mounts(&table).any(|mount| mount.mount_point == path)
}

/// Skips the calling test, which must return when this is true, where it cannot mount.
fn skip_without_mount() -> bool {
    if skip_without(CapabilitySet::SYS_ADMIN) {
        return true;
    }
    let is_missing = File::open("/dev/fuse").is_err();
    if is_missing {
        skip("needs /dev/fuse");
    }
    is_missing
}

/// A session with a real mount.
struct Mounted {
    device: TestDevice,
    session: Session,
    notifications: NotificationQueue,
    _dir: TempDir,
    at: PathBuf,
}

impl Mounted {
    /// Skips the calling test, which must return when this is `None`, where it cannot mount.
    fn new() -> Option<Self> {
        if skip_without_mount() {
            return None;
        }
        let device = TestDevice::start(FULL, empty_file_system);
        let (driver, notifications) = connect_for_notifications(&device);
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a mount");
        fs::create_dir(&at).unwrap();
        let session = driver.mount(&at, "the-source").unwrap();
        assert_eq!(fs::metadata(at.join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
        Some(Self { device, session, notifications, _dir: dir, at })
    }

    /// A program that waits for the device in the mount.
    fn stick(&self) -> JoinHandle<io::Error> {
        let path = self.at.join("stuck");
        let program = thread::spawn(move || fs::metadata(path).unwrap_err());
        self.device.wait_for(|_, message| message.ends_with(b"stuck\0"));
        program
    }

    fn is_mounted(&self) -> bool {
        is_mount_point(&self.at)
    }

    /// Waits for the end, which must be `expected`, and closes the session.
    fn ends(mut self, expected: Ended) -> PathBuf {
        assert_eq!(self.session.wait().unwrap(), expected);
        assert_eq!(self.notifications.receive(None, &mut [0; 64]).unwrap(), Received::Closed);
        self.session.close().unwrap();
        self.at
    }
}

#[test]
fn a_session_that_is_stopped_unmounts() {
    let Some(mounted) = Mounted::new() else { return };
    assert!(mounted.is_mounted());
    mounted.session.stopper().stop();
    let at = mounted.at.clone();
    mounted.ends(Ended::Stopped);
    assert!(!at.exists(), "the mount and the directory below are gone");
}

#[test]
fn a_session_that_is_dropped_unmounts() {
    let Some(mounted) = Mounted::new() else { return };
    let Mounted { session, at, _dir, .. } = mounted;
    drop(session);
    assert!(!is_mount_point(&at));
}

#[test]
fn a_session_ends_when_the_file_system_is_unmounted() {
    let Some(mounted) = Mounted::new() else { return };
    unmount(&mounted.at, UnmountFlags::empty()).unwrap();
    mounted.ends(Ended::Unmounted);
}

#[test]
fn unmounting_is_noticed_though_a_clone_of_the_mount_keeps_the_file_system_alive() {
    let Some(mounted) = Mounted::new() else { return };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(rustix::fs::CWD, &mounted.at, flags).unwrap();
    unmount(&mounted.at, UnmountFlags::empty()).unwrap();
    assert_eq!(mounted.session.wait().unwrap(), Ended::Unmounted);
    let served = rustix::fs::statat(&clone, "no", rustix::fs::AtFlags::empty());
    assert_eq!(served.unwrap_err(), rustix::io::Errno::NOENT, "the clone is served until it goes");
    drop(clone);
    mounted.ends(Ended::Unmounted);
}

#[test]
fn death_of_the_device_fails_waiting_requests() {
    let Some(mounted) = Mounted::new() else { return };
    let program = mounted.stick();
    mounted.device.die();
    assert_eq!(program.join().unwrap().kind(), io::ErrorKind::ConnectionAborted);
    mounted.ends(Ended::DeviceGone);
}

#[test]
fn the_death_of_the_device_ends_a_session_that_only_a_clone_keeps_alive() {
    let Some(mounted) = Mounted::new() else { return };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let _clone = open_tree(rustix::fs::CWD, &mounted.at, flags).unwrap();
    unmount(&mounted.at, UnmountFlags::empty()).unwrap();
    assert_eq!(mounted.session.wait().unwrap(), Ended::Unmounted);
    mounted.device.die();
    mounted.ends(Ended::Unmounted);
}

#[test]
fn a_stopped_session_gives_up_requests_that_a_silent_device_holds() {
    let Some(mounted) = Mounted::new() else { return };
    let program = mounted.stick();
    mounted.session.stopper().stop();
    mounted.ends(Ended::Stopped);
    assert_eq!(program.join().unwrap().kind(), io::ErrorKind::ConnectionAborted);
}

#[test]
fn a_mount_in_use_is_unmounted_lazily() {
    let Some(mounted) = Mounted::new() else { return };
    let flags = i32::try_from(OFlags::PATH.bits()).unwrap();
    let user = OpenOptions::new().read(true).custom_flags(flags).open(&mounted.at).unwrap();
    mounted.session.stopper().stop();
    assert_eq!(mounted.session.wait().unwrap(), Ended::Stopped);
    mounted.ends(Ended::Stopped);
    let left = rustix::fs::statat(&user, "no", rustix::fs::AtFlags::empty());
    assert_eq!(left.unwrap_err(), rustix::io::Errno::NOTCONN);
}

#[test]
fn mounting_on_nothing_is_an_error_that_names_the_place() {
    if skip_without_mount() {
        return;
    }
    let device = TestDevice::start(FULL, empty_file_system);
    let Err(error) = connect(&device, 1).mount("/no/such/place".as_ref(), "x") else {
        panic!("mounted on nothing")
    };
    assert!(error.to_string().contains("/no/such/place"), "{error}");
}
