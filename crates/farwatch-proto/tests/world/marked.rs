// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the daemon serves a request with both tags of an agent: `fs/marked.rs`. The engine decides the
//! answer, this makes it. Nothing here changes the host.

use std::time::Duration;

use farwatch_proto::host::{Answer, Ending, Engine, Learned, MarkedRequest, Object, Refusal};
use farwatch_proto::replay::{OpenMode, Times};
use farwatch_proto::{FileKind, Name, NodeId, Seq};

use crate::dcache::EntryOut;
use crate::host::{Errno, Way, fid};
use crate::sim::World;
use crate::vfs::Side;

fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::NotAsked => Errno::Perm,
        Refusal::NoEntry => Errno::NoEnt,
        Refusal::Stale => Errno::Stale,
    }
}

fn done(answer: &Answer) -> Result<(), Errno> {
    match answer {
        Answer::Done | Answer::Opened => Ok(()),
        Answer::Refused(refusal) => Err(errno(*refusal)),
        Answer::Entry(_) | Answer::Attr(_) => Err(Errno::Perm),
    }
}

/// A link count, with the names that the guest has not lost or got yet.
fn linked(nlink: u32, links: i64) -> u32 {
    let nlink = i64::from(nlink).saturating_add(links).max(0);
    u32::try_from(nlink).unwrap_or(u32::MAX)
}

/// A reply that the guest's kernel keeps no longer than the call that asked for it.
fn passing(node: NodeId, kind: FileKind, nlink: u32) -> EntryOut {
    let (entry_timeout, attr_timeout) = (Duration::ZERO, Duration::ZERO);
    EntryOut { node, kind, nlink, entry_timeout, attr_timeout }
}

/// The attributes of a stand-in; one of no known type is a plain file.
fn stand_in(node: NodeId, kind: FileKind) -> EntryOut {
    match kind {
        FileKind::Directory => passing(node, kind, 2),
        FileKind::Unknown => passing(node, FileKind::Regular, 1),
        FileKind::Fifo
        | FileKind::CharDevice
        | FileKind::BlockDevice
        | FileKind::Regular
        | FileKind::Symlink
        | FileKind::Socket => passing(node, kind, 1),
    }
}

impl World {
    fn ask(&self, seq: Option<Seq>, request: MarkedRequest<'_>) -> Answer {
        let answer = self.server.borrow_mut().answer(seq, request);
        self.note(|| format!("{request:?}, {seq:?}: {answer:?}"));
        answer
    }

    /// `None` when the notification that is replayed says nothing of this entry.
    pub(crate) async fn lookup_marked(
        &self,
        seq: Option<Seq>,
        dir: NodeId,
        name: &Name,
    ) -> Option<Result<EntryOut, Errno>> {
        match self.ask(seq, MarkedRequest::Lookup(dir, name)) {
            Answer::Entry(object) => {
                let object = self.dead_at(seq, (dir, name)).await.unwrap_or(object);
                Some(self.entry_of(seq, (dir, name), object).await)
            }
            Answer::Refused(Refusal::NoEntry) if self.replaces(seq, (dir, name)) => {
                match self.dead_at(seq, (dir, name)).await {
                    Some(object) => Some(self.entry_of(seq, (dir, name), object).await),
                    None => Some(Err(Errno::NoEnt)),
                }
            }
            Answer::Refused(Refusal::NotAsked) => {
                let node = self.reconnected(dir, name)?;
                let object = Object::Known { id: node, links: 0, here: true };
                let found = self.entry_of(seq, (dir, name), object).await;
                Some(found.map(|entry| EntryOut { nlink: entry.nlink.max(1), ..entry }))
            }
            Answer::Refused(refusal) => Some(Err(errno(refusal))),
            Answer::Attr(_) | Answer::Opened | Answer::Done => Some(Err(Errno::Perm)),
        }
    }

    pub(crate) async fn make_marked(
        &self,
        seq: Option<Seq>,
        (dir, name): Side<'_>,
        kind: FileKind,
    ) -> Result<EntryOut, Errno> {
        let answer = self.ask(seq, MarkedRequest::Create(dir, name, kind));
        self.entry_or_refusal(seq, (dir, name), answer).await
    }

    pub(crate) async fn create_open_marked(
        &self,
        seq: Option<Seq>,
        (dir, name): Side<'_>,
    ) -> Result<EntryOut, Errno> {
        let answer = self.ask(seq, MarkedRequest::CreateOpen(dir, name));
        self.entry_or_refusal(seq, (dir, name), answer).await
    }

    pub(crate) async fn link_marked(
        &self,
        seq: Option<Seq>,
        node: NodeId,
        (dir, name): Side<'_>,
    ) -> Result<EntryOut, Errno> {
        let answer = self.ask(seq, MarkedRequest::Link(node, dir, name));
        self.entry_or_refusal(seq, (dir, name), answer).await
    }

