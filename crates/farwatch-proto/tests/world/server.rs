// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Server`]: the state of the daemon, and the only part of the world that calls the engine and the
//! observer: a change of their interface is a change of this file. Each function is one critical
//! section of the daemon (`share.rs`). `interposer`, `marked` and `watcher` call them, and let other
//! tasks run in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use farwatch_proto::host::inotify::{
    CallId, Doubt, Drained, Expected, Found, Looks, Mark, Observer, Report,
};
use farwatch_proto::host::{
    Answer, Ending, Engine, HostChange, HostEntry, Input, Learned, MarkedRequest, Output,
    OwnChange, Progress, Ticket,
};
use farwatch_proto::wire::Notification;
use farwatch_proto::{Fid, FileKind, Mask, Name, NodeId, Seq};

use crate::backend::Backend;
use crate::barrier::Passing;
use crate::config::{Client, Config, Watched};
use crate::host::{Host, Obj, fid};
use crate::library::Library;
use crate::sim::World;
use crate::vfs::Side;

/// The thread that opens the control node.
const AGENT: u32 = 42;

/// See the module's documentation.
pub(crate) struct Server {
    pub(crate) engine: Engine,
    observer: Option<Observer>,
    pub(crate) library: Library,
    /// Directories of which a descriptor is at hand (`share::Dirs`).
    dirs: BTreeMap<NodeId, Obj>,
    /// The directory whose place the agent's kernel looks for (`fs/reconnect.rs`).
    pub(crate) reconnects: Option<NodeId>,
    /// Programs in the guest that were answered with ESTALE and have not repeated their call
    /// (`fs/stale.rs`).
    stale_told: BTreeSet<&'static str>,
    pub(crate) passing: Passing,
    /// There may be something for the watch thread beside the kernel's queue.
    pub(crate) work: bool,
}

/// What the file server does for its guest.
impl Server {
    pub(crate) fn new(config: &Config, root: Obj) -> Self {
        let mut engine = Engine::default();
        if let Some(len_max) = config.backlog_max {
            engine.limit_backlog(len_max);
        }
        if config.watched == Watched::ByFanotify {
            engine.expect_merges();
        }
        engine.reset(Some(fid(root)));
        let observer = (config.watched == Watched::ByInotify).then(|| Observer::new(true));
        Self {
            engine,
            observer,
            library: Library::new(root),
            dirs: BTreeMap::from([(NodeId::ROOT, root)]),
            reconnects: None,
            stale_told: BTreeSet::new(),
            passing: Passing::default(),
            work: false,
        }
    }

    /// How many nodes the guest knows, the root among them.
    pub(crate) fn tree_len(&self) -> usize {
        self.engine.tree().len()
    }

    /// The object of a directory, by a descriptor that is at hand.
    pub(crate) fn dir(&self, node: NodeId) -> Option<Obj> {
        self.dirs.get(&node).copied()
    }

    /// `Share::learn()`, its first part: the reply names a node that the guest knows.
    pub(crate) fn learn_known(&mut self, learned: &Learned, dir: NodeId, name: &Name) -> bool {
        let known = self.engine.tree().knows(learned.id);
        if known {
            self.engine.learn(learned.clone(), dir, name);
        }
        known
    }

    /// Its second part: it is new, and was found to be `identity`. A directory is watched.
    pub(crate) fn learn_new(
        &mut self,
        learned: &Learned,
        dir: NodeId,
        name: &Name,
        (identity, nlink): (Option<Obj>, u32),
        host: &mut Host,
    ) {
        let (id, kind) = (learned.id, learned.kind);
        let learned = Learned { fid: identity.map(fid), ..learned.clone() };
        let new = self.engine.learn(learned, dir, name);
        let Some(object) = identity.filter(|_| new) else { return };
        if kind == FileKind::Directory {
            self.mark(object, host);
            self.dirs.insert(id, object);
        } else if let Some(observer) = &mut self.observer {
            observer.learn(fid(object), nlink, self.engine.tree());
        }
    }

