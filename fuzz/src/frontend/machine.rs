// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Machine`]: a frontend of vhost-user and its virtqueues, which follows the rules only as long as it likes.
//!
//! The memory that it shares is written and read as a file. As long as it has kept the rules of a queue ([`Queue::sane`]),
//! the device owes it an answer to everything; afterwards, nothing but to go on with the next session.
#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

use std::fs::File;
use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Queues that are set up: hiprio, notifications or requests, requests, and one that a device need not have.
pub(crate) const QUEUES: usize = 4;
/// Entries of a queue.
pub(crate) const SIZE: u16 = 64;
/// Memory of a queue, with its ring at the start.
pub(crate) const SPACE: u64 = 0x2_0000;
pub(crate) const AVAIL: u64 = 0x400;
pub(crate) const USED: u64 = 0x600;
const INDIRECT: u64 = 0xa00;
const REQUESTS: u64 = 0x1000;
const REQUEST_SPACE: u64 = 0x800;
const REPLIES: u64 = 0xa000;
/// The most room for a reply.
pub(crate) const ROOM_MAX: u32 = 0x1000;
/// Chains that are in flight at a time, of four descriptors each.
const SLOTS: u16 = SIZE / 4;
/// All of the memory.
pub(crate) const MEMORY: u64 = SPACE * QUEUES as u64;
/// Where the frontend says that its memory is.
pub(crate) const USER: u64 = 0x7f00_0000_0000;

/// How long the device may take for an answer that it owes: so many times a second. Whoever stops the process for a while
/// takes one of them.
pub(crate) const SECONDS_MAX: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);
/// How long an answer is waited for that it does not owe.
const MOMENT: Duration = Duration::from_millis(2);

const HEADER_LEN: usize = 12;
const NEED_REPLY: u32 = 1 << 3;
const VERSION: u32 = 1;

/// Requests of vhost-user that the setup needs.
pub(crate) mod message {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
}

/// What the device has given back.
#[derive(Debug)]
pub(crate) struct Used {
    pub(crate) opcode: u32,
    pub(crate) nodeid: u64,
    pub(crate) bytes: Vec<u8>,
}

/// One chain in flight.
#[derive(Clone, Debug)]
struct Posted {
    opcode: u32,
    nodeid: u64,
    room: u32,
}

pub(crate) struct Queue {
    base: u64,
    next_avail: u16,
    last_used: u16,
    next_slot: u16,
    posted: Vec<Option<Posted>>,
    pub(crate) kick: OwnedFd,
    pub(crate) call: OwnedFd,
    /// It was set up, and nothing was done to it since that no driver would do.
    pub(crate) sane: bool,
}

/// See the module's documentation.
pub(crate) struct Machine {
    stream: UnixStream,
    pub(crate) memory: File,
    pub(crate) queues: Vec<Queue>,
    /// Queue 1 is for notifications.
    pub(crate) notifying: bool,
    /// The device acknowledges messages (`REPLY_ACK`).
    acknowledges: bool,
    /// No answers are to be expected on the socket.
    lost: bool,
}

impl Machine {
    /// Connects, and has said nothing yet.
    pub(crate) fn connect(socket: &Path) -> Self {
        let memory = memfd_create("machine", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, MEMORY).unwrap();
        let stream = UnixStream::connect(socket).unwrap();
        let queues = (0..QUEUES).map(|index| Queue::new(index as u64 * SPACE)).collect();
        let (memory, notifying) = (File::from(memory), false);
        Self { stream, memory, queues, notifying, acknowledges: false, lost: false }
    }

