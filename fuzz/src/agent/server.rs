// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Server`]: a FUSE server that answers as its input says.
#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use farwatch_proto::wire::abi::FUSE_NOTIFY_FSNOTIFY;
use farwatch_proto::wire::control::Welcome;
use farwatch_proto::wire::sync;
use farwatch_proto::{FileKind, Generation, Mask, NodeId, Seq};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::bytes::Bytes;

const REQUEST_MAX: usize = 1 << 17;
const HEADER_LEN: usize = 40;
/// What a READ of the control node takes.
const MESSAGES_MAX: usize = 16 << 10;

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_644;
const SYMLINK: u32 = 0o120_777;

/// Names that messages mention.
const NAMES: [&str; 6] = ["a", "b", "dir", "link", "file", ".farwatch-limbo"];

/// See the module's documentation.
pub(super) struct Server {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

/// The thread that answers.
struct Serving<'a> {
    device: OwnedFd,
    input: Bytes<'a>,
    /// Where symbolic links lead.
    outside: Vec<u8>,
    /// The agent has been welcomed.
    welcomed: bool,
    requests: u64,
}

/// What the kernel asks.
struct Request<'a> {
    opcode: u32,
    unique: u64,
    nodeid: u64,
    body: &'a [u8],
}

/// The mount that there is.
static MOUNTED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Ends the mount, be it from a hook for panics: a process that waits for its own server cannot be ended.
pub(super) fn abort() {
    let mounted = MOUNTED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(at) = mounted {
        let _gone = unmount(&at, UnmountFlags::DETACH | UnmountFlags::FORCE);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        abort();
    }
}