    /// Has the host's kernel report what happens in a directory.
    pub(crate) fn mark(&mut self, dir: Obj, host: &mut Host) {
        if let Some(watch) = host.backend.mark(dir)
            && let Some(observer) = &mut self.observer
        {
            observer.watch(watch, fid(dir));
        }
    }

    fn unmark(&mut self, dir: Obj, host: &mut Host) {
        match (&mut host.backend, &mut self.observer) {
            (Backend::Inotify(inotify), Some(observer)) => {
                if let Some(watch) = observer.unwatch(&fid(dir))
                    && !inotify.remove(watch)
                {
                    observer.was_gone(watch);
                }
            }
            (Backend::Fanotify(fanotify), _) => fanotify.unmark(dir),
            (Backend::Inotify(_), None) => unreachable!("inotify comes with an observer"),
        }
    }

    /// `Share::forget()`
    pub(crate) fn forget(&mut self, id: NodeId, count: u64, host: &mut Host) {
        for gone in self.engine.forget(id, count) {
            if let Some(dir) = self.dirs.remove(&gone.id)
                && self.engine.tree().nodes_of(&fid(dir)).is_empty()
            {
                self.unmark(dir, host);
            }
            self.library.give_back(gone.id, gone.borrowed);
        }
    }

    /// `Share::expect()`: a call for the guest is about to be made. The entries are named by nodes.
    pub(crate) fn expect(
        &mut self,
        entries: &[(NodeId, &Name, Mask)],
        objects: &[(NodeId, Mask)],
    ) -> Option<CallId> {
        let observer = self.observer.as_mut()?;
        let tree = self.engine.tree();
        let entries = entries.iter().filter_map(|(dir, name, mask)| {
            let entry = HostEntry { dir: tree.fid(*dir)?, name: (*name).clone() };
            Some((Expected::Entry(entry), *mask))
        });
        let object =
            |(node, mask): &(NodeId, Mask)| Some((Expected::Object(tree.fid(*node)?), *mask));
        let expected: Vec<_> = entries.chain(objects.iter().filter_map(object)).collect();
        (!expected.is_empty()).then(|| observer.expect(expected, tree))
    }

    /// `Share::end_if_quiet()`
    pub(crate) fn end_if_quiet(
        &mut self,
        world: &World,
        call: CallId,
        succeeded: bool,
        host: &Host,
    ) -> bool {
        let idle = self.observer.as_ref().is_some_and(Observer::is_idle);
        if !idle || !host.backend.is_empty() {
            return false;
        }
        self.end(world, call, succeeded, None);
        self.observer.iter_mut().for_each(Observer::found_empty);
        true
    }

    /// The call has returned; its object's `ctime` was `changed` then.
    pub(crate) fn end(
        &mut self,
        world: &World,
        call: CallId,
        succeeded: bool,
        changed: Option<Duration>,
    ) {
        let Some(observer) = &mut self.observer else { return };
        let lost = observer.end(call, succeeded, changed.map(crate::sim::wall));
        for dir in lost {
            self.input(world, Input::Lost(dir));
        }
        self.work |= self.engine.has_work();
    }

    /// A program in the guest has changed names.
    pub(crate) fn own(&mut self, change: OwnChange<'_>) {
        self.engine.guest_changed(change);
        self.work |= self.engine.is_native() && self.engine.has_work();
    }

    /// The answer to a LOOKUP of a program in the guest was that the name does not exist.
    pub(crate) fn own_absent(&mut self, dir: NodeId, name: &Name) {
        self.engine.learn_missing(dir, name);
    }
}

/// What the guest's kernel holds under its names.
impl Server {
    /// `Share::current()`
    pub(crate) fn current(&self, dir: NodeId, name: &Name) -> Option<NodeId> {
        self.engine.tree().current(dir, name)
    }

