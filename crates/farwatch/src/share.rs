// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Share`]: what the request workers, the watch thread and the notification queue have in common.
//!
//! It joins the engine, which decides, with the marks and directory descriptors that its decisions
//! need. Nothing here talks FUSE (`fs`), virtio (`device`) or reads the fanotify group (`watch`).
//!
//! Lock order: the state lock is a leaf. It is held across `fanotify_mark(2)`, so that a mark is
//! never set for a node that is being forgotten, and across nothing that can wait for the guest.

mod groups;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use farwatch_proto::host::{Engine, Learned, State as Moved};
use farwatch_proto::wire::Notification;
use farwatch_proto::wire::control::Delivery;
use farwatch_proto::{Fid, FileKind, Name, NodeId};
use farwatch_sys::fanotify::Fanotify;
use virtiofsd::fuse::Attr;

use self::groups::{Groups, Marked};
use crate::device::NotificationSource;

/// See the module's documentation.
#[derive(Debug)]
pub struct Share {
    state: Mutex<State>,
    groups: Option<Groups>,
    unwatched: AtomicU64,
    /// An eventfd of the watch thread's: there is a directory to list, or a group to read.
    work: OnceLock<Arc<OwnedFd>>,
    /// Goes with `state`: there may be something for a READ that waits.
    news: Condvar,
}

/// What the lock guards.
#[derive(Debug, Default)]
pub struct State {
    /// The decisions.
    pub engine: Engine,
    dirs: Dirs,
    /// How the agent that listens wants its notifications.
    delivery: Option<Delivery>,
    /// How often those that wait were told not to.
    hurried: u64,
}

/// Descriptors of known directories, from which their entries are resolved and by which they are
/// marked: a cache, since a user may have fewer descriptors than the guest knows directories.
#[derive(Debug, Default)]
struct Dirs {
    open: BTreeMap<NodeId, Arc<OwnedFd>>,
    /// The one that was closed last to make room; the next is after it.
    hand: Option<NodeId>,
}

impl Dirs {
    /// The most directories that are kept open.
    const LEN_MAX: usize = 4096;

    fn insert(&mut self, id: NodeId, fd: OwnedFd) -> Arc<OwnedFd> {
        if self.open.len() >= Self::LEN_MAX {
            // Never the root, from which the others can be found again.
            let behind = |id| self.open.range((Excluded(id), Unbounded)).next();
            let next = self.hand.and_then(behind).or_else(|| behind(NodeId::ROOT));
            self.hand = next.map(|(id, _)| *id);
            if let Some(id) = self.hand {
                self.open.remove(&id);
            }
        }
        let fd = Arc::new(fd);
        self.open.insert(id, Arc::clone(&fd));
        fd
    }
}

/// How the host names an object that a reply is about to make known.
#[derive(Debug)]
pub struct Identity {
    /// The object, opened with `O_PATH`. A directory always has it.
    pub fd: Option<OwnedFd>,
    /// Its file handle, as fanotify reports it.
    pub fid: Fid,
}

impl Share {
    /// `fanotify` is `None` when this kernel or user cannot have a group: then nothing is watched.
    pub fn new(fanotify: Option<Fanotify>) -> Self {
        Self {
            state: Mutex::default(),
            groups: fanotify.map(Groups::new),
            unwatched: AtomicU64::new(0),
            work: OnceLock::new(),
            news: Condvar::new(),
        }
    }

    /// The group that most directories are marked in, and whose level holds for all.
    pub fn fanotify(&self) -> Option<&Fanotify> {
        self.groups.as_ref().map(Groups::first)
    }

    /// The groups that the watch thread reads: the first, and whatever has come since.
    pub(crate) fn groups(&self) -> Vec<Arc<Fanotify>> {
        self.groups.as_ref().map(Groups::all).unwrap_or_default()
    }

    /// Has `eventfd` written when there is a directory to list or another group. The watch thread calls
    /// this once.
    pub(crate) fn wake_for_work(&self, eventfd: Arc<OwnedFd>) {
        // A second watch thread would find every directory listed by the first.
        let _first = self.work.set(eventfd);
    }

    /// The engine, locked. A panic elsewhere does not make its state unusable: every change to it is
    /// one call.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent has proved its marks: notifications begin. Returns the number of the link.
    pub fn listen(&self, delivery: Delivery) -> Option<u64> {
        let mut state = self.lock();
        state.engine.listen(SystemTime::now());
        state.delivery = Some(delivery);
        state.engine.link()
    }

    /// The agent is gone. A READ of its that waits ends.
    pub fn detach(&self) {
        let mut state = self.lock();
        state.engine.detach();
        state.delivery = None;
        drop(state);
        self.news.notify_all();
    }

    /// Wakes the READ that waits, when the engine has something new. The watch thread calls this.
    pub(crate) fn announce(&self) {
        self.news.notify_all();
    }

