// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Session`]: one input against one server.
//!
//! If the input says so, every request bears a tag of an agent's ([`Mode::Tagged`]), and the shared directory is compared
//! whenever the host is about to change it, and at the end. Otherwise programs make requests too, and it is compared
//! around each request with a tag.
#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

use std::path::{Path, PathBuf};

use farwatch_proto::NodeId;
use farwatch_proto::wire::abi::{MARKER_UID, NOTIFY_BUF_SIZE};

use super::SECRET;
use super::bytes::Bytes;
use super::machine::{Machine, Shape, Used};
use super::vhost_user::{self, Left};
use crate::guest::{AGENT_TID, Caller, INIT_EXT, hello};
use crate::requests::{self, Request, open_flags};
use crate::served::Host;
use crate::snapshot::Snapshot;

/// The queue of notifications, if there is one, and one of requests in any case.
const NOTIFICATIONS: usize = 1;
const REQUESTS: usize = 2;

/// Names that requests mention: of objects that exist, that may come to exist, and that no guest's kernel sends.
const NAMES: [&str; 14] = [
    "file",
    "dir",
    "inner",
    "other",
    "twin",
    "link",
    "empty",
    "new",
    "way out",
    "pipe",
    "..",
    ".",
    "../outside/secret",
    "",
];

/// What the host does in the meantime. It ends as it has begun, so that a server can serve many inputs.
const CHANGES: [&str; 10] = [
    "touch -a file",
    "touch -m other",
    "echo x > new; rm new",
    "mkdir dir/new; rmdir dir/new",
    "mv file new; mv new file",
    "mv other ../outside/new; mv ../outside/new other",
    "ln twin new; rm new",
    "chmod 600 file; chmod 644 file",
    "mv empty dir/empty; mv dir/empty empty",
    "mkfifo new; mv new dir/new; rm dir/new",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Every request bears a tag.
    Tagged,
    /// Programs make requests, too.
    Any,
}

/// See the module's documentation.
pub(super) struct Session<'a> {
    host: &'a mut Host,
    machine: Machine,
    mode: Mode,
    features: u64,
    share: PathBuf,
    /// As the shared directory must stay, with [`Mode::Tagged`], and what is beside it in any case.
    before: [Snapshot; 2],
    nodes: Vec<u64>,
    handles: Vec<u64>,
    /// Requests without a tag were made whose replies have not been seen.
    pending: bool,
    left: Left,
}

impl<'a> Session<'a> {
    pub(super) fn begin(host: &'a mut Host, input: &mut Bytes<'_>) -> Self {
        let flags = input.u8();
        let share = host.served.share_dir();
        let mode = if flags & 1 == 0 { Mode::Tagged } else { Mode::Any };
        let features = if flags & 2 == 0 { 0 } else { 1 << 29 } | 1 << 28;
        let mut session = Self {
            machine: Machine::connect(&host.served.socket()),
            mode,
            features,
            before: [Snapshot::of(&share), Snapshot::of(&outside(&share))],
            share,
            nodes: vec![1, NodeId::CONTROL.get(), NodeId::LIMBO.get()],
            handles: vec![0],
            pending: false,
            left: Left::default(),
            host,
        };
        if flags & 4 == 0 {
            session.machine.set_up(features, flags & 8 == 0);
            session.mount();
            if flags & 16 == 0 {
                session.attach(&hello().encode());
            }
        }
        session
    }

    /// One step.
    pub(super) fn step(&mut self, input: &mut Bytes<'_>) {
        match input.below(16) {
            0..=5 => self.request(input),
            6 => self.raw_request(input),
            7 => vhost_user::message(&mut self.machine, &mut self.left, input),
            8 => vhost_user::nonsense(&mut self.machine, input),
            9 => self.tamper(input),
            10 => self.machine.kick(input.below(4)),
            11 => self.change(input),
            12 => self.greet(input),
            13 => self.notifications(input),
            14 => vhost_user::migrate(&mut self.machine, &mut self.left, input),
            _ => self.again(input),
        }
    }

    /// The machine goes away. What the frontend still has of the session is returned.
    pub(super) fn end(mut self) -> Left {
        self.compare("the session");
        self.left.add(self.machine);
        self.left
    }