    pub(crate) async fn remove_marked(
        &self,
        seq: Option<Seq>,
        (dir, name): Side<'_>,
        directory: bool,
    ) -> Result<(), Errno> {
        self.look_again_at_links(seq, Engine::removes_unasked).await?;
        let removed = self.server.borrow().current(dir, name);
        self.step().await;
        done(&self.ask(seq, MarkedRequest::Remove(dir, name, directory)))?;
        self.step().await;
        if let Some(id) = removed {
            self.server.borrow_mut().ended((dir, name), id);
        }
        Ok(())
    }

    pub(crate) async fn rename_marked(
        &self,
        seq: Option<Seq>,
        from: Side<'_>,
        to: Side<'_>,
        way: Way,
    ) -> Result<(), Errno> {
        assert_eq!(way, Way::Over, "an agent exchanges nothing");
        let (moved, replaced) = {
            let server = self.server.borrow();
            (server.current(from.0, from.1), server.current(to.0, to.1))
        };
        if to.0 != NodeId::LIMBO && replaced != moved {
            self.step().await;
            self.look_again_at_links(seq, Engine::replaces_unasked).await?;
        }
        self.step().await;
        done(&self.ask(seq, MarkedRequest::Rename(from.0, from.1, to.0, to.1)))?;
        self.step().await;
        if let Some(id) = replaced.filter(|_| replaced != moved) {
            self.server.borrow_mut().ended(to, id);
        }
        Ok(())
    }

    /// SETATTR of times
    pub(crate) async fn serve_set_times(
        &self,
        seq: Option<Seq>,
        node: NodeId,
        times: Times,
    ) -> Result<EntryOut, Errno> {
        self.step().await;
        let reply = match self.ask(seq, MarkedRequest::SetTimes(node, times)) {
            Answer::Attr(Object::Phantom(kind)) => Ok(stand_in(node, kind)),
            Answer::Attr(_) => Ok(self.attr_of(node, 0)),
            Answer::Refused(refusal) => Err(errno(refusal)),
            Answer::Entry(_) | Answer::Opened | Answer::Done => Err(Errno::Perm),
        };
        self.step().await;
        reply
    }

    /// OPEN
    pub(crate) async fn serve_open_marked(
        &self,
        seq: Option<Seq>,
        node: NodeId,
        mode: OpenMode,
    ) -> Result<(), Errno> {
        self.step().await;
        let reply = done(&self.ask(seq, MarkedRequest::Open(node, mode)));
        self.step().await;
        reply
    }

    /// GETATTR: what the agent's kernel is to hear of something on its way to another.
    pub(crate) fn getattr_marked(
        &self,
        node: NodeId,
        reply: Result<EntryOut, Errno>,
    ) -> Result<EntryOut, Errno> {
        if node == NodeId::LIMBO {
            return Ok(stand_in(node, FileKind::Directory));
        }
        if let Some(kind) = node.phantom_kind() {
            return Ok(stand_in(node, kind));
        }
        let entry = match reply {
            Err(_) => self.attr_of(node, 0),
            Ok(entry) if entry.kind != FileKind::Directory => {
                return Ok(EntryOut { attr_timeout: Duration::ZERO, ..entry });
            }
            Ok(entry) => entry,
        };
        let directory = entry.kind == FileKind::Directory;
        Ok(EntryOut { nlink: if directory { entry.nlink.max(1) } else { entry.nlink }, ..entry })
    }

    async fn entry_or_refusal(
        &self,
        seq: Option<Seq>,
        at: Side<'_>,
        answer: Answer,
    ) -> Result<EntryOut, Errno> {
        match answer {
            Answer::Entry(object) => self.entry_of(seq, at, object).await,
            Answer::Refused(refusal) => Err(errno(refusal)),
            Answer::Attr(_) | Answer::Opened | Answer::Done => Err(Errno::Perm),
        }
    }