    /// `Share::links_named()`
    pub(crate) fn links_named(&mut self, id: NodeId, links: u32) -> u32 {
        self.engine.links_named(id, links)
    }

    /// `Share::links_told()`
    pub(crate) fn links_told(&mut self, id: NodeId, links: u32) -> u32 {
        self.engine.links_told(id, links)
    }

    /// `Stale::check()`: whether the kernel is to look these entries up again before a program's call
    /// changes them. A program is not told twice in a row, since the kernel repeats a call only once.
    pub(crate) fn tells_stale(
        &mut self,
        program: &'static str,
        entries: &[Side<'_>],
        host: &Host,
    ) -> bool {
        if self.stale_told.remove(program) || !entries.iter().any(|at| self.is_stale(*at, host)) {
            return false;
        }
        self.stale_told.insert(program)
    }

    /// `is_stale()`: whether the host has another object under the name than the guest's kernel, or that
    /// has a link count that was made up for it.
    fn is_stale(&self, (dir, name): Side<'_>, host: &Host) -> bool {
        let tree = self.engine.tree();
        let Some(held) = tree.current(dir, name).filter(|id| tree.ino(*id).is_some()) else {
            return false;
        };
        if self.engine.has_more_links(held) {
            return true;
        }
        let Some(found) = self.dir(dir).and_then(|dir| host.at(dir, name)) else { return true };
        let links = host.object(found).links();
        self.library.object(held) != Some(found)
            || self.engine.links_given(held).is_some_and(|given| given < links)
    }

    /// `Share::ending_at()`
    pub(crate) fn ending_at(&self, seq: Seq, (dir, name): Side<'_>) -> Option<Ending> {
        self.engine.ending(seq, dir, name)
    }

    /// `Share::mistaken_ending()`
    pub(crate) fn mistaken_ending(
        &self,
        seq: Seq,
        at: Side<'_>,
        id: NodeId,
        links: u32,
    ) -> Option<Ending> {
        self.engine.mistaken_ending(seq, at, id, links)
    }

    /// `Share::ended()`
    pub(crate) fn ended(&mut self, (dir, name): Side<'_>, id: NodeId) {
        self.engine.ended(dir, name, id);
    }
}

/// The agent, and the notifications for it.
impl Server {
    /// It opens the control node, and is welcome.
    pub(crate) fn listen(&mut self, world: &World) {
        match world.config.client {
            Client::Agent => self.engine.attach(AGENT),
            Client::Module => self.engine.attach(AGENT).inspect(|()| self.engine.raises()),
            Client::Kernel => self.engine.attach_kernel(true),
        }
        .expect("one client at a time");
        self.engine.listen(world.wall());
    }

    /// FUSE_FSNOTIFY, where the guest's kernel says what is watched.
    pub(crate) fn watch(&mut self, id: NodeId) {
        if self.engine.watched_len().is_some() {
            let node = self.engine.tree().node(id);
            let watched = self.engine.watch(node, Mask::DEFAULT.bits(), true);
            watched.expect("the guest knows it");
        }
    }

    pub(crate) fn detach(&mut self) {
        self.engine.detach();
    }

    pub(crate) fn asked(&mut self, world: &World) {
        self.engine.input(world.now(), Input::Asked);
    }

    /// Whether there is something to send, of which the watch thread was not asked to look at it.
    pub(crate) fn can_send(&self) -> bool {
        self.engine.has_next() && (!self.work || !self.engine.is_look_pending())
    }

    pub(crate) fn is_look_pending(&self) -> bool {
        self.engine.is_look_pending()
    }

    pub(crate) fn send(&mut self) -> Option<Notification> {
        let sent = self.engine.send();
        self.work |= self.engine.has_work();
        sent
    }

    pub(crate) fn answer(&mut self, seq: Option<Seq>, request: MarkedRequest<'_>) -> Answer {
        let answer = self.engine.answer(seq, request);
        self.work |= self.engine.has_work();
        answer
    }

