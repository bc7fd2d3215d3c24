// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Share`]: what the request workers, the watch thread and the sinks have in common.
//!
//! It joins the engine, which decides, with the marks and directory descriptors that its decisions
//! need. Nothing here talks FUSE (`fs`), virtio (`device`) or reads what is reported (`watch`), and
//! nothing depends on how the host is watched: that is the [`Backend`]'s. The lock does not leave this
//! room; other rooms call a method for each thing that happens or is asked.
//!
//! Lock order: the state, then a lock of the backend's own. The state is held across the system call that
//! sets a mark, so that a mark is never set for a node that is being forgotten, and across nothing that
//! can wait for the guest. Sinks are woken without it.

mod agent;
mod ahead;
mod barrier;
mod dirs;
mod figures;
mod guest;
mod intake;
mod keep;
mod kernel;
mod marks;
mod nodes;
mod own;
mod root;
mod source;
mod unmarked;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{Engine, State as Moved};
use farwatch_proto::wire::control::Delivery;
use farwatch_proto::{Fid, Mask, NodeId};
use farwatch_sys::handle;

use crate::deliver::Outbox;
use crate::meter::Meter;
use crate::replay_cpu::{Leader, ReplayCpu};
use crate::watch::Backend;
use ahead::Moments;
pub(crate) use dirs::DIRS_OPEN_MAX;
use dirs::Dirs;
pub(crate) use figures::{Client, ClientKind, Known, Shown};
pub(crate) use keep::Keep;
use keep::{FileSystems, Pace};
pub(crate) use own::{Announced, OwnCall, Subject};
use unmarked::Unmarked;

/// See the module's documentation.
#[derive(Debug)]
pub struct Share {
    state: Mutex<State>,
    backend: Option<Box<dyn Backend>>,
    /// The shared directory was found to be deleted.
    lost_root: AtomicBool,
    /// The thread of the attached agent, 0 for none: what the engine has, readable without the lock.
    agent_tid: AtomicU32,
    flags: kernel::Flags,
    /// An eventfd of the watch thread's: there is a directory to list, an object to look at, a new queue
    /// to read, or a barrier to read up to.
    work: OnceLock<Arc<OwnedFd>>,
    /// Where notifications go, and where one waits for them and for barriers.
    outbox: Outbox,
    moments: Moments,
    /// Where events are replayed, on this machine.
    leader: OnceLock<Mutex<Leader>>,
}

/// What the lock guards.
#[derive(Debug)]
struct State {
    /// The decisions.
    engine: Engine,
    dirs: Dirs,
    /// Known directories that could not be marked.
    unmarked: Unmarked,
    /// How often these are compared.
    poll_interval: Duration,
    /// Those of known directories.
    file_systems: FileSystems,
    /// The guest mounts what is mounted in the share as file systems of their own.
    announces_submounts: bool,
    /// Whether the agent goes on.
    pace: Pace,
    /// There is a watch thread, which looks at what events are about before they are sent.
    looks: bool,
    /// How the agent that listens wants its notifications.
    delivery: Option<Delivery>,
    /// Since when it listens.
    client_since: Option<SystemTime>,
    /// Since when the guest has the share mounted.
    session_since: Option<SystemTime>,
    meter: Meter,
}

/// How the host identifies an object that a reply is about to make known.
#[derive(Debug)]
pub struct Identity {
    /// The object, opened with `O_PATH`. A directory always has it.
    pub fd: Option<OwnedFd>,
    /// As reports identify it: by its file handle, where it has one.
    pub fid: Fid,
    /// It is mounted on its name. Of what is no directory this matters only where reports name no
    /// objects.
    pub mounted: bool,
}

impl State {
    fn new(engine: Engine) -> Self {
        Self {
            engine,
            dirs: Dirs::default(),
            unmarked: Unmarked::default(),
            poll_interval: Engine::POLL_INTERVAL,
            file_systems: FileSystems::default(),
            announces_submounts: false,
            pace: Pace::default(),
            looks: false,
            delivery: None,
            client_since: None,
            session_since: None,
            meter: Meter::new(Instant::now()),
        }
    }
}

impl Share {
    /// `backend` is `None` when this kernel or user can have none: then nothing is watched.
    pub fn new(backend: Option<Box<dyn Backend>>) -> Self {
        let mut engine = Engine::default();
        if backend.as_ref().is_some_and(|backend| backend.merges()) {
            engine.expect_merges();
        }
        Self {
            state: Mutex::new(State::new(engine)),
            backend,
            lost_root: AtomicBool::new(false),
            agent_tid: AtomicU32::new(0),
            flags: kernel::Flags::default(),
            work: OnceLock::new(),
            outbox: Outbox::default(),
            moments: Moments::default(),
            leader: OnceLock::new(),
        }
    }

