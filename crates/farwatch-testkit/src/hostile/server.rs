// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Server`]: a mount, and the thread that answers what the kernel asks about it.
//!
//! It tells in one of two ways ([`Way`]): by what it writes to `/dev/fuse`, to a kernel with the patches, or by
//! its answers to reads of the control node, to the module of a stock kernel.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::PATIENCE;
use super::answer::{Lies, answer, control};
use super::fuse::{
    BATCH_FORGET, CONTROL, EIO, ESTALE, FORGET, FSNOTIFY, GETATTR, HAVE_FSNOTIFY2, INIT, INTERRUPT,
    LOOKUP, OPEN, PROBE, READ, RESERVED, Request, WRITE, init_out, reply, u32_at, welcome,
};
use super::message::Message;
use crate::vm::Module;

/// A read with nothing to return waits so long.
const IDLE: Duration = Duration::from_millis(400);
/// While the kernel has no room for a message.
const ROOM: Duration = Duration::from_millis(1);
/// The largest request, and more.
const REQUEST_MAX: usize = 1 << 17;

/// How the server tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Way {
    /// By notifications that it writes to `/dev/fuse`, to a kernel with the patches
    Device,
    /// By answers to reads of the control node, to the module of a stock kernel
    Reads,
}

/// What is never answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Stop {
    /// The search for the control node
    Find,
    /// Its OPEN
    Open,
    /// The hello
    Hello,
    /// The read of the welcome
    Welcome,
    /// A read after that
    Read,
    /// What is under a name, while an event is raised
    Lookup,
    /// The attributes of an object, while an event is raised
    Attributes,
    /// What is watched
    Watch,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    at: PathBuf,
    probes: u64,
}

#[derive(Debug)]
struct Shared {
    device: OwnedFd,
    way: Way,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The kernel has said what it can.
    begun: bool,
    granted: bool,
    welcomed: bool,
    lies: Lies,
    stop: Option<Stop>,
    stopped: bool,
    ended: bool,
    /// The last probe that was answered.
    probe: u64,
    /// What the next reads return.
    queue: VecDeque<Vec<u8>>,
    /// A read that waits: its number, and the bytes that it takes.
    parked: Option<(u64, usize)>,
}

impl Stop {
    /// Whether it keeps a module from being attached.
    pub(super) fn is_before_the_welcome(self) -> bool {
        matches!(self, Self::Find | Self::Open | Self::Hello | Self::Welcome)
    }

    fn is_at(self, request: &Request<'_>, welcomed: bool) -> bool {
        let control = request.nodeid == CONTROL;
        match self {
            Self::Find => control && request.opcode == LOOKUP,
            Self::Open => control && request.opcode == OPEN,
            Self::Hello => control && request.opcode == WRITE,
            Self::Welcome => control && request.opcode == READ,
            Self::Read => control && request.opcode == READ && welcomed,
            Self::Lookup => request.opcode == LOOKUP && request.nodeid < RESERVED,
            Self::Attributes => request.opcode == GETATTR,
            Self::Watch => request.opcode == FSNOTIFY,
        }
    }
}