impl Server {
    pub(super) fn mount(at: &Path, outside: &Path, data: &[u8]) -> Self {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let device = openat(CWD, "/dev/fuse", flags, Mode::empty()).unwrap();
        let fd = device.as_raw_fd();
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
        let options = CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("lies", at, "fuse", flags, Some(&*options)).unwrap();
        *MOUNTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(at.to_owned());
        let over = Arc::new(AtomicBool::new(false));
        let (data, outside) = (data.to_vec(), outside.as_os_str().as_bytes().to_vec());
        let thread = {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let input = Bytes::new(&data);
                let serving = Serving { device, input, outside, welcomed: false, requests: 0 };
                serving.serve(&over)
            })
        };
        Self { over, thread: Some(thread) }
    }

    /// Ends it, and says how many requests there were. Whoever still waits for an answer gets an error.
    pub(super) fn unmount(mut self) -> u64 {
        abort();
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Serving<'_> {
    fn serve(mut self, over: &AtomicBool) -> u64 {
        let mut buffer = vec![0; REQUEST_MAX];
        let idle = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        while !over.load(Ordering::SeqCst) {
            let _ready = poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&idle));
            match rustix::io::read(&self.device, &mut buffer) {
                Ok(len) => self.take(&buffer[..len]),
                Err(Errno::NODEV) => break,
                // Nothing, or a request that nobody waits for any more.
                Err(_) => {}
            }
        }
        self.requests
    }

    fn take(&mut self, bytes: &[u8]) {
        let (header, body) = bytes.split_at(HEADER_LEN);
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let opcode = u32::from_le_bytes(header[4..8].try_into().unwrap());
        let request = Request { opcode, unique: number(8), nodeid: number(16), body };
        self.requests += 1;
        let honest = match opcode {
            // FORGET, INTERRUPT and BATCH_FORGET have none.
            2 | 36 | 42 => return,
            26 => {
                self.reply(request.unique, &Ok(init_out()));
                return;
            }
            _ => self.answer(&request),
        };
        let answer = self.lie(honest);
        self.reply(request.unique, &answer);
    }

    /// An answer that makes sense.
    fn answer(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let name = request.body.split(|byte| *byte == 0).next().unwrap_or_default();
        match request.opcode {
            1 if request.nodeid == NodeId::CONTROL.get() => Ok(entry(request.nodeid, 0, REGULAR)),
            1 if name == b"." => Ok(entry(request.nodeid, 0, DIRECTORY)),
            // What is under a name, if anything is.
            1 => match self.input.u8() % 4 {
                0 => Err(Errno::NOENT),
                kind => {
                    Ok(entry(id(name), 0, [DIRECTORY, REGULAR, SYMLINK][usize::from(kind) - 1]))
                }
            },
            3 | 4 => {
                let mode = if request.nodeid == 1 { DIRECTORY } else { mode(&mut self.input) };
                let attr = attr(request.nodeid, mode);
                Ok([vec![0; 16], attr].concat())
            }
            5 => Ok([&self.outside[..], b"/file"].concat()),
            // MKNOD, MKDIR, SYMLINK, LINK.
            6 => Ok(entry(id(name), 0, SYMLINK)),
            8 => Ok(entry(id(request.body.get(16..).unwrap_or_default()), 0, REGULAR)),
            9 => Ok(entry(id(request.body.get(8..).unwrap_or_default()), 0, DIRECTORY)),
            13 => Ok(entry(id(request.body.get(8..).unwrap_or_default()), 0, REGULAR)),
            35 => Ok([entry(id(b"created"), 0, REGULAR), vec![0; 16]].concat()),
            10 | 11 | 12 | 18 | 25 | 29 | 45 => Ok(Vec::new()),
            14 | 27 => Ok([7_u64, 1].map(u64::to_le_bytes).concat()),
            15 if request.nodeid == NodeId::CONTROL.get() => self.read_control(),
            15 => Ok(vec![b'x']),
            16 => Ok([32_u32, 0].map(u32::to_le_bytes).concat()),
            17 => Ok(vec![0; 80]),
            28 | 44 => Ok(Vec::new()),
            39 => Ok([&[0; 16][..], &sync::ask(None)].concat()),
            _ => Err(Errno::NOSYS),
        }
    }

    fn read_control(&mut self) -> Result<Vec<u8>, Errno> {
        if !self.welcomed {
            self.welcomed = true;
            let mut welcome = welcome();
            for _ in 0..self.input.u8() % 8 / 6 {
                let at = self.input.below(welcome.len());
                welcome[at] = self.input.u8();
            }
            return Ok(welcome);
        }
        if self.input.is_empty() {
            // The link is gone.
            return Err(Errno::BADF);
        }
        let mut messages = Vec::new();
        for _ in 0..=self.input.below(4) {
            let message = message(&mut self.input);
            messages.extend(message);
        }
        messages.truncate(MESSAGES_MAX);
        Ok(messages)
    }

    /// The answer, or another one.
    fn lie(&mut self, honest: Result<Vec<u8>, Errno>) -> Result<Vec<u8>, Errno> {
        match self.input.u8() {
            0xf0..=0xf3 => Err(Errno::from_raw_os_error(i32::from(self.input.u8() % 132) + 1)),
            0xf4..=0xf7 => honest.map(|mut answer| {
                for _ in 0..self.input.u8() % 4 {
                    if let Some(last) = answer.len().checked_sub(1) {
                        answer[self.input.below(256).min(last)] = self.input.u8();
                    }
                }
                answer
            }),
            0xf8 => Ok(self.input.blob().to_vec()),
            0xf9 => honest.map(|mut answer| {
                answer.truncate(self.input.below(200));
                answer
            }),
            _ => honest,
        }
    }

    /// What the kernel does not take is no answer, and whoever has asked must not wait for ever.
    fn reply(&self, unique: u64, answer: &Result<Vec<u8>, Errno>) {
        if self.write(unique, answer).is_err() {
            // Nobody waits for it any more.
            let _gone = self.write(unique, &Err(Errno::IO));
        }
    }

    fn write(&self, unique: u64, answer: &Result<Vec<u8>, Errno>) -> Result<usize, Errno> {
        let (error, body) = match answer {
            Ok(body) => (0, &body[..]),
            Err(errno) => (-errno.raw_os_error(), &[][..]),
        };
        let len = 16 + u32::try_from(body.len()).unwrap();
        let head = [len.to_le_bytes(), error.to_le_bytes()].concat();
        rustix::io::write(&self.device, &[&head[..], &unique.to_le_bytes(), body].concat())
    }
}

