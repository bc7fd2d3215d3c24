// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Lies`]: the device, of which nothing but the socket, the memory and the eventfds is real.

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::bytes::Bytes;

const HEADER_LEN: usize = 12;
const NEED_REPLY: u32 = 1 << 3;
const REPLY: u32 = 1 << 2 | 1;

const GET_FEATURES: u32 = 1;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const GET_CONFIG: u32 = 24;

/// The most queues that a driver sets up.
const QUEUES: usize = 8;

/// What the driver has given the device.
#[derive(Default)]
pub(super) struct Lies {
    memory: Option<File>,
    /// Guest address and user address of the memory.
    start: [u64; 2],
    queues: [Queue; QUEUES],
}

#[derive(Default)]
struct Queue {
    size: u64,
    /// Where in the memory they are.
    desc: u64,
    avail: u64,
    used: u64,
    call: Option<OwnedFd>,
    /// How many chains were taken, and how many given back.
    served: Mutex<[u16; 2]>,
}

/// Answers messages until the stream ends, and says what it was given.
pub(super) fn serve_handshake(mut stream: UnixStream, input: &mut Bytes<'_>) -> Lies {
    let mut lies = Lies::default();
    while let Some((request, flags, body)) = lies.receive(&mut stream) {
        let mut answer = match request {
            GET_FEATURES => number(input, 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1),
            GET_PROTOCOL_FEATURES => number(input, 1 << 0 | 1 << 3 | 1 << 9),
            GET_QUEUE_NUM => number(input, 6),
            GET_CONFIG => config(&body, input),
            GET_VRING_BASE => body,
            _ if flags & NEED_REPLY != 0 => number(input, 0),
            _ => continue,
        };
        let (mut request, mut flags) = (request, REPLY);
        match input.u8() {
            0xff => request = input.u8().into(),
            0xfe => flags = input.u8().into(),
            0xfd => answer.truncate(input.u8().into()),
            0xfc => answer.extend(input.blob()),
            0xfb => break,
            _ => {}
        }
        let mut len = u32::try_from(answer.len()).expect("an answer is short");
        // Then it is silent, for which a driver would wait, or hangs up.
        let hangs_up = input.u8() == 0xff;
        if hangs_up {
            len = input.u32();
        }
        let message = [&[request, flags, len].map(u32::to_le_bytes).concat()[..], &answer].concat();
        if stream.write_all(&message).is_err() || hangs_up {
            break;
        }
    }
    lies
}

/// A number, which is `honest` unless the input says otherwise.
fn number(input: &mut Bytes<'_>, honest: u64) -> Vec<u8> {
    let number = match input.u8() {
        0xff => input.u64(),
        0xfe => honest ^ 1 << (input.u8() % 64),
        _ => honest,
    };
    number.to_le_bytes().to_vec()
}

fn config(question: &[u8], input: &mut Bytes<'_>) -> Vec<u8> {
    let mut space = b"lies".to_vec();
    space.resize(36, 0);
    let (queues, size) = match input.u8() {
        0xff => (input.u32(), input.u32()),
        queues => (u32::from(queues % 5), 319),
    };
    space.extend(queues.max(u32::from(queues == 0)).to_le_bytes());
    space.extend(size.to_le_bytes());
    let mut answer = question.get(..12).unwrap_or(question).to_vec();
    answer.extend(space.iter().take(question.len().saturating_sub(12)));
    answer
}