    /// A node that a replay names without having asked the file server for it.
    pub(crate) fn lend(&mut self, id: NodeId, dir: NodeId, name: &Name) -> Option<FileKind> {
        if self.engine.lend(id, dir, name) { self.engine.tree().kind(id) } else { None }
    }

    /// The agent's kernel looks for the node of a probe, which does not exist.
    pub(crate) fn probed(&mut self, node: NodeId) {
        self.work |= self.engine.probe_seen(node);
    }

    pub(crate) fn phantom(&mut self, dir: NodeId, name: &Name, kind: FileKind) -> NodeId {
        self.engine.phantom(dir, name, kind).id
    }
}

/// What the watch thread does.
impl Server {
    pub(crate) fn begin(&mut self) -> Option<Mark> {
        self.observer.as_mut().map(Observer::begin)
    }

    pub(crate) fn reported(&mut self, world: &World, reports: Vec<Report>) -> Looks {
        let Some(observer) = &mut self.observer else { return Looks::default() };
        observer.handle(world.now(), reports);
        observer.looks(self.engine.tree())
    }

    pub(crate) fn read_on(&mut self, world: &World, reports: Vec<Report>) {
        if let Some(observer) = &mut self.observer {
            observer.read_on(world.now(), reports);
        }
    }

    pub(crate) fn changes(&mut self, found: &Found) -> (Vec<HostChange>, Vec<Doubt>) {
        let Some(observer) = &mut self.observer else { return (Vec::new(), Vec::new()) };
        let changes = observer.changes(self.engine.tree(), found);
        (changes, observer.doubts())
    }

    pub(crate) fn settled(&mut self, object: &Fid) {
        self.observer.iter_mut().for_each(|observer| observer.settled(object));
    }

    /// How much the observer has taken in, and whether it has reported all that it had at a position.
    pub(crate) fn position(&self) -> u64 {
        self.observer.as_ref().map_or(0, Observer::position)
    }

    pub(crate) fn has_reported(&self, position: u64) -> bool {
        self.observer.as_ref().is_none_or(|observer| observer.has_told(position))
    }

    pub(crate) fn hand_in(&mut self, world: &World, changes: Vec<HostChange>) {
        for change in changes {
            self.input(world, Input::Change(change));
        }
    }

    /// The queue was empty after `mark`.
    pub(crate) fn drained(&mut self, mark: Mark) -> Option<Drained> {
        self.observer.as_mut()?.drained(mark)
    }

    pub(crate) fn in_step(&mut self, world: &World, since: Duration) {
        self.input(world, Input::Drained(crate::sim::wall(since)));
    }

    /// Takes in anything else that the thread has found out.
    pub(crate) fn input(&mut self, world: &World, input: Input) {
        self.engine.input(world.now(), input);
    }

    /// What to do next.
    pub(crate) fn poll_output(&mut self, world: &World) -> Output {
        self.engine.poll_output(world.now())
    }

    /// A program waits until everything up to now has been delivered. `None` while no agent listens.
    pub(crate) fn ask_barrier(&mut self) -> Option<Ticket> {
        self.work = true;
        self.engine.ask_barrier()
    }

    pub(crate) fn progress(&self, ticket: Ticket) -> Progress {
        self.engine.progress(ticket)
    }

    /// The kernel's queue is about to be read, with so much in it.
    pub(crate) fn begin_passing(&mut self, queued: usize) {
        let mark = self.engine.to_read();
        self.passing.begin(mark, queued);
    }

    /// What was read up to a mark has been handed in.
    pub(crate) fn pass(&mut self, world: &World) {
        if let Some(mark) = self.passing.handed_in() {
            self.input(world, Input::ReadUpTo(mark));
        }
    }

    /// When half of a rename has waited long enough.
    pub(crate) fn half_timeout(&self) -> Option<Instant> {
        self.observer.as_ref().and_then(Observer::poll_timeout)
    }
}
