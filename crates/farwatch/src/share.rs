// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Share`]: what the request workers, the watch thread and the notification queue have in common.
//!
//! It joins the engine, which decides, with the marks and directory descriptors that its decisions
//! need. Nothing here talks FUSE (`fs`), virtio (`device`) or reads what is reported (`watch`).
//!
//! Lock order: the state lock is a leaf. It is held across `fanotify_mark(2)` and
//! `inotify_add_watch(2)`, so that a mark is never set for a node that is being forgotten, and across
//! nothing that can wait for the guest. "Mark" stands for inotify's watches too.

mod agent;
mod barrier;
mod dirs;
mod guest;
mod nodes;
mod own;
mod source;
mod unmarked;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use farwatch_proto::host::inotify::Observer;
use farwatch_proto::host::{Engine, State as Moved};
use farwatch_proto::wire::control::Delivery;
use farwatch_proto::{Fid, Mask, NodeId};
use farwatch_sys::handle;
use rustix::io::Errno;

use crate::deliver::Outbox;
use crate::watch::{Marked, Watch};
use dirs::Dirs;
pub(crate) use own::{Announced, OwnCall, Subject};
use unmarked::Unmarked;

/// What to do when inotify has no room for another directory (`inotify_add_watch(2)`, ENOSPC).
const MORE_WATCHES: &str = "raise fs.inotify.max_user_watches by sysctl(8), and in a user namespace \
    user.max_inotify_watches";

/// See the module's documentation.
#[derive(Debug)]
pub struct Share {
    state: Mutex<State>,
    watch: Option<Watch>,
    unwatched: AtomicU64,
    /// The thread of the attached agent, 0 for none: what the engine has, readable without the lock.
    agent_tid: AtomicU32,
    /// An eventfd of the watch thread's: there is a directory to list, an object to look at, a group to
    /// read, or a barrier to read up to.
    work: OnceLock<Arc<OwnedFd>>,
    /// Where notifications go, and where one waits for them and for barriers.
    outbox: Outbox,
}

/// What the lock guards.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The decisions.
    pub(crate) engine: Engine,
    /// What inotify's reports mean, where it is that which watches.
    pub(crate) observer: Option<Observer>,
    dirs: Dirs,
    /// Known directories that could not be marked.
    unmarked: Unmarked,
    /// There is a watch thread, which looks at what events are about before they are sent.
    looks: bool,
    /// How the agent that listens wants its notifications.
    delivery: Option<Delivery>,
}

/// How the host names an object that a reply is about to make known.
#[derive(Debug)]
pub struct Identity {
    /// The object, opened with `O_PATH`. A directory always has it.
    pub fd: Option<OwnedFd>,
    /// What the host's watcher knows it by: its file handle, where it has one.
    pub fid: Fid,
    /// It is mounted on its name. Of what is no directory it matters to inotify alone.
    pub mounted: bool,
}

impl Share {
    /// `watch` is `None` when this kernel or user can have none: then nothing is watched.
    pub fn new(watch: Option<Watch>) -> Self {
        let observer = match &watch {
            Some(Watch::Inotify(inotify)) => Some(Observer::new(inotify.joins())),
            Some(Watch::Fanotify(_)) | None => None,
        };
        let mut engine = Engine::default();
        if matches!(&watch, Some(Watch::Fanotify(_))) {
            engine.expect_merges();
        }
        Self {
            state: Mutex::new(State { engine, observer, ..State::default() }),
            watch,
            unwatched: AtomicU64::new(0),
            agent_tid: AtomicU32::new(0),
            work: OnceLock::new(),
            outbox: Outbox::default(),
        }
    }

    /// What the watch thread reads.
    pub fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    /// Which events can be told.
    pub fn events(&self) -> Mask {
        self.watch.as_ref().map_or(Mask::DEFAULT, Watch::events)
    }