impl Lies {
    fn receive(&mut self, stream: &mut UnixStream) -> Option<(u32, u32, Vec<u8>)> {
        let mut header = [0; HEADER_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut header)];
        let received = recvmsg(&*stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        if received.ok()?.bytes != HEADER_LEN {
            return None;
        }
        let fds: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| {
                if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None }
            })
            .flatten()
            .collect();
        let field = |nth: usize| le32(&header, 4 * nth);
        let (request, flags, len) = (field(0), field(1), field(2));
        let mut body = vec![0; len as usize];
        stream.read_exact(&mut body).ok()?;
        self.note(request, &body, fds);
        Some((request, flags, body))
    }

    fn note(&mut self, request: u32, body: &[u8], mut fds: Vec<OwnedFd>) {
        let nth = (le32(body, 0) as usize).min(QUEUES - 1);
        match request {
            SET_MEM_TABLE => {
                self.memory = fds.pop().map(File::from);
                self.start = [le64(body, 8), le64(body, 24)];
            }
            SET_VRING_NUM => self.queues[nth].size = le32(body, 4).into(),
            SET_VRING_ADDR => {
                let user = self.start[1];
                let queue = &mut self.queues[nth];
                let [desc, used, avail] = [8, 16, 24].map(|at| le64(body, at).wrapping_sub(user));
                (queue.desc, queue.used, queue.avail) = (desc, used, avail);
            }
            SET_VRING_CALL => self.queues[nth].call = fds.pop(),
            _ => {}
        }
    }

    fn queue(&self, nth: usize) -> &Queue {
        &self.queues[nth % QUEUES]
    }

    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(memory) = &self.memory {
            // What is not there is 0.
            let _read = memory.read_exact_at(&mut bytes, at);
        }
        bytes
    }

    /// What is not in the memory stays as it is: its file must not grow.
    fn write(&self, at: u64, bytes: &[u8]) {
        let Some(memory) = &self.memory else { return };
        let len = memory.metadata().map_or(0, |metadata| metadata.len());
        if at.checked_add(bytes.len() as u64).is_some_and(|end| end <= len) {
            memory.write_all_at(bytes, at).expect("a memfd can be written");
        }
    }

    /// Gives the next chain of a queue back with a reply; false if there is none.
    pub(super) fn serve(&self, nth: usize, input: &mut Bytes<'_>) -> bool {
        let queue = self.queue(nth);
        let mut served = queue.served.lock().expect("nothing panics with it");
        if queue.size == 0 || u16::from_le_bytes(self.read(queue.avail + 2)) == served[0] {
            return false;
        }
        let entry = queue.avail + 4 + 2 * (u64::from(served[0]) % queue.size);
        let head = u16::from_le_bytes(self.read(entry));
        let (request, room) = self.chain(queue, head);
        let unique = request.map_or(0, |at| u64::from_le_bytes(self.read(at + 8)));
        let mut reply = vec![0; 16];
        reply[8..16].copy_from_slice(&unique.to_le_bytes());
        reply.extend(input.blob());
        let mut len = u32::try_from(reply.len()).expect("a reply is short");
        reply[..4].copy_from_slice(&len.to_le_bytes());
        let mut id = u32::from(head);
        let lie = input.u8();
        match lie {
            0xff => id = input.u32(),
            0xfe => len = input.number32(),
            0xfd => reply[usize::from(input.u8() % 16)] = input.u8(),
            0xfc => served[1] = served[1].wrapping_add(input.u16()),
            _ => {}
        }
        if let Some(room) = room {
            self.write(room, &reply);
        }
        let at = queue.used + 4 + 8 * (u64::from(served[1]) % queue.size);
        self.write(at, &[id, len].map(u32::to_le_bytes).concat());
        *served = served.map(|count| count.wrapping_add(1));
        self.write(queue.used + 2, &served[1].to_le_bytes());
        self.call(nth);
        true
    }

    /// Where the request and the room for the reply are.
    fn chain(&self, queue: &Queue, head: u16) -> (Option<u64>, Option<u64>) {
        let descriptor = |at: u64| {
            let bytes: [u8; 16] = self.read(at);
            let address = le64(&bytes, 0).wrapping_sub(self.start[0]);
            let [flags, next] = [12, 14].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]));
            (address, flags, next)
        };
        let (address, flags, _) = descriptor(queue.desc.wrapping_add(16 * u64::from(head)));
        let (table, first) = if flags & 4 != 0 { (address, 0) } else { (queue.desc, head) };
        let (address, flags, next) = descriptor(table.wrapping_add(16 * u64::from(first)));
        if flags & 2 != 0 {
            return (None, Some(address));
        }
        let second =
            (flags & 1 != 0).then(|| descriptor(table.wrapping_add(16 * u64::from(next))).0);
        (Some(address), second)
    }

    /// Writes what no device writes.
    pub(super) fn tamper(&self, input: &mut Bytes<'_>) {
        let queue = self.queue(usize::from(input.u8()));
        let at = match input.u8() % 4 {
            0 => queue.used + u64::from(input.u8()),
            1 => queue.avail + u64::from(input.u8()),
            2 => queue.desc + u64::from(input.u8()),
            _ => u64::from(input.u32()) % (1 << 26),
        };
        self.write(at, input.blob());
    }

    /// Wakes the driver.
    pub(super) fn call(&self, nth: usize) {
        if let Some(call) = &self.queue(nth).call {
            // A counter that is full has been raised.
            let _full = rustix::io::write(call, &1_u64.to_ne_bytes());
        }
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
