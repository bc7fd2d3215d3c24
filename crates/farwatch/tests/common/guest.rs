// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Guest`]: a guest's kernel and its agent, as far as a FUSE server can tell: requests go in one by
//! one with whatever uid, gid and pid the test wants, and notifications come out of a queue of one
//! buffer (S10).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use farwatch::virtio::FS_F_NOTIFICATION;
use farwatch_proto::wire::Notification;
use farwatch_proto::wire::abi::{MARKER_UID, NOTIFY_BUF_SIZE};
use farwatch_proto::wire::control::{Delivery, Hello, Welcome};
use farwatch_proto::{Mask, NodeId, Seq};
use rustix::io::Errno;
use vhost::VhostBackend as _;
use vhost::vhost_user::VhostUserFrontend as _;

use crate::fake_driver::{Buffer, FakeDriver};
use crate::requests::{self, Request, open_flags};

/// The root's nodeid.
pub(crate) const ROOT: u64 = 1;
/// `FUSE_INIT_EXT`: `flags2` counts.
pub(crate) const INIT_EXT: u64 = 1 << 30;
/// The thread that opens the control node in [`Guest::attach`].
pub(crate) const AGENT_TID: u32 = 4711;

/// Queues of the device: hiprio, notifications, requests.
const QUEUES: usize = 3;
const NOTIFICATIONS: usize = 1;
const REQUESTS: usize = 2;
/// Room for the reply to any request that is not a big read.
const ROOM: u32 = 0x3000;
/// `fuse_in_header.unique` of every request: there is one at a time.
const UNIQUE: u64 = 77;

/// A reply's body, or its error.
pub(crate) type Reply = Result<Vec<u8>, Errno>;

/// Notifications with their numbers.
pub(crate) type Told = Vec<(Seq, Notification)>;

/// Who a request comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
}

impl Caller {
    /// A program of the guest's root, with neither mark.
    pub(crate) const PROGRAM: Self = Self { uid: 0, gid: 0, pid: 100 };

    /// The attached agent with both marks, at work on a notification; 0 for none.
    pub(crate) fn agent(seq: u32) -> Self {
        Self { uid: MARKER_UID, gid: seq, pid: AGENT_TID }
    }
}

/// See the module's documentation.
pub(crate) struct Guest {
    pub(crate) driver: FakeDriver,
    /// A buffer for a notification is posted.
    posted: bool,
    /// The number of the next notification.
    next: Seq,
}

impl Guest {
    /// Connects to a device. The file system is not mounted yet.
    pub(crate) fn connect(socket: &Path) -> Self {
        let driver = FakeDriver::connect(socket, QUEUES, 16, FS_F_NOTIFICATION);
        Self { driver, posted: false, next: Seq::FIRST }
    }

    /// The same without a notification queue.
    pub(crate) fn connect_without_queue(socket: &Path) -> Self {
        let driver = FakeDriver::connect(socket, QUEUES, 16, 0);
        Self { driver, posted: false, next: Seq::FIRST }
    }

    /// The same guest on another host, paused, without the state that it has left.
    pub(crate) fn moved(self, socket: &Path) -> Self {
        Self { driver: self.driver.moved(socket), ..self }
    }

    /// Mounts: a new session begins.
    pub(crate) fn init(&mut self) {
        self.send(Caller::PROGRAM, &requests::init(INIT_EXT)).unwrap();
    }

    /// Resets the device. It takes another connection to go on.
    pub(crate) fn reset(mut self) {
        self.driver.frontend.reset_device().unwrap();
    }

    /// Sends a request and waits for the reply. What has none gets an empty one.
    pub(crate) fn send(&mut self, from: Caller, request: &Request) -> Reply {
        decode(&self.driver.request(REQUESTS, encode(from, request), ROOM))
    }

    /// Posts a request of the agent's and does not wait for the reply.
    pub(crate) fn post(&mut self, request: &Request) {
        self.post_unkicked(request);
        self.driver.kick(REQUESTS);
    }

    /// The same, and the device does not hear of it.
    pub(crate) fn post_unkicked(&mut self, request: &Request) {
        let bytes = encode(Caller::agent(0), request);
        self.driver.post(REQUESTS, &[Buffer::In(bytes), Buffer::Out(ROOM)]);
    }

    /// The next reply to a request that was posted.
    pub(crate) fn reply(&mut self) -> Reply {
        decode(&self.driver.wait(REQUESTS))
    }

    /// Stops the queue of requests, as a virtual machine does that pauses. What has been posted must
    /// be answered by then: that reply.
    pub(crate) fn stop_requests(&mut self) -> Reply {
        self.driver.frontend.get_vring_base(REQUESTS).unwrap();
        decode(&self.driver.used(REQUESTS).expect("a reply before the queue is stopped"))
    }

