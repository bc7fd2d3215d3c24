// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest knows: nodes that replies make known, that FORGET takes away and that a migration
//! brings, with the descriptor and mark of each directory. The tree itself is the engine's.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use farwatch_proto::host::{Input, Learned, State as Moved};
use farwatch_proto::{Fid, FileKind, Generation, Name, Node, NodeId};
use rustix::fs::{Mode, OFlags};
use virtiofsd::fuse::{self, Attr};

use super::{Identity, Keep, Share, State};

/// What the guest's kernel holds under a name.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its inode number.
    pub(crate) ino: u64,
    /// The link count that the kernel was last given, of what is no directory.
    pub(crate) links: Option<u32>,
    /// That was higher than the host's.
    pub(crate) has_more_links: bool,
}

/// How many directories up one is looked for of which a descriptor is at hand.
const DEPTH_MAX: usize = 256;

impl Share {
    /// The generation of this session, part of every reply that names a node.
    pub(crate) fn generation(&self) -> Generation {
        self.lock().engine.tree().generation()
    }

    /// How many nodes the guest knows.
    pub fn nodes_len(&self) -> usize {
        self.lock().engine.tree().len()
    }

    /// The type of a known node.
    pub(crate) fn kind(&self, id: NodeId) -> Option<FileKind> {
        self.lock().engine.tree().kind(id)
    }

    /// The inode number of a known node.
    pub(crate) fn ino(&self, id: NodeId) -> Option<u64> {
        self.lock().engine.tree().ino(id)
    }

    /// How the host's watcher names the object of a known node.
    pub(crate) fn fid_of(&self, id: NodeId) -> Option<Fid> {
        self.lock().engine.tree().fid(id)
    }

    /// A directory and name under which the guest knows a node.
    pub(crate) fn entry_of(&self, id: NodeId) -> Option<(NodeId, Name)> {
        let state = self.lock();
        let (dir, name) = state.engine.tree().entry(id)?;
        Some((dir, name.clone()))
    }

    /// LOOKUP of `.`: counts a reference to a known node. `None` if the guest does not know it.
    pub(crate) fn lend_dot(&self, id: NodeId) -> Option<Node> {
        let engine = &mut self.lock().engine;
        engine.lend_dot(id).then(|| engine.tree().node(id))
    }

    /// The same for `..`, which is the root where no parent is known.
    pub(crate) fn lend_parent(&self, id: NodeId) -> Option<Node> {
        let engine = &mut self.lock().engine;
        let parent = engine.tree().parent(id).unwrap_or(NodeId::ROOT);
        engine.lend_dot(parent).then(|| engine.tree().node(parent))
    }

    /// What moves with the guest to another host. `control_opened` is how often the control node was
    /// opened.
    pub(crate) fn save(&self, control_opened: u64) -> Moved {
        self.lock().engine.save(control_opened)
    }

    /// The loaded nodes that have no name.
    pub(crate) fn nameless(&self) -> Vec<NodeId> {
        self.lock().engine.tree().nameless()
    }

    /// What the guest knows in a directory.
    pub(crate) fn entries_in(&self, dir: NodeId) -> Vec<(NodeId, Name, FileKind)> {
        self.lock().engine.tree().entries(dir)
    }

    /// A node that was loaded has been found. A directory is marked.
    pub(crate) fn identify(&self, id: NodeId, ino: u64, identity: Identity) {
        let mut state = self.lock();
        let Some(kind) = state.engine.tree().kind(id) else { return };
        state.engine.identify(id, identity.fid.clone(), ino);
        if identity.mounted {
            state.engine.mounted(id);
            if state.announces_submounts && kind == FileKind::Directory {
                state.engine.announced(id);
            }
        }
        if let Some(fd) = identity.fd.filter(|_| kind == FileKind::Directory) {
            self.mark_known(&mut state, id, fd, &identity.fid);
        }
    }

    /// A directory that was loaded could not be found: it cannot be watched, and not be listed as long as that is so.
    pub(crate) fn unidentified(&self, id: NodeId) {
        self.not_identified(&mut self.lock(), id);
    }

    fn not_identified(&self, state: &mut State, id: NodeId) {
        state.engine.input(Instant::now(), Input::Unwatched(id));
        self.wake_for_work(state);
        tracing::debug!(%id, "a directory could not be identified and is not watched");
    }

    /// [`Engine::links_named`](farwatch_proto::host::Engine::links_named).
    pub(crate) fn links_named(&self, id: NodeId, links: u32) -> u32 {
        self.lock().engine.links_named(id, links)
    }

    /// [`Engine::links_told`](farwatch_proto::host::Engine::links_told).
    pub(crate) fn links_told(&self, id: NodeId, links: u32) -> u32 {
        if self.agent_tid().is_none() {
            return links;
        }
        self.lock().engine.links_told(id, links)
    }

    /// What the guest's kernel holds under a name.
    pub(crate) fn held_at(&self, dir: NodeId, name: &Name) -> Option<Held> {
        let engine = &self.lock().engine;
        let id = engine.tree().current(dir, name)?;
        Some(Held {
            ino: engine.tree().ino(id)?,
            links: engine.links_given(id),
            has_more_links: engine.has_more_links(id),
        })
    }