    /// Whether both names of a rename can be reported (S12, S13).
    pub(crate) fn pairs_renames(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::pairs_renames)
    }

    /// How the object behind `fd` is known.
    ///
    /// # Errors
    /// When it cannot be told from others.
    pub fn fid(&self, fd: BorrowedFd<'_>) -> io::Result<Fid> {
        match &self.watch {
            Some(watch) => watch.fid(fd),
            None => handle::fid(fd).map_err(io::Error::other),
        }
    }

    /// Whether objects are known by their file handles, where they have such.
    pub(crate) fn knows_by_handle(&self) -> bool {
        match &self.watch {
            Some(Watch::Inotify(inotify)) => inotify.knows_by_handle(),
            Some(Watch::Fanotify(_)) | None => true,
        }
    }

    /// Whether what is reported of an entry names no object.
    pub(crate) fn is_told_names_alone(&self) -> bool {
        matches!(&self.watch, Some(Watch::Inotify(_)))
    }

    /// The watch thread begins. `eventfd` is written when there is something for it to do. Called once.
    pub(crate) fn watch_begins(&self, eventfd: Arc<OwnedFd>) {
        // A second watch thread would find every directory listed by the first.
        let _first = self.work.set(eventfd);
        self.lock().looks = true;
    }

    /// The watch thread has ended. Events that wait for a look on the host are sent without one.
    pub(crate) fn watch_ended(&self) {
        self.lock().looks = false;
        self.wake_sinks();
    }

    /// Adds a sink for notifications. `wake` is called without any lock of the share whenever there may
    /// be something for it to pull. It should not keep the share alive.
    pub fn add_sink(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.outbox.add_sink(wake);
    }

    /// The engine has something new: wakes all sinks. Called without the lock, by the watch thread.
    pub(crate) fn wake_sinks(&self) {
        self.outbox.wake();
    }

    /// Sets a limit to the events that wait for a sink, instead of the default.
    pub fn limit_backlog(&self, len_max: usize) {
        self.lock().engine.limit_backlog(len_max);
    }

    /// The engine, locked. A panic elsewhere does not make its state unusable: every change to it is
    /// one call.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_for_rescan(&self, state: &State) {
        if state.engine.wants_rescan() {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(eventfd) = self.work.get() {
            // An eventfd that already counts is as good as one that counts now.
            let _counted = rustix::io::write(&**eventfd, &1u64.to_ne_bytes());
        }
    }

    /// Known directories that carry no mark, since the start: what changes in them goes unseen.
    pub fn unwatched(&self) -> u64 {
        self.unwatched.load(Ordering::Relaxed)
    }

    /// A session begins or ends: all marks and descriptors of the one before go. `root` is the
    /// share's directory, known from the first moment on.
    pub fn reset(&self, root: Option<Identity>) {
        self.begin(root, Engine::reset);
    }

    /// A session goes on that began on another host. Every node but `root` is to be found again
    /// ([`Share::identify`]).
    pub fn load(&self, moved: Moved, root: Option<Identity>) {
        self.begin(root, |engine, root| engine.load(moved, root));
    }

    fn begin(&self, root: Option<Identity>, begin: impl FnOnce(&mut Engine, Option<Fid>)) {
        let mut state = self.lock();
        state.dirs = Dirs::default();
        self.unmark_all(&mut state);
        state.unmarked = Unmarked::default();
        let (fd, fid) = root.map(|root| (root.fd, root.fid)).unzip();
        begin(&mut state.engine, fid.clone());
        self.publish_agent(&state);
        if let (Some(fd), Some(fid)) = (fd.flatten(), fid) {
            self.mark(&mut state, &fd, &fid);
            state.dirs.insert(NodeId::ROOT, fd);
        }
        state.delivery = None;
        drop(state);
        self.outbox.wake_waiters();
    }

    /// Something was forgotten, so there may be room for the mark of a directory that has none.
    fn mark_late(&self, state: &mut State, open: impl Fn(NodeId) -> Option<OwnedFd>) {
        while let Some(id) = state.unmarked.pop() {
            let Some(fid) = state.engine.tree.fid(id).cloned() else { continue };
            let dir = state.dirs.at_hand(id).or_else(|| open(id).map(Arc::new));
            let Some(dir) = dir else { continue };
            if !self.mark(state, &dir, &fid) {
                state.unmarked.insert(id);
                return;
            }
            // What has happened in it meanwhile.
            state.engine.handle_lost(&fid);
            self.wake_for_rescan(state);
            tracing::info!(%id, "a directory is watched at last");
        }
    }

    /// `false` when a directory is not watched that should be.
    fn mark(&self, state: &mut State, dir: &OwnedFd, fid: &Fid) -> bool {
        const LIMITS: &str = "`farwatch doctor` tells the limits";
        match &self.watch {
            None => true,
            Some(Watch::Fanotify(groups)) => match groups.mark(dir) {
                Ok(Marked::Here) => true,
                Ok(Marked::InNewGroup) => {
                    self.wake();
                    true
                }
                Err(error) => {
                    self.not_marked(&error, LIMITS);
                    false
                }
            },
            Some(Watch::Inotify(inotify)) => match inotify.add(dir.as_fd()) {
                Ok(id) => {
                    state.observer.iter_mut().for_each(|it| it.watch(id, fid.clone()));
                    true
                }
                Err(error) => {
                    let no_space = error.raw_os_error() == Some(Errno::NOSPC.raw_os_error());
                    self.not_marked(&error, if no_space { MORE_WATCHES } else { LIMITS });
                    false
                }
            },
        }
    }

    fn not_marked(&self, error: &dyn std::error::Error, remedy: &str) {
        let before = self.unwatched.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            tracing::warn!(%error, "a directory cannot be watched: changes in it will not be seen \
                by the guest ({remedy})");
        }
    }

    fn unmark(&self, state: &mut State, fid: &Fid, dir: impl FnOnce() -> Option<Arc<OwnedFd>>) {
        match &self.watch {
            None => {}
            Some(Watch::Fanotify(groups)) => {
                let Some(dir) = dir() else { return };
                if let Err(error) = groups.unmark(&*dir) {
                    // The directory itself is gone, and the mark with it.
                    tracing::trace!(%error, "mark not removed");
                }
            }
            Some(Watch::Inotify(inotify)) => {
                let Some(observer) = &mut state.observer else { return };
                if let Some(id) = observer.unwatch(fid)
                    && !inotify.remove(id)
                {
                    observer.was_gone(id);
                }
            }
        }
    }

    fn unmark_all(&self, state: &mut State) {
        match &self.watch {
            None => {}
            Some(Watch::Fanotify(groups)) => {
                if let Err(error) = groups.unmark_all() {
                    tracing::warn!(%error, "marks of the last session stay");
                }
            }
            Some(Watch::Inotify(inotify)) => {
                let Some(observer) = &mut state.observer else { return };
                for id in observer.clear() {
                    if !inotify.remove(id) {
                        observer.was_gone(id);
                    }
                }
            }
        }
    }
}