    /// Sends a request of a program, which must succeed.
    pub(crate) fn ask(&mut self, request: &Request) -> Vec<u8> {
        let reply = self.send(Caller::PROGRAM, request);
        reply.unwrap_or_else(|error| panic!("{error} for {request:?}"))
    }

    /// The nodeid of an entry.
    pub(crate) fn lookup(&mut self, dir: u64, name: &str) -> u64 {
        nodeid(&self.ask(&requests::lookup(dir, name)))
    }

    /// Opens a file for reading and writing, without a mark.
    pub(crate) fn open(&mut self, node: u64) -> u64 {
        fh(&self.ask(&requests::open(node, open_flags::RDWR)))
    }

    pub(crate) fn opendir(&mut self, node: u64) -> u64 {
        fh(&self.ask(&requests::opendir(node)))
    }

    /// Opens the control node, says hello and reads the welcome, all as `agent`. Returns the file's
    /// handle and the welcome.
    pub(crate) fn attach_as(&mut self, agent: Caller) -> Result<(u64, Welcome), Errno> {
        self.greet_as(agent, hello())
    }

    /// Attaches the agent with both marks, to read its notifications ([`requests::read`]).
    pub(crate) fn attach_by_reads(&mut self) -> u64 {
        let hello = Hello { delivery: Delivery::Reads, ..hello() };
        self.greet_as(Caller::agent(0), hello).unwrap().0
    }

    /// The same with this hello.
    pub(crate) fn greet(&mut self, agent: Caller, hello: Hello) -> Result<(u64, Welcome), Errno> {
        self.greet_as(agent, hello)
    }

    fn greet_as(&mut self, agent: Caller, hello: Hello) -> Result<(u64, Welcome), Errno> {
        let control = NodeId::CONTROL.get();
        let file = fh(&self.send(agent, &requests::open(control, open_flags::RDWR))?);
        self.send(agent, &requests::write(control, file, &hello.encode()))?;
        let welcome = self.send(agent, &requests::read(control, file, 4096))?;
        self.next = Seq::FIRST;
        Ok((file, Welcome::decode(&welcome).unwrap()))
    }

    /// The same as the agent with both marks: notifications begin.
    pub(crate) fn attach(&mut self) -> u64 {
        let (file, welcome) = self.attach_as(Caller::agent(0)).unwrap();
        assert!(welcome.marks_proved);
        assert_eq!(welcome.next_seq, Seq::FIRST);
        file
    }

    /// Posts a buffer for a notification, unless there is one.
    pub(crate) fn post_notification_buffer(&mut self) {
        if !self.posted {
            let len = u32::try_from(NOTIFY_BUF_SIZE).unwrap();
            self.driver.post(NOTIFICATIONS, &[Buffer::Out(len)]);
            self.driver.kick(NOTIFICATIONS);
            self.posted = true;
        }
    }

    /// Waits for the next notification.
    pub(crate) fn notification(&mut self) -> (Seq, Notification) {
        self.post_notification_buffer();
        let message = self.driver.wait(NOTIFICATIONS);
        self.posted = false;
        let seq = self.next;
        self.next = seq.next();
        (seq, Notification::decode(&message).unwrap())
    }

    /// All notifications up to the one about an entry of this name, and not that one.
    pub(crate) fn notifications_until(&mut self, last: &str) -> Told {
        let is_last = |notification: &Notification| {
            notification.name.as_ref().is_some_and(|name| name.as_bytes() == last.as_bytes())
        };
        std::iter::from_fn(|| Some(self.notification()))
            .take_while(|(_, notification)| !is_last(notification))
            .collect()
    }
}

fn encode(from: Caller, request: &Request) -> Vec<u8> {
    let len = 40 + u32::try_from(request.body.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(len.to_le_bytes());
    bytes.extend(request.opcode.to_le_bytes());
    bytes.extend(UNIQUE.to_le_bytes());
    bytes.extend(request.nodeid.to_le_bytes());
    for number in [from.uid, from.gid, from.pid, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(&request.body);
    bytes
}

fn decode(reply: &[u8]) -> Reply {
    if reply.is_empty() {
        return Ok(Vec::new());
    }
    assert_eq!((le32(reply, 0) as usize, le64(reply, 8)), (reply.len(), UNIQUE));
    match i32::from_le_bytes(reply[4..8].try_into().unwrap()) {
        0 => Ok(reply[16..].to_vec()),
        error => Err(Errno::from_raw_os_error(-error)),
    }
}

/// What [`Guest::attach_as`] says.
pub(crate) fn hello() -> Hello {
    let (delivery, events) = (Delivery::Queue, Mask::all());
    Hello { version_min: 1, version_max: 1, delivery, raises: false, submounts: false, events }
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// `fuse_entry_out.nodeid`.
pub(crate) fn nodeid(entry: &[u8]) -> u64 {
    le64(entry, 0)
}

/// `fuse_open_out.fh`.
pub(crate) fn fh(opened: &[u8]) -> u64 {
    le64(opened, 0)
}