    /// A descriptor of a known directory, which `open` makes if none is at hand.
    pub(crate) fn dir(
        &self,
        id: NodeId,
        open: impl FnOnce() -> Option<OwnedFd>,
    ) -> Option<Arc<OwnedFd>> {
        if let Some(fd) = self.lock().dirs.at_hand(id) {
            return Some(fd);
        }
        let fd = open()?;
        let mut state = self.lock();
        state.engine.tree().knows(id).then(|| state.dirs.insert(id, fd))
    }

    /// A descriptor of a known directory. If none is at hand it is looked for where the guest knows it,
    /// and taken only if it is found there.
    pub(super) fn open_known_dir(&self, id: NodeId) -> Option<Arc<OwnedFd>> {
        self.open_below(id, DEPTH_MAX)
    }

    fn open_below(&self, id: NodeId, depth: usize) -> Option<Arc<OwnedFd>> {
        self.dir(id, || {
            let (dir, name, fid) = {
                let state = self.lock();
                let tree = state.engine.tree();
                let (dir, name) = tree.entry(id)?;
                (dir, name.clone(), tree.fid(id)?)
            };
            let dir = self.open_below(dir, depth.checked_sub(1)?)?;
            let path_only = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&*dir, name.as_bytes(), path_only, Mode::empty()).ok()?;
            (self.fid(fd.as_fd()).ok()? == fid).then_some(fd)
        })
    }

    /// LOOKUP has found node `id` under `name`, and the reply is about to go out. A directory is marked
    /// before this returns, so no change in it falls between the reply and the mark.
    ///
    /// `identity` is asked for only when the node is new to the tree. Returns what the guest may keep of the reply.
    pub(crate) fn learn(
        &self,
        id: NodeId,
        attr: &Attr,
        dir: NodeId,
        name: &Name,
        identity: impl FnOnce() -> Option<Identity>,
    ) -> Keep {
        let kind = FileKind::from_mode(attr.mode);
        let known = Learned { id, fid: None, kind, ino: attr.ino };
        {
            let mut state = self.lock();
            if state.engine.tree().knows(id) {
                state.engine.learn(known, dir, name);
                state.note_announced(id, attr);
                return self.keeps(&mut state, dir, id, attr.nlink);
            }
        }
        let identity = identity();
        let mut state = self.lock();
        let fid = identity.as_ref().map(|identity| identity.fid.clone());
        let new = state.engine.learn(Learned { fid, ..known }, dir, name);
        if new && identity.as_ref().is_some_and(|identity| identity.mounted) {
            state.engine.mounted(id);
        }
        state.note_announced(id, attr);
        if !new || kind != FileKind::Directory {
            let fid = identity.map(|identity| identity.fid).filter(|_| new);
            if let (Some(fid), Some(backend)) = (fid, &self.backend) {
                backend.learned(fid, attr.nlink, state.engine.tree());
            }
            return self.keeps(&mut state, dir, id, attr.nlink);
        }
        match identity.and_then(|identity| identity.fd.zip(Some(identity.fid))) {
            Some((fd, fid)) => self.mark_known(&mut state, id, fd, &fid),
            None => self.not_identified(&mut state, id),
        }
        self.keeps(&mut state, dir, id, attr.nlink)
    }

    /// LOOKUP has found nothing under `name`.
    pub(crate) fn learn_missing(&self, dir: NodeId, name: &Name) {
        self.lock().engine.learn_missing(dir, name);
    }

    /// The guest gives `count` references back. Returns the nodes that are gone with them, each with
    /// the number of references of ours that go too. The mark of a directory goes; `open` opens one
    /// of which no descriptor is at hand.
    pub(crate) fn forget(
        &self,
        id: NodeId,
        count: u64,
        open: impl Fn(NodeId) -> Option<OwnedFd>,
    ) -> Vec<(NodeId, u64)> {
        let mut state = self.lock();
        let forgotten = state.engine.forget(id, count);
        for node in &forgotten {
            state.unmarked.remove(node.id);
            let dir = state.dirs.remove(node.id);
            let Some(fid) = node.fid.as_ref().filter(|_| node.kind == FileKind::Directory) else {
                continue;
            };
            // Another mount of the same directory has the same mark.
            if state.engine.tree().nodes_of(fid).is_empty() {
                self.unmark(fid, || dir.or_else(|| open(node.id).map(Arc::new)));
            }
        }
        if !forgotten.is_empty() && !state.unmarked.is_empty() {
            self.mark_others(&mut state, open);
        }
        forgotten.into_iter().map(|node| (node.id, node.borrowed)).collect()
    }
}

impl State {
    /// The reply that names a node tells the guest's kernel that it is mounted on its name.
    fn note_announced(&mut self, id: NodeId, attr: &Attr) {
        if attr.flags & fuse::ATTR_SUBMOUNT != 0 {
            self.engine.announced(id);
        }
    }
}