    /// Does all that a frontend does before the guest begins.
    pub(crate) fn set_up(&mut self, features: u64, notifying: bool) {
        const ALWAYS: u64 = 1 << 32 | 1 << 30;
        // MQ, REPLY_ACK, LOG_SHMFD, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS, DEVICE_STATE.
        const PROTOCOL: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 19;
        self.send(message::SET_OWNER, &[], &[]);
        self.ask(message::GET_FEATURES, &[], &[]);
        self.ask(message::GET_PROTOCOL_FEATURES, &[], &[]);
        self.send(message::SET_PROTOCOL_FEATURES, &PROTOCOL.to_le_bytes(), &[]);
        self.acknowledges = true;
        self.notifying = notifying;
        let features = features & !1 | ALWAYS | u64::from(notifying);
        self.ask(message::SET_FEATURES, &features.to_le_bytes(), &[]);
        let memory = self.memory.try_clone().unwrap();
        self.ask(message::SET_MEM_TABLE, &table(&[[0, MEMORY, USER, 0]]), &[memory.as_fd()]);
        for index in 0..QUEUES - 1 {
            self.start(index);
        }
    }

    /// Starts a queue with an empty ring.
    pub(crate) fn start(&mut self, index: usize) {
        self.queues[index] = Queue::new(index as u64 * SPACE);
        let base = self.queues[index].base;
        self.write(base, &[0; 0x1000]);
        let number = u32::try_from(index).unwrap();
        let state = |number: u32, value: u32| [number.to_le_bytes(), value.to_le_bytes()].concat();
        let mut addresses = state(number, 0);
        for address in [base, base + USED, base + AVAIL] {
            addresses.extend((USER + address).to_le_bytes());
        }
        addresses.extend([0; 8]);
        self.ask(message::SET_VRING_NUM, &state(number, SIZE.into()), &[]);
        self.ask(message::SET_VRING_BASE, &state(number, 0), &[]);
        self.ask(message::SET_VRING_ADDR, &addresses, &[]);
        for (request, fd) in [(message::SET_VRING_CALL, false), (message::SET_VRING_KICK, true)] {
            let queue = &self.queues[index];
            let fd = if fd { &queue.kick } else { &queue.call }.try_clone().unwrap();
            self.ask(request, &u64::from(number).to_le_bytes(), &[fd.as_fd()]);
        }
        self.ask(message::SET_VRING_ENABLE, &state(number, 1), &[]);
        self.queues[index].sane = !self.lost;
    }

    /// Stops a queue, as a virtual machine does that pauses, and returns where it was.
    pub(crate) fn stop(&mut self, index: usize) {
        let number = u64::try_from(index).unwrap();
        self.ask(message::GET_VRING_BASE, &number.to_le_bytes(), &[]);
        self.queues[index].sane = false;
    }

    /// Sends a message and waits for the answer, if there is to be one.
    pub(crate) fn ask(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Vec<u8> {
        let need_reply = if self.acknowledges { NEED_REPLY } else { 0 };
        self.send_with(request, VERSION | need_reply, body, fds);
        if self.acknowledges || is_question(request) { self.answer() } else { Vec::new() }
    }

    /// Sends a message whose answer is not waited for.
    pub(crate) fn send(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send_with(request, VERSION, body, fds);
    }

    fn send_with(&mut self, request: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let len = u32::try_from(body.len()).unwrap();
        let bytes = [&[request, flags, len].map(u32::to_le_bytes).concat(), body].concat();
        self.send_bytes(&bytes, fds);
    }

    /// Sends bytes that need not be a message. Answers are not to be expected any more.
    pub(crate) fn send_nonsense(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send_bytes(bytes, fds);
        self.lost = true;
        self.queues.iter_mut().for_each(|queue| queue.sane = false);
    }

    fn send_bytes(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut ancillary, flags);
        self.lost |= sent != Ok(bytes.len());
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut header = [0; HEADER_LEN];
        let len = |header: &[u8]| u32::from_le_bytes(header[8..12].try_into().unwrap());
        if !self.receive(&mut header) {
            return Vec::new();
        }
        let mut body = vec![0; len(&header) as usize];
        if self.receive(&mut body) { body } else { Vec::new() }
    }