impl Server {
    pub(super) fn mount(way: Way, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at).with_context(|| at.display().to_string())?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = openat(CWD, "/dev/fuse", flags, Mode::empty()).context("/dev/fuse")?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
        let options = std::ffi::CString::new(options)?;
        mount("hostile", at, "fuse", MountFlags::empty(), Some(&*options)).context("mount")?;
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { device, way, state, changed });
        let serving = Arc::clone(&shared);
        thread::spawn(move || serving.serve());
        shared.wait("INIT", |state| state.begun)?;
        let granted = shared.state().granted;
        ensure!(way == Way::Reads || granted, "the kernel has no FUSE_HAVE_FSNOTIFY");
        Ok(Self { shared, at: at.to_owned(), probes: 0 })
    }

    /// Has the module raise the events, where there is one.
    pub(super) fn attach(&self) -> Result<()> {
        if self.shared.way == Way::Device {
            return Ok(());
        }
        let status = self.attaching().status().context("sh")?;
        ensure!(status.success(), "the module cannot be attached");
        Ok(())
    }

    /// The same, which will not come to an end.
    pub(super) fn begin_to_attach(&self) -> Result<()> {
        ensure!(self.shared.way == Way::Reads, "there is no module");
        drop(self.attaching().spawn().context("sh")?);
        Ok(())
    }

    /// Another process: one that waits for its own server may be waited for itself, for ever.
    fn attaching(&self) -> Command {
        let mut sh = Command::new("sh");
        let module = Module::NAME;
        sh.args(["-c", &format!("echo $0 >/sys/module/{module}/parameters/attach")]);
        sh.arg(&self.at);
        sh
    }

    /// From now on.
    pub(super) fn lie(&self, lies: &Lies) {
        self.shared.state().lies = lies.clone();
    }

    pub(super) fn stop_at(&self, stop: Stop) {
        self.shared.state().stop = Some(stop);
    }

    pub(super) fn wait_until_stopped(&self) -> Result<()> {
        self.shared.wait("what is not answered", |state| state.stopped)
    }

    /// Has the kernel ask what is not to be answered.
    pub(super) fn provoke(&self, stop: Stop) -> Result<()> {
        let line = match stop {
            Stop::Lookup => "on=root mask=DELETE name=file",
            Stop::Attributes => "on=root mask=DELETE+ISDIR name=dir child=dir",
            Stop::Watch => {
                let mut watch = Command::new(std::env::current_exe()?);
                drop(watch.arg("watch").arg(&self.at).spawn().context("watch")?);
                return Ok(());
            }
            Stop::Find | Stop::Open | Stop::Hello | Stop::Welcome | Stop::Read => return Ok(()),
        };
        self.tell(&Message::parse(line)?).map(drop)
    }

    /// Tells a message. Whether the kernel has taken it, if that can be known.
    pub(super) fn tell(&self, message: &Message) -> Result<Option<bool>> {
        match self.shared.way {
            Way::Device => self.shared.write(&message.0).map(Some),
            Way::Reads => {
                let mut state = self.shared.state();
                state.queue.push_back(message.0.clone());
                self.shared.answer_parked(&mut state, false);
                Ok(None)
            }
        }
    }

    /// Waits until the kernel has taken what was told.
    pub(super) fn wait_for_queue(&self) -> Result<()> {
        self.shared.wait("a read", |state| state.queue.is_empty())
    }

    /// Waits until all that was told has been raised, which the kernel says of itself.
    pub(super) fn wait_for_probe(&mut self) -> Result<()> {
        self.probes += 1;
        let nodeid = PROBE + self.probes;
        self.tell(&Message::parse(&format!("on={nodeid}:0 mask=ATTRIB"))?)?;
        self.shared.wait("the answer to a probe", |state| state.probe == nodeid)
    }

    /// How many messages the module has refused, if there is one.
    pub(super) fn refused(&self) -> Result<Option<u64>> {
        if self.shared.way == Way::Device {
            return Ok(None);
        }
        let file = format!("/sys/module/{}/parameters/attach", Module::NAME);
        let said = std::fs::read_to_string(&file).context(file)?;
        let (_, count) = said.rsplit_once(" refused ").with_context(|| said.clone())?;
        Ok(Some(count.trim().parse()?))
    }

    /// Ends it, and waits until nothing keeps it.
    pub(super) fn unmount(self) -> Result<()> {
        unmount(&self.at, UnmountFlags::DETACH).context("umount")?;
        self.shared.wait("the end of the superblock", |state| state.ended)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, what: &str, is: impl Fn(&State) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !is(&state) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited in vain for {what}");
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// A notification. Waits while the kernel has no room.
    fn write(&self, bytes: &[u8]) -> Result<bool> {
        let until = Instant::now() + PATIENCE;
        loop {
            match rustix::io::write(&self.device, bytes) {
                Ok(_) => return Ok(true),
                Err(Errno::INVAL) => return Ok(false),
                Err(Errno::AGAIN) if Instant::now() < until => {
                    poll(&mut [], Some(&Timespec::try_from(ROOM)?))?;
                }
                Err(errno) => return Err(errno).context("a notification"),
            }
        }
    }

    fn serve(&self) {
        let mut buffer = vec![0; REQUEST_MAX];
        let idle = Timespec::try_from(IDLE).expect("less than a second");
        loop {
            let ready = poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&idle));
            if ready == Ok(0) {
                self.answer_parked(&mut self.state(), true);
                continue;
            }
            match rustix::io::read(&self.device, &mut buffer) {
                Ok(len) => {
                    let request = buffer.get(..len).and_then(Request::parse);
                    if request.is_none_or(|request| !self.take(&request)) {
                        return;
                    }
                }
                Err(Errno::NODEV) => break,
                // A request that nobody waits for any more.
                Err(_) => {}
            }
        }
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Whether there is more to be answered.
    fn take(&self, request: &Request<'_>) -> bool {
        let mut state = self.state();
        if state.stop.is_some_and(|stop| stop.is_at(request, state.welcomed)) {
            state.stopped = true;
        } else if request.nodeid == CONTROL {
            self.control(request, &mut state);
        } else if request.nodeid >= PROBE && request.opcode == LOOKUP {
            state.probe = request.nodeid;
            self.reply(request.unique, &Err(ESTALE));
        } else if request.opcode == INIT {
            let minor = u32_at(request.body, 4).unwrap_or(0);
            let flags2 = u32_at(request.body, 16).unwrap_or(0) & HAVE_FSNOTIFY2;
            // A stock kernel has no such flag, and a module no use for it.
            state.granted = flags2 != 0;
            state.begun = true;
            self.reply(request.unique, &Ok(init_out(minor, flags2)));
        } else if ![FORGET, BATCH_FORGET, INTERRUPT].contains(&request.opcode) {
            let answer = answer(request, &mut state.lies);
            self.reply(request.unique, &answer);
        }
        let goes_on = !state.stopped;
        drop(state);
        self.changed.notify_all();
        goes_on
    }

    fn control(&self, request: &Request<'_>, state: &mut State) {
        match request.opcode {
            LOOKUP => self.reply(request.unique, &Ok(control())),
            READ if state.welcomed => {
                let size = u32_at(request.body, 16).and_then(|size| usize::try_from(size).ok());
                state.parked = Some((request.unique, size.unwrap_or(0)));
                self.answer_parked(state, false);
            }
            READ => {
                state.welcomed = true;
                self.reply(request.unique, &Ok(welcome()));
            }
            FORGET | BATCH_FORGET | INTERRUPT => {}
            opcode => {
                if opcode == OPEN {
                    state.welcomed = false;
                    state.parked = None;
                }
                self.reply(request.unique, &answer(request, &mut Lies::default()));
            }
        }
    }

    /// With as many messages as fit. What is no message is the last, and what does not fit comes alone.
    fn answer_parked(&self, state: &mut State, even_with_nothing: bool) {
        let Some((unique, size)) = state.parked else { return };
        let mut bytes = Vec::new();
        while let Some(next) = state.queue.front() {
            if !bytes.is_empty() && bytes.len() + next.len() > size {
                break;
            }
            let is_last = !Message(next.clone()).is_framed();
            bytes.extend_from_slice(next);
            state.queue.pop_front();
            if is_last {
                break;
            }
        }
        if !bytes.is_empty() || even_with_nothing {
            state.parked = None;
            self.reply(unique, &Ok(bytes));
            self.changed.notify_all();
        }
    }

    /// The kernel takes an answer of a wrong length for an error, and one with no number of an error for none.
    fn reply(&self, unique: u64, answer: &std::result::Result<Vec<u8>, i32>) {
        let write = |answer: &_| rustix::io::write(&self.device, &reply(unique, answer));
        if write(answer).is_err() && answer.is_err() {
            write(&Err(EIO)).unwrap_or_default();
        }
    }
}