    async fn entry_of(
        &self,
        seq: Option<Seq>,
        at: Side<'_>,
        object: Object,
    ) -> Result<EntryOut, Errno> {
        self.step().await;
        Ok(match object {
            Object::Known { id, links, here: true } => {
                if let Some(entry) = self.found_here(at, |entry| entry.node == id).await {
                    self.step().await;
                    let entry = EntryOut { nlink: linked(entry.nlink, links), ..entry };
                    return Ok(self.learn(at.0, at.1, entry).await);
                }
                match self.known(at, id, links) {
                    Some(entry) => entry,
                    None => self.adopt(seq, at, self.kind_of(seq)).await,
                }
            }
            // The end of a node that may be gone.
            Object::Known { id, .. } if self.is_end(seq, at) && self.links(id) > 0 => {
                return Err(Errno::NoEnt);
            }
            Object::Known { id, links, here: false } => {
                let ending = self.mistaken_end(seq, at, id).await;
                self.step().await;
                match ending {
                    Some(Ending::Replaced) => {
                        self.server.borrow_mut().own_absent(at.0, at.1);
                        return Err(Errno::NoEnt);
                    }
                    Some(Ending::Removed) => {
                        let kind = self.server.borrow().engine.tree().kind(id).unwrap_or_default();
                        self.phantom(at, kind)
                    }
                    None => {
                        let known = self.known(at, id, links);
                        known.unwrap_or_else(|| self.phantom(at, self.kind_of(seq)))
                    }
                }
            }
            Object::Adopt(kind) => self.adopt(seq, at, kind).await,
            Object::Phantom(kind) => self.phantom(at, kind),
            Object::Limbo => stand_in(NodeId::LIMBO, FileKind::Directory),
        })
    }

    /// The file server's own entry, if it is the one that the replay is about.
    async fn found_here(
        &self,
        (dir, name): Side<'_>,
        is_it: impl FnOnce(&EntryOut) -> bool,
    ) -> Option<EntryOut> {
        let entry = self.inner_lookup(dir, name).ok()?;
        self.step().await;
        if is_it(&entry) {
            return Some(EntryOut { attr_timeout: Duration::ZERO, ..entry });
        }
        self.server.borrow_mut().library.give_back(entry.node, 1);
        None
    }

    /// A node that the guest knows, by a name that need not lead to it any more.
    fn known(&self, (dir, name): Side<'_>, id: NodeId, links: i64) -> Option<EntryOut> {
        let kind = self.server.borrow_mut().lend(id, dir, name)?;
        let brief = if kind == FileKind::Directory { Self::BRIEF } else { Duration::ZERO };
        let entry = self.attr_of(id, links);
        Some(EntryOut { entry_timeout: brief, attr_timeout: Duration::ZERO, ..entry })
    }

    /// What the guest was told of under a name that the replay ends, and what is gone on the host.
    async fn dead_at(&self, seq: Option<Seq>, (dir, name): Side<'_>) -> Option<Object> {
        let nodes = self.server.borrow().engine.ending_nodes(seq?, dir, name);
        for id in nodes {
            self.step().await;
            if self.links(id) == 0 {
                return Some(Object::Known { id, links: 1, here: false });
            }
        }
        None
    }

    fn replaces(&self, seq: Option<Seq>, at: Side<'_>) -> bool {
        seq.and_then(|seq| self.server.borrow().ending_at(seq, at)) == Some(Ending::Replaced)
    }

    /// Whether the replay ends a node without a name.
    fn is_end(&self, seq: Option<Seq>, at: Side<'_>) -> bool {
        let is_ended = || seq.and_then(|seq| self.server.borrow().ending_at(seq, at)).is_some();
        at.0 == NodeId::LIMBO && is_ended()
    }

    /// The kernel is about to take a name from an object for whose link count it has not asked. If that
    /// lives, or was given a count that is too high by now, it is to ask first.
    async fn look_again_at_links(
        &self,
        seq: Option<Seq>,
        loses: impl FnOnce(&Engine, Seq) -> Option<NodeId>,
    ) -> Result<(), Errno> {
        let Some(seq) = seq else { return Ok(()) };
        let Some(id) = loses(&self.server.borrow().engine, seq) else { return Ok(()) };
        self.step().await;
        let lives = self.links(id) > 0;
        self.step().await;
        if lives || self.server.borrow().engine.has_more_links(id) {
            self.step().await;
            self.server.borrow_mut().engine.told_stale(seq);
            return Err(Errno::Stale);
        }
        Ok(())
    }

    /// How the replay would end an object by mistake.
    async fn mistaken_end(&self, seq: Option<Seq>, at: Side<'_>, id: NodeId) -> Option<Ending> {
        let links = self.links(id);
        self.step().await;
        self.server.borrow().mistaken_ending(seq?, at, id, links)
    }

    /// The names that an object has on the host.
    fn links(&self, id: NodeId) -> u32 {
        self.inner_getattr(id).map_or(0, |entry| entry.nlink)
    }

    fn kind_of(&self, seq: Option<Seq>) -> FileKind {
        seq.map(|seq| self.server.borrow().engine.kind_of(seq)).unwrap_or_default()
    }