    /// Whole notifications for agent number `link`, which reads them, `len_max` bytes at most. Waits
    /// until `deadline` for the first. Empty when none has come, or the agent is gone.
    pub fn read(&self, link: u64, len_max: usize, deadline: Option<Instant>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut state = self.lock();
        let hurried = state.hurried;
        if state.engine.link() == Some(link) {
            state.engine.handle_asked();
        }
        while state.engine.link() == Some(link) && state.delivery == Some(Delivery::Reads) {
            while bytes.len() + Notification::LEN_MAX <= len_max
                && let Some(notification) = state.engine.send()
            {
                tracing::trace!(?notification, "sent");
                bytes.extend(notification.encode(&mut [0; Notification::LEN_MAX]).iter());
            }
            self.wake_for_rescan(&state);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let Some(left) = left.filter(|left| !left.is_zero()) else { break };
            if !bytes.is_empty() || state.hurried != hurried {
                break;
            }
            let waited = self.news.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        bytes
    }

    fn wake_for_rescan(&self, state: &State) {
        if state.engine.wants_rescan() {
            self.wake();
        }
    }

    fn wake(&self) {
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
        if let Some(groups) = &self.groups
            && let Err(error) = groups.unmark_all()
        {
            tracing::warn!(%error, "marks of the last session stay");
        }
        let (fd, fid) = root.map(|root| (root.fd, root.fid)).unzip();
        begin(&mut state.engine, fid);
        if let Some(fd) = fd.flatten() {
            self.mark(&fd);
            state.dirs.insert(NodeId::ROOT, fd);
        }
        state.delivery = None;
        drop(state);
        self.news.notify_all();
    }

    /// A node that was loaded has been found. A directory is marked.
    pub fn identify(&self, id: NodeId, ino: u64, identity: Identity) {
        let mut state = self.lock();
        let Some(kind) = state.engine.tree.kind(id) else { return };
        state.engine.tree.identify(id, identity.fid, ino);
        if let Some(fd) = identity.fd.filter(|_| kind == FileKind::Directory) {
            self.mark(&fd);
            state.dirs.insert(id, fd);
        }
    }

    /// A directory that was loaded could not be found: nothing in it is seen.
    pub fn unidentified(&self, id: NodeId) {
        self.unwatched.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%id, "a directory could not be identified and is not watched");
    }

    /// A descriptor of a known directory, which `open` makes if none is at hand.
    pub fn dir(&self, id: NodeId, open: impl FnOnce() -> Option<OwnedFd>) -> Option<Arc<OwnedFd>> {
        if let Some(fd) = self.lock().dirs.open.get(&id) {
            return Some(Arc::clone(fd));
        }
        let fd = open()?;
        let mut state = self.lock();
        state.engine.tree.knows(id).then(|| state.dirs.insert(id, fd))
    }

    /// A reply that names node `id` under `name` is about to go out. A directory is marked before
    /// this returns, so no change in it falls between the reply and the mark.
    ///
    /// `identity` is asked for only when the node is new to the tree.
    pub fn learn(
        &self,
        id: NodeId,
        attr: &Attr,
        dir: NodeId,
        name: &Name,
        identity: impl FnOnce() -> Option<Identity>,
    ) {
        let kind = FileKind::from_mode(attr.mode);
        let known = Learned { id, fid: None, kind, ino: attr.ino };
        {
            let mut state = self.lock();
            if state.engine.tree.knows(id) {
                state.engine.tree.learn(known, dir, name);
                return;
            }
        }
        let identity = identity();
        let mut state = self.lock();
        let fid = identity.as_ref().map(|identity| identity.fid.clone());
        let new = state.engine.tree.learn(Learned { fid, ..known }, dir, name);
        if !new || kind != FileKind::Directory {
            return;
        }
        match identity.and_then(|identity| identity.fd) {
            Some(fd) => {
                self.mark(&fd);
                state.dirs.insert(id, fd);
            }
            None => self.unidentified(id),
        }
    }

    /// The guest gives `count` references back. Returns the nodes that are gone with them, each with
    /// the number of references of ours that go too. The mark of a directory goes; `open` opens one
    /// of which no descriptor is at hand.
    pub fn forget(
        &self,
        id: NodeId,
        count: u64,
        open: impl Fn(NodeId) -> Option<OwnedFd>,
    ) -> Vec<(NodeId, u64)> {
        let mut state = self.lock();
        let forgotten = state.engine.tree.forget(id, count);
        for node in &forgotten {
            let dir = state.dirs.open.remove(&node.id);
            // Another mount of the same directory has the same mark.
            let tree = &state.engine.tree;
            let marked = node.fid.as_ref().is_some_and(|fid| tree.nodes_of(fid).is_empty());
            if node.kind == FileKind::Directory
                && marked
                && let Some(dir) = dir.or_else(|| open(node.id).map(Arc::new))
            {
                self.unmark(&dir);
            }
        }
        forgotten.into_iter().map(|node| (node.id, node.borrowed)).collect()
    }

    fn mark(&self, dir: &OwnedFd) {
        let Some(groups) = &self.groups else { return };
        match groups.mark(dir) {
            Ok(Marked::Here) => {}
            Ok(Marked::InNewGroup) => self.wake(),
            Err(error) => {
                let before = self.unwatched.fetch_add(1, Ordering::Relaxed);
                if before == 0 {
                    let cause = error.errno();
                    tracing::warn!(%error, %cause, "a directory cannot be watched: changes in it will not \
                        be seen by the guest (`farwatch doctor` tells the limits)");
                }
            }
        }
    }

    fn unmark(&self, dir: &OwnedFd) {
        let Some(groups) = &self.groups else { return };
        if let Err(error) = groups.unmark(dir) {
            // The directory itself is gone, and the mark with it.
            tracing::trace!(%error, "mark not removed");
        }
    }
}

impl NotificationSource for Share {
    fn next(&self, buf: &mut [u8; Notification::LEN_MAX]) -> Option<usize> {
        let mut state = self.lock();
        if state.delivery != Some(Delivery::Queue) {
            return None;
        }
        let notification = state.engine.send();
        self.wake_for_rescan(&state);
        drop(state);
        let notification = notification?;
        tracing::trace!(?notification, "sent");
        Some(notification.encode(buf).len())
    }

    fn hurry(&self) {
        self.lock().hurried += 1;
        self.news.notify_all();
    }

    fn reset(&self) {
        self.detach();
    }
}