    fn mount(&mut self) {
        self.send(Caller::PROGRAM, &requests::init(INIT_EXT));
        for name in ["file", "dir", "other", "link", "empty"] {
            self.send(Caller::PROGRAM, &requests::lookup(1, name));
        }
        if let Some(file) = self.nodes.get(3).copied() {
            self.send(Caller::PROGRAM, &requests::open(file, open_flags::RDWR));
        }
    }

    fn attach(&mut self, hello: &[u8]) {
        let (agent, control) = (Caller::agent(0), NodeId::CONTROL.get());
        self.send(agent, &requests::open(control, open_flags::RDWR));
        let file = self.handles.last().copied().unwrap_or(0);
        self.send(agent, &requests::write(control, file, hello));
        self.send(agent, &requests::read(control, file, 4096));
    }

    /// The control node is opened and greeted, as it should be or not.
    fn greet(&mut self, input: &mut Bytes<'_>) {
        let mut hello = hello().encode().to_vec();
        for _ in 0..input.below(4) {
            let at = input.below(hello.len());
            hello[at] = input.u8();
        }
        hello.truncate(input.below(64).max(1));
        self.attach(&hello);
    }

    fn request(&mut self, input: &mut Bytes<'_>) {
        let from = self.caller(input);
        let request = self.draw(input);
        let shape = input.u8();
        let queue = if shape & 1 == 0 { REQUESTS } else { input.below(4) };
        // A buffer for notifications comes back when there is one.
        let is_buffer = queue == NOTIFICATIONS && self.machine.notifying;
        let waits = shape & 2 == 0 && !may_take_long(&request) && !is_buffer;
        if shape & 4 == 0 && waits && queue == REQUESTS {
            self.send(from, &request);
            return;
        }
        let shape = Shape {
            cut: usize::from(input.u8()),
            room: u32::from(input.u16()),
            halves: shape & 8 != 0,
            indirect: shape & 16 != 0,
        };
        self.post(queue, from, &request, shape, waits);
    }

    /// A request that need not make sense.
    fn raw_request(&mut self, input: &mut Bytes<'_>) {
        let from = self.caller(input);
        let mut bytes = encode(from, &self.draw(input));
        for _ in 0..input.below(8) {
            let at = usize::from(input.u16()) % bytes.len();
            // Not who it is from.
            if !(24..36).contains(&at) {
                bytes[at] = input.u8();
            }
        }
        if self.mode == Mode::Any && !is_tagged(from) {
            self.pending = true;
        }
        bytes.truncate(bytes.len().saturating_sub(input.below(64)));
        let shape = Shape { cut: 40, room: 0x400, halves: false, indirect: false };
        self.machine.post(REQUESTS, &bytes, shape);
        self.machine.kick(REQUESTS);
        let used = self.machine.used(REQUESTS);
        self.learn(used);
    }

    fn caller(&self, input: &mut Bytes<'_>) -> Caller {
        let gid = u32::try_from(input.number() & u64::from(u32::MAX)).unwrap();
        match (input.u8() % 4, self.mode) {
            (0 | 1, _) | (_, Mode::Tagged) if gid.is_multiple_of(2) => Caller::agent(gid / 2),
            (_, Mode::Tagged) => Caller { pid: AGENT_TID + 1, ..Caller::agent(gid / 2) },
            (2, Mode::Any) => Caller { uid: 0, ..Caller::agent(gid / 2) },
            (_, Mode::Any) => Caller { gid: gid % 4, ..Caller::PROGRAM },
        }
    }

    fn node(&self, input: &mut Bytes<'_>) -> u64 {
        let nth = usize::from(input.u8());
        if nth < 0xf0 { self.nodes[nth % self.nodes.len()] } else { input.number() }
    }

    fn handle(&self, input: &mut Bytes<'_>) -> u64 {
        let nth = usize::from(input.u8());
        if nth < 0xf0 { self.handles[nth % self.handles.len()] } else { input.number() }
    }