    /// Makes an object known to the guest if it is still where the change left it.
    async fn adopt(&self, seq: Option<Seq>, at: Side<'_>, kind: FileKind) -> EntryOut {
        self.step().await;
        let object = seq.and_then(|seq| self.server.borrow().engine.object_of(seq).cloned());
        let Some(wanted) = object else { return self.phantom(at, kind) };
        let mut identity = None;
        let found = self.found_here(at, |entry| {
            let fits = entry.kind == kind
                || (kind == FileKind::Unknown && entry.kind != FileKind::Directory);
            identity = if fits { self.identify(at.0, at.1, entry) } else { None };
            identity.is_some_and(|identity| fid(identity) == wanted)
        });
        let Some(entry) = found.await else { return self.phantom(at, kind) };
        self.step().await;
        let learned =
            Learned { id: entry.node, fid: None, kind: entry.kind, ino: entry.node.get() };
        let (server, host) = (&mut *self.server.borrow_mut(), &mut *self.host.borrow_mut());
        if !server.learn_known(&learned, at.0, at.1) {
            server.learn_new(&learned, at.0, at.1, (identity, entry.nlink), host);
        }
        entry
    }

    fn phantom(&self, (dir, name): Side<'_>, kind: FileKind) -> EntryOut {
        stand_in(self.server.borrow_mut().phantom(dir, name, kind), kind)
    }

    /// What is true of a known node now, with so many links more.
    fn attr_of(&self, node: NodeId, links: i64) -> EntryOut {
        let entry = match self.inner_getattr(node) {
            Ok(entry) => entry,
            Err(_) => {
                let kind = self.server.borrow().engine.tree().kind(node).unwrap_or_default();
                EntryOut { nlink: 0, ..stand_in(node, kind) }
            }
        };
        let nlink = linked(entry.nlink, links);
        let nlink = self.server.borrow_mut().links_named(node, nlink);
        EntryOut { nlink, attr_timeout: Duration::ZERO, ..entry }
    }

    /// The attributes of a node for anybody but the agent, with the link count that the guest is to have
    /// now. The kernel keeps one that is not the host's no longer than it must.
    pub(crate) fn as_told(&self, entry: EntryOut) -> EntryOut {
        let nlink = self.server.borrow_mut().links_told(entry.node, entry.nlink);
        if nlink == entry.nlink {
            return entry;
        }
        EntryOut { nlink, attr_timeout: Duration::ZERO, ..entry }
    }

    /// `fs/reconnect.rs`: the node whose place the agent's kernel looks for, if this is it.
    fn reconnected(&self, dir: NodeId, name: &Name) -> Option<NodeId> {
        let server = self.server.borrow();
        let child = server.reconnects?;
        let (parent, known_as) = server.engine.tree().entry(child)?;
        (parent == dir && known_as == name).then_some(child)
    }

    /// LOOKUP of `..`: the place of a directory in the view of the guest.
    pub(crate) async fn serve_parent(&self, node: NodeId) -> Result<EntryOut, Errno> {
        self.step().await;
        let parent = {
            let server = &mut *self.server.borrow_mut();
            server.reconnects = Some(node);
            let parent = server.engine.tree().parent(node).unwrap_or(NodeId::ROOT);
            server.engine.lend_dot(parent).then_some(parent).ok_or(Errno::Stale)?
        };
        self.step().await;
        let entry = match self.inner_getattr(parent) {
            Ok(entry) => EntryOut { nlink: entry.nlink.max(1), ..entry },
            Err(error) => {
                self.serve_forget(parent, 1);
                return Err(error);
            }
        };
        self.note(|| format!("LOOKUP {node}/..: {parent}"));
        self.step().await;
        Ok(EntryOut { entry_timeout: Duration::ZERO, ..entry })
    }

    /// READDIR of a directory in which the agent's kernel looks for the name of another.
    pub(crate) async fn serve_name(&self, dir: NodeId) -> Option<Name> {
        self.step().await;
        let name = {
            let server = self.server.borrow();
            let (parent, name) = server.engine.tree().entry(server.reconnects?)?;
            (parent == dir).then(|| name.clone())
        };
        self.step().await;
        name
    }

    /// LOOKUP of `.`: a node of which the guest's kernel has no inode, as for `open_by_handle_at(2)`.
    pub(crate) async fn serve_dot(&self, node: NodeId) -> Result<EntryOut, Errno> {
        self.step().await;
        if node.is_reserved() {
            self.server.borrow_mut().probed(node);
            return Err(Errno::Stale);
        }
        if !self.server.borrow_mut().engine.lend_dot(node) {
            return Err(Errno::Stale);
        }
        self.step().await;
        let reply = match self.inner_getattr(node) {
            Ok(entry) => EntryOut { nlink: entry.nlink.max(1), ..entry },
            Err(error) => {
                self.serve_forget(node, 1);
                return Err(error);
            }
        };
        self.step().await;
        Ok(EntryOut { entry_timeout: Duration::ZERO, ..reply })
    }
}