    /// False if the device has hung up.
    fn receive(&mut self, mut buf: &mut [u8]) -> bool {
        while !self.lost && !buf.is_empty() {
            let ready = (0..SECONDS_MAX).any(|_| is_ready(self.stream.as_fd(), SECOND));
            assert!(ready, "the device does not answer a message");
            match self.stream.read(buf) {
                Ok(0) | Err(_) => self.hung_up(),
                Ok(len) => buf = &mut buf[len..],
            }
        }
        !self.lost
    }

    fn hung_up(&mut self) {
        self.lost = true;
        self.queues.iter_mut().for_each(|queue| queue.sane = false);
    }

    /// Writes to the memory that is shared; what is not in it is not written.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        if at.checked_add(bytes.len() as u64).is_some_and(|end| end <= MEMORY) {
            self.memory.write_all_at(bytes, at).unwrap();
        }
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn read_u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    /// Makes a chain of a request, in so many pieces, and of room for its reply, and offers it.
    pub(crate) fn post(&mut self, index: usize, request: &[u8], shape: Shape) {
        let request = &request[..request.len().min(usize::try_from(REQUEST_SPACE).unwrap())];
        let queue = &mut self.queues[index];
        let slot = queue.next_slot;
        queue.next_slot = (slot + 1) % SLOTS;
        let (base, head) = (queue.base, slot * 4);
        let room = shape.room.min(ROOM_MAX);
        let field = |at: usize, len: usize| request.get(at..at + len).map(<[u8]>::to_vec);
        let opcode = field(4, 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
        let nodeid = field(16, 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        let posted = Posted { opcode, nodeid, room };
        // One that is not back yet is given away again.
        let reused = queue.posted[usize::from(slot)].replace(posted).is_some();
        queue.sane &= !reused;
        let from = base + REQUESTS + u64::from(slot) * REQUEST_SPACE;
        let to = base + REPLIES + u64::from(slot) * u64::from(ROOM_MAX);
        self.write(from, request);
        let cut = shape.cut.min(request.len()) as u64;
        let len = request.len() as u64;
        let half = u64::from(room / 2);
        let mut pieces = vec![(from, len, 0)];
        if cut > 0 && cut < len {
            pieces = vec![(from, cut, 0), (from + cut, len - cut, 0)];
        }
        match (room, shape.halves) {
            (0, _) => {}
            (1, _) | (_, false) => pieces.push((to, u64::from(room), 2)),
            (_, true) => {
                pieces.extend([(to, half, 2), (to + half, u64::from(room) - half, 2)]);
            }
        }
        self.write_chain(base, head, &pieces, shape.indirect);
        self.offer(index, head);
    }

    fn write_chain(&mut self, base: u64, head: u16, pieces: &[(u64, u64, u16)], indirect: bool) {
        let (table, first) = if indirect { (base + INDIRECT, 0) } else { (base, head) };
        for (nth, (address, len, flags)) in (0_u16..).zip(pieces) {
            let last = usize::from(nth) + 1 == pieces.len();
            let next = if last { 0 } else { first + nth + 1 };
            let flags = flags | u16::from(!last);
            let len = u32::try_from(*len).unwrap();
            self.write(
                table + 16 * u64::from(first + nth),
                &descriptor(*address, len, flags, next),
            );
        }
        if indirect {
            let len = 16 * u32::try_from(pieces.len()).unwrap();
            self.write(base + 16 * u64::from(head), &descriptor(table, len, 4, 0));
        }
    }

    /// Offers a head, which need not be one.
    pub(crate) fn offer(&mut self, index: usize, head: u16) {
        let queue = &mut self.queues[index];
        let (base, at) = (queue.base, queue.next_avail);
        queue.next_avail = at.wrapping_add(1);
        self.write(base + AVAIL + 4 + 2 * u64::from(at % SIZE), &head.to_le_bytes());
        self.write(base + AVAIL + 2, &at.wrapping_add(1).to_le_bytes());
    }

    /// Lets the index of what is available jump.
    pub(crate) fn jump(&mut self, index: usize, by: u16) {
        let queue = &mut self.queues[index];
        queue.sane = false;
        queue.next_avail = queue.next_avail.wrapping_add(by);
        let (at, idx) = (queue.base + AVAIL + 2, queue.next_avail);
        self.write(at, &idx.to_le_bytes());
    }

    /// Tells the device to look at a queue.
    pub(crate) fn kick(&self, index: usize) {
        // A counter that is full has been raised.
        let _full = rustix::io::write(&self.queues[index].kick, &1_u64.to_ne_bytes());
    }

    /// What has been given back of a queue, without waiting.
    pub(crate) fn used(&mut self, index: usize) -> Option<Used> {
        let (base, last) = (self.queues[index].base, self.queues[index].last_used);
        let idx = self.read_u16(base + USED + 2);
        if idx == last {
            return None;
        }
        let entry = self.read(base + USED + 4 + 8 * u64::from(last % SIZE), 8);
        let number = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        let (id, len) = (number(0), number(4));
        let queue = &mut self.queues[index];
        queue.last_used = last.wrapping_add(1);
        let slot = id / 4;
        let posted = queue.posted.get_mut(slot as usize).and_then(Option::take);
        if queue.sane {
            let posted = posted.as_ref().expect("the device gives back what it was given");
            assert!(len <= posted.room, "{len} bytes in a room of {}", posted.room);
        }
        let posted = posted?;
        let at = base + REPLIES + u64::from(slot) * u64::from(ROOM_MAX);
        let bytes = self.read(at, len.min(ROOM_MAX) as usize);
        Some(Used { opcode: posted.opcode, nodeid: posted.nodeid, bytes })
    }

    /// Waits for the next chain that is given back; `None` if the device does not owe one.
    pub(crate) fn wait(&mut self, index: usize) -> Option<Used> {
        let mut seconds = 0;
        loop {
            // The next one is to be called for.
            let (base, last) = (self.queues[index].base, self.queues[index].last_used);
            self.write(base + AVAIL + 4 + 2 * u64::from(SIZE), &last.to_le_bytes());
            if let Some(used) = self.used(index) {
                return Some(used);
            }
            let sane = self.queues[index].sane && !self.has_hung_up();
            let call = &self.queues[index].call;
            let called = is_ready(call.as_fd(), if sane { SECOND } else { MOMENT });
            if called {
                rustix::io::read(call, &mut [0; 8][..]).unwrap();
            } else if !sane {
                return self.used(index);
            }
            seconds += u32::from(!called);
            assert!(
                seconds < SECONDS_MAX,
                "the device does not give back a chain of queue {index}"
            );
        }
    }

    fn has_hung_up(&mut self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&now)).unwrap_or(0) > 0 {
            self.hung_up();
        }
        self.lost
    }
}

/// How a request lies in its chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Where it is cut in two.
    pub(crate) cut: usize,
    /// Bytes for the reply.
    pub(crate) room: u32,
    /// They are in two pieces.
    pub(crate) halves: bool,
    /// The chain is in a table of its own.
    pub(crate) indirect: bool,
}

impl Queue {
    fn new(base: u64) -> Self {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let posted = vec![None; usize::from(SLOTS)];
        let (kick, call, sane) = (event(), event(), false);
        Self { base, next_avail: 0, last_used: 0, next_slot: 0, posted, kick, call, sane }
    }
}

/// `VhostUserMemory`: guest address, length, user address and offset of each region.
pub(crate) fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut bytes = (regions.len() as u64).to_le_bytes().to_vec();
    bytes.extend(regions.iter().flatten().flat_map(|number| number.to_le_bytes()));
    bytes
}

/// `struct virtq_desc`.
pub(crate) fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes
}

/// Whether a message has an answer in any case.
fn is_question(request: u32) -> bool {
    [1, 11, 15, 17, 24, 36, 40, 42, 43].contains(&request)
}

fn is_ready(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    // A signal is as good as nothing.
    poll(&mut fds, Some(&limit.try_into().unwrap())).unwrap_or(0) > 0
}