    /// A request of any kind.
    fn draw(&self, input: &mut Bytes<'_>) -> Request {
        let (node, name) = (self.node(input), NAMES[input.below(NAMES.len())]);
        let kind = input.u8() % 40;
        let (fh, u32_) = (self.handle(input), |input: &mut Bytes<'_>| input.number32());
        match kind {
            0 => requests::lookup(node, name),
            1 => requests::forget(node, input.number()),
            2 => requests::getattr(node),
            3 => requests::setattr(node, u32_(input), fh),
            4 => requests::readlink(node),
            5 => requests::symlink(node, name),
            6 => requests::mknod(node, name, u32_(input) | 0o100_000),
            7 => requests::mkdir(node, name),
            8 => requests::unlink(node, name),
            9 => requests::rmdir(node, name),
            10 => requests::rename((node, name), (self.node(input), NAMES[input.below(14)])),
            11 => requests::link(node, self.node(input), name),
            12 => requests::open(node, u32_(input)),
            13 => requests::read(node, fh, u32_(input)),
            14 => requests::write(node, fh, input.blob()),
            15 => requests::statfs(node),
            16 => requests::release(node, fh),
            17 => requests::fsync(node, fh),
            18 => requests::setxattr(node, "user.new", input.blob()),
            19 => requests::getxattr(node, "user.colour", u32_(input)),
            20 => requests::listxattr(node, u32_(input)),
            21 => requests::removexattr(node, "user.colour"),
            22 => requests::flush(node, fh),
            23 => requests::init(input.number() | INIT_EXT),
            24 => requests::opendir(node),
            25 => requests::readdir(node, fh, u32_(input)),
            26 => requests::releasedir(node, fh),
            27 => requests::fsyncdir(node, fh),
            28 => requests::access(node),
            29 => requests::create(node, name, u32_(input)),
            30 => requests::readdirplus(node, fh, u32_(input)),
            31 => requests::fallocate(node, fh),
            32 => requests::lseek(node, fh),
            33 => requests::copy_file_range((node, fh), (self.node(input), self.handle(input))),
            34 => requests::syncfs(node),
            35 => requests::ioctl_sync(node, None),
            36 => requests::batch_forget(&[node, self.node(input)]),
            37 => {
                let to = (self.node(input), NAMES[input.below(14)]);
                requests::rename2((node, name), to, u32_(input))
            }
            38 => Request { opcode: u32_(input), nodeid: node, body: input.blob().to_vec() },
            _ => Request { opcode: u32::from(input.u8() % 64), nodeid: node, body: body(input) },
        }
    }

    fn send(&mut self, from: Caller, request: &Request) {
        let shape = Shape { cut: 40, room: 0xff0, halves: false, indirect: false };
        self.post(REQUESTS, from, request, shape, true);
    }

    fn post(&mut self, queue: usize, from: Caller, request: &Request, shape: Shape, waits: bool) {
        let tagged = is_tagged(from);
        let compares = self.mode == Mode::Any && tagged && waits && !self.pending;
        let before = compares.then(|| Snapshot::of(&self.share));
        self.pending |= !tagged && !waits;
        self.machine.post(queue, &encode(from, request), shape);
        self.machine.kick(queue);
        if waits {
            let used = self.machine.wait(queue);
            self.pending |= used.is_none() && !tagged;
            self.learn(used);
        }
        if let Some(before) = before {
            before.assert_still(&self.share, &format!("{request:?} from {from:?}"));
        }
    }

    /// Takes up what a reply says, in which there must be nothing from outside.
    fn learn(&mut self, used: Option<Used>) {
        const NODES_MAX: usize = 200;
        let Some(Used { opcode, nodeid, bytes }) = used else { return };
        assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET), "a secret in a reply");
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let succeeded = bytes.get(4..8).is_some_and(|error| error == [0; 4]);
        let (Some(first), true) = (number(16), succeeded && nodeid != 0) else { return };
        match opcode {
            1 | 6 | 8 | 9 | 13 if self.nodes.len() < NODES_MAX => self.nodes.push(first),
            14 | 27 if self.handles.len() < NODES_MAX => self.handles.push(first),
            35 if self.handles.len().max(self.nodes.len()) < NODES_MAX => {
                self.nodes.push(first);
                self.handles.extend(number(16 + 128));
            }
            _ => {}
        }
    }

    /// Writes to the rings what no driver writes.
    fn tamper(&mut self, input: &mut Bytes<'_>) {
        let index = input.below(4);
        self.machine.queues[index].sane = false;
        match input.below(5) {
            0 => self.machine.jump(index, input.u16()),
            1 => self.machine.offer(index, input.u16()),
            2 => {
                let at = index as u64 * super::machine::SPACE + 16 * u64::from(input.u8() % 64);
                let (address, len) = (input.number() << (input.u8() % 32), input.number32());
                let (flags, next) = (u16::from(input.u8()), u16::from(input.u8()));
                let descriptor = super::machine::descriptor(address, len, flags, next);
                self.machine.write(at, &descriptor);
            }
            3 => {
                let at = index as u64 * super::machine::SPACE + u64::from(input.u16());
                self.machine.write(at, input.blob());
            }
            _ => {
                // A loop, or a chain into the middle of another.
                let (at, next) = (u64::from(input.u8() % 64), u16::from(input.u8() % 66));
                let base = index as u64 * super::machine::SPACE;
                self.machine.write(base + 16 * at + 12, &[1 | input.u8() & 4, 0]);
                self.machine.write(base + 16 * at + 14, &next.to_le_bytes());
            }
        }
    }

    /// The host changes something; it is another process.
    fn change(&mut self, input: &mut Bytes<'_>) {
        let script = CHANGES[input.below(CHANGES.len())];
        self.compare(script);
        // Programs may have taken away what it is about.
        self.host.run(&format!("{{ {script}; }} 2>&- || :"));
        self.before = [Snapshot::of(&self.share), Snapshot::of(&outside(&self.share))];
    }

    fn compare(&self, until: &str) {
        let [share, beside] = &self.before;
        beside.assert_still(&outside(&self.share), &format!("anything until {until}"));
        if self.mode == Mode::Tagged {
            share.assert_still(&self.share, &format!("tagged requests until {until}"));
        }
    }

    /// Gives the device buffers for notifications, and takes what has come.
    fn notifications(&mut self, input: &mut Bytes<'_>) {
        let size =
            if input.bool() { input.number32() } else { u32::try_from(NOTIFY_BUF_SIZE).unwrap() };
        for _ in 0..1 + input.below(4) {
            let shape = Shape { cut: 0, room: size, halves: input.bool(), indirect: false };
            self.machine.post(NOTIFICATIONS, &[], shape);
        }
        self.machine.kick(NOTIFICATIONS);
        while let Some(used) = self.machine.used(NOTIFICATIONS) {
            self.learn(Some(used));
        }
    }

    /// The guest or its frontend begins again.
    fn again(&mut self, input: &mut Bytes<'_>) {
        match input.below(4) {
            0 => {
                let machine = Machine::connect(&self.host.served.socket());
                let before = std::mem::replace(&mut self.machine, machine);
                drop(before);
                self.machine.set_up(self.features, input.bool());
                self.mount();
            }
            1 => self.machine.stop(input.below(3)),
            2 => self.machine.start(input.below(3)),
            _ => self.mount(),
        }
    }
}

/// What is beside the shared directory.
fn outside(share: &Path) -> PathBuf {
    share.with_file_name("outside")
}

/// A body that has numbers and a name where they may be.
fn body(input: &mut Bytes<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..input.below(8) {
        body.extend(input.number().to_le_bytes());
    }
    body.extend(NAMES[input.below(NAMES.len())].as_bytes());
    body.push(0);
    body
}

fn encode(from: Caller, request: &Request) -> Vec<u8> {
    let len = 40 + u32::try_from(request.body.len()).unwrap();
    let mut bytes = [len, request.opcode].map(u32::to_le_bytes).concat();
    bytes.extend(77_u64.to_le_bytes());
    bytes.extend(request.nodeid.to_le_bytes());
    bytes.extend([from.uid, from.gid, from.pid, 0].map(u32::to_le_bytes).concat());
    bytes.extend(&request.body);
    bytes
}

/// Whether a request is an agent's in any case: its thread id may be anybody's.
fn is_tagged(from: Caller) -> bool {
    from.uid == MARKER_UID
}

/// READ on the control node, and IOCTL, which wait for something to happen.
fn may_take_long(request: &Request) -> bool {
    [15, 39].contains(&request.opcode)
}