    /// The guest is told what is mounted in the share (`--announce-submounts`), and makes superblocks of its own of that.
    pub fn announce_submounts(&self) {
        self.lock().announces_submounts = true;
    }

    /// What the host is watched with.
    pub fn backend(&self) -> Option<&dyn Backend> {
        self.backend.as_deref()
    }

    /// Which events can be reported.
    pub(crate) fn events(&self) -> Mask {
        self.backend().map_or(Mask::DEFAULT, Backend::events)
    }

    /// Whether both names of a rename can be reported (S12, S13).
    pub(crate) fn pairs_renames(&self) -> bool {
        self.backend().is_some_and(Backend::pairs_renames)
    }

    /// Whether a report about an entry names the object under it.
    pub(crate) fn names_objects(&self) -> bool {
        self.backend().is_none_or(Backend::names_objects)
    }

    /// Whether objects are identified by their file handles, where they have such.
    pub(crate) fn uses_handles(&self) -> bool {
        self.backend().is_none_or(Backend::uses_handles)
    }

    /// Identifies the object behind `fd`.
    ///
    /// # Errors
    /// When it cannot be distinguished from others.
    pub(crate) fn fid(&self, fd: BorrowedFd<'_>) -> io::Result<Fid> {
        match self.backend() {
            Some(backend) => backend.fid(fd),
            None => handle::fid(fd).map_err(io::Error::other),
        }
    }

    /// Adds a sink for notifications. `wake` is called without any lock of the share whenever there may
    /// be something for it to pull. It should not keep the share alive.
    pub fn add_sink(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.outbox.add_sink(wake);
    }

    /// Events are replayed by this machine's agent, on the CPU of the watch thread. Called once.
    pub(crate) fn replays_on(&self, cpu: Arc<ReplayCpu>) {
        let _first = self.leader.set(Mutex::new(Leader::new(cpu)));
    }

    /// Sets a limit to the events that wait for a sink, instead of the default.
    pub(crate) fn limit_backlog(&self, len_max: usize) {
        self.lock().engine.limit_backlog(len_max);
    }

    /// Has directories that cannot be watched compared so often, instead of each second.
    pub(crate) fn poll_every(&self, interval: Duration) {
        let state = &mut *self.lock();
        state.poll_interval = interval;
        state.engine.poll_every(interval);
    }

    /// The engine, locked. A panic elsewhere does not make its state unusable: every change to it is
    /// one call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the watch thread if there is something for it to do that it may not know of. Whoever else has changed
    /// the engine calls this.
    fn wake_for_work(&self, state: &State) {
        if state.engine.has_work() {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(eventfd) = self.work.get() {
            // An eventfd that already counts is as good as one that counts now.
            let _counted = rustix::io::write(&**eventfd, &1u64.to_ne_bytes());
        }
    }

    /// A session begins or ends: all marks and descriptors of the one before go. `root` is the
    /// share's directory, known from the first moment on.
    pub(crate) fn reset(&self, root: Option<Identity>) {
        self.begin(root, Engine::reset);
    }

    /// A session goes on that began on another host. Every node but `root` is to be found again
    /// ([`Share::identify`]).
    pub(crate) fn load(&self, moved: Moved, root: Option<Identity>) {
        self.begin(root, |engine, root| engine.load(moved, root));
    }

    fn begin(&self, root: Option<Identity>, begin: impl FnOnce(&mut Engine, Option<Fid>)) {
        let mut state = self.lock();
        state.dirs = Dirs::default();
        if let Some(backend) = &self.backend {
            backend.clear();
        }
        state.unmarked = Unmarked::default();
        state.session_since = root.is_some().then(SystemTime::now);
        let (fd, fid) = root.map(|root| (root.fd, root.fid)).unzip();
        begin(&mut state.engine, fid.clone());
        self.publish_agent(&state);
        if let (Some(fd), Some(fid)) = (fd.flatten(), fid) {
            self.mark_known(&mut state, NodeId::ROOT, fd, &fid);
        }
        state.delivery = None;
        drop(state);
        self.outbox.wake_waiters();
    }
}

#[cfg(test)]
mod tests;