/// A message as a server sends it, most often: `fuse_out_header`, `fuse_notify_fsnotify_out` and a name.
fn message(input: &mut Bytes<'_>) -> Vec<u8> {
    const PAIRED: u32 = 1;
    const CHILD: u32 = 2;
    const LINK: u32 = 4;
    let kind = input.u8();
    if kind == 0xff {
        return input.blob().to_vec();
    }
    // ACCESS to ATTRIB, CLOSE_WRITE, …: a bit of inotify's, and what goes with it.
    let event = 1_u64 << (input.u8() % 12);
    let moved = event & (Mask::MOVE).bits() != 0;
    let is_dir = input.bool() && event & Mask::CONTENT.bits() == 0;
    let mask = event | if is_dir { Mask::ISDIR.bits() } else { 0 };
    let (node, child) = (node(input), input.bool().then(|| node(input)));
    let name = if !kind.is_multiple_of(8) || moved { NAMES[input.below(NAMES.len())] } else { "" };
    let child = child.filter(|_| !name.is_empty());
    let bits = input.u8();
    let mut flags = if moved && bits & 1 != 0 { PAIRED } else { 0 };
    if child.is_some() {
        flags |= CHILD;
        if event == Mask::CREATE.bits() && !is_dir && bits & 2 != 0 {
            flags |= LINK;
        }
    }
    let dt = if is_dir { FileKind::Directory } else { FileKind::Regular }.dt();
    let len = u32::try_from(64 + name.len()).unwrap();
    let mut bytes =
        [len, FUSE_NOTIFY_FSNOTIFY.cast_unsigned(), 0, 0].map(u32::to_le_bytes).concat();
    bytes.extend(node.to_le_bytes());
    // Its generation, and the submount that it is in.
    bytes.extend([0, if bits > 0xf0 { bits.into() } else { 0_u32 }].map(u32::to_le_bytes).concat());
    bytes.extend(mask.to_le_bytes());
    let cookie = if moved { 1 + u32::from(bits >> 4 & 1) } else { 0 };
    let flags = flags | dt << 8;
    bytes.extend([len - 64, cookie, flags, 0].map(u32::to_le_bytes).concat());
    bytes.extend(child.unwrap_or(0).to_le_bytes());
    bytes.extend(name.as_bytes());
    if kind % 16 == 15 {
        let at = input.below(bytes.len());
        bytes[at] = input.u8();
    }
    bytes
}

/// The node of an event.
fn node(input: &mut Bytes<'_>) -> u64 {
    match input.u8() % 8 {
        0..=3 => 1,
        4 | 5 => id(NAMES[input.below(NAMES.len())].as_bytes()),
        6 => NodeId::LIMBO.get(),
        _ => input.number(),
    }
}

fn welcome() -> Vec<u8> {
    let welcome = Welcome {
        version: 3,
        rename_pairs: true,
        marks_proved: true,
        events: Mask::DEFAULT,
        next_seq: Seq::FIRST,
        generation: Generation(0),
        control: NodeId::CONTROL,
        limbo: NodeId::LIMBO,
    };
    welcome.encode().to_vec()
}

/// The node under a name, the same each time.
fn id(name: &[u8]) -> u64 {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    if name == b".farwatch-limbo" {
        return NodeId::LIMBO.get();
    }
    let hash = |id: u64, byte: &u8| id.wrapping_mul(31).wrapping_add(u64::from(*byte));
    2 + name.iter().fold(0, hash) % 1000
}

fn mode(input: &mut Bytes<'_>) -> u32 {
    match input.u8() % 16 {
        0..=9 => REGULAR,
        10..=13 => DIRECTORY,
        _ => SYMLINK,
    }
}

/// `fuse_attr`
fn attr(ino: u64, mode: u32) -> Vec<u8> {
    let mut attr = [ino, 1, 0, 0, 0, 0].map(u64::to_le_bytes).concat();
    attr.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_le_bytes).concat());
    attr
}

/// `fuse_entry_out`
fn entry(nodeid: u64, generation: u64, mode: u32) -> Vec<u8> {
    let mut entry = [nodeid, generation, 0, 0, 0].map(u64::to_le_bytes).concat();
    entry.extend(attr(nodeid, mode));
    entry
}

/// `fuse_init_out`: protocol 7.38, with file handles.
fn init_out() -> Vec<u8> {
    let mut init = [7, 38, 0, 1 << 4 | 1 << 30].map(u32::to_le_bytes).concat();
    init.extend([0, 0, 4096, 1, 0, 0].map(u32::to_le_bytes).concat());
    init.resize(64, 0);
    init
}
