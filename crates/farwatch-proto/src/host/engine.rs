// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Engine`]: host changes in, notifications out, and an answer for every marked request.

use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;

use super::backlog::{Backlog, Look, Moves, Pending};
use super::barrier::{Barriers, Owed, Progress, Ticket};
use super::change::{HostChange, HostEntry};
use super::contested::{Check, Checked, Contested, Difference, Reported};
use super::ledger::{Answer, Ledger, MarkedRequest, Object, Refusal};
use super::net::{Change, Listed, Listing, Net, Nets, Rescan};
use super::split::{Split, split};
use super::state::State;
use super::tree::{Shown, Tree};
use crate::wire::Notification;
use crate::wire::abi::FARWATCH_LIMBO_NAME;
use crate::{Cookie, Entry, Fid, FileKind, Generation, GuestEvent, Mask, Name, Node, NodeId, Seq};

/// Why an agent was not attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AttachError {
    /// One is attached already (EBUSY).
    #[error("another agent is attached to this mount")]
    Busy,
}

/// Everything that the host side of one share decides. The daemon keeps it under one lock.
///
/// A change becomes an event only while somebody listens: an agent that has been welcomed. Before
/// that there is nobody to tell, and the guest's own watchers see what its own programs do.
#[derive(Debug)]
pub struct Engine {
    /// What the guest knows.
    pub tree: Tree,
    backlog: Backlog,
    nets: Nets,
    ledger: Ledger,
    barriers: Barriers,
    contested: Contested,
    agent: Option<Agent>,
    cookie: Cookie,
    seq: Seq,
    second_half: Option<(Notification, Pending)>,
    phantoms: u64,
    wanted: Mask,
    /// How many links there have been.
    links: u64,
    /// The client was in step with the host up to here, by the host's clock.
    in_step: SystemTime,
    /// An agent of this session has gone, so the next one is owed the difference.
    owes: bool,
    /// The host's watcher merges equal events with others between them.
    merges: bool,
    /// The last notification of which a change of a name has not been replayed, `None` while others wait to
    /// be sent, and since when that is so.
    stuck: Option<(Option<Seq>, Instant)>,
}

/// What the guest has done to names of a directory, and what its kernel tells its watchers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnChange<'a> {
    /// An object came to a name: it was made, or linked.
    Made(NodeId, &'a Name, NodeId),
    /// A name has gone.
    Removed(NodeId, &'a Name),
    /// What was under the first name is under the second, and replaced what was there.
    Renamed((NodeId, &'a Name), (NodeId, &'a Name)),
    /// Two have changed places (`RENAME_EXCHANGE`).
    Exchanged((NodeId, &'a Name), (NodeId, &'a Name)),
}

/// Up to where the kernel's queue is to be read: a moment after which nothing that happened before is
/// missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadMark {
    ticket: Option<Ticket>,
    touch: u64,
}

/// The agent that has the control node open.
#[derive(Debug)]
struct Agent {
    tid: u32,
    listening: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            tree: Tree::default(),
            backlog: Backlog::default(),
            nets: Nets::default(),
            ledger: Ledger::default(),
            barriers: Barriers::default(),
            contested: Contested::default(),
            merges: false,
            stuck: None,
            agent: None,
            cookie: Cookie(NonZeroU32::MIN),
            seq: Seq::FIRST,
            second_half: None,
            phantoms: 0,
            wanted: Mask::DEFAULT,
            links: 0,
            in_step: SystemTime::UNIX_EPOCH,
            owes: false,
        }
    }
}

impl Engine {
    /// How long a replay may take before it is found out, by a probe, whether it came to its end.
    const STUCK_AFTER: Duration = Duration::from_millis(200);

    /// A session begins (FUSE_INIT) or ends: nothing of the one before is left.
    pub fn reset(&mut self, root: Option<Fid>) {
        let generation = Generation(self.tree.generation().0.wrapping_add(1).max(1));
        self.tree.reset(generation, root);
        self.drop_link();
        self.nets.clear();
        self.owes = false;
    }

    /// An agent's thread has opened the control node.
    ///
    /// # Errors
    /// When there is one already.
    pub fn attach(&mut self, tid: u32) -> Result<(), AttachError> {
        if self.agent.is_some() {
            return Err(AttachError::Busy);
        }
        self.agent = Some(Agent { tid, listening: false });
        self.links += 1;
        Ok(())
    }

    /// The agent has said hello and was seen to carry both marks: from now on changes become
    /// notifications, counted from [`Seq::FIRST`]. `now` is by the host's clock; what happened before
    /// is owed to nobody, unless an agent before this one was told less than had happened.
    pub fn listen(&mut self, now: SystemTime) {
        if let Some(agent) = &mut self.agent {
            agent.listening = true;
            if std::mem::take(&mut self.owes) {
                // Of directories, too, that the guest got to know when there was no agent.
                self.nets.lost_track(self.in_step, &self.tree);
            }
            self.nets.drained(now);
            self.in_step = now;
        }
    }

    /// The agent has closed the control node. What it was not told, and what happens until the next
    /// one listens, is left to nets: the difference is what that one is told first.
    pub fn detach(&mut self) {
        if self.is_listening() {
            self.nets.lost_track(self.in_step, &self.tree);
            self.owes = true;
        }
        self.drop_link();
    }

    /// What moves with the guest to another host. `control_opened` is how often the control node was
    /// opened. Nothing changes here: the guest may yet stay.
    pub fn save(&self, control_opened: u64) -> State {
        State {
            generation: self.tree.generation(),
            phantoms: self.phantoms,
            cookie: self.cookie,
            control_opened,
            in_step: self.is_listening().then_some(self.in_step),
            nodes: self.tree.saved_nodes(),
            entries: self.tree.saved_entries(),
            stale: self.nets.saved(),
        }
    }

    /// Takes a guest over from another host. `root` is how this one names the share's directory; every
    /// other object is to be found again ([`Tree::identify`]). If an agent listened there, it is owed
    /// the difference for each directory, since it listens no more.
    pub fn load(&mut self, state: State, root: Option<Fid>) {
        self.drop_link();
        self.tree.load(state.generation, &state.nodes, state.entries, root);
        self.phantoms = state.phantoms;
        self.cookie = state.cookie;
        self.nets.load(state.stale);
        if let Some(in_step) = state.in_step {
            self.nets.lost_track(in_step, &self.tree);
        }
    }

    /// The host's watcher merges equal events with others between them, renames too, as fanotify does
    /// (`fanotify_merge()`): what follows from a rename is compared with the host.
    pub fn expect_merges(&mut self) {
        self.merges = true;
    }

    /// Has the client told of these events alone, [`Mask::DEFAULT`] unless this is called.
    pub fn want(&mut self, events: Mask) {
        self.wanted = events;
    }

    fn drop_link(&mut self) {
        self.agent = None;
        self.backlog.clear();
        self.ledger.clear();
        self.barriers.clear();
        self.contested.clear();
        self.stuck = None;
        self.second_half = None;
        self.seq = Seq::FIRST;
    }

    /// Which link this is, counted from the daemon's start; `None` when no agent listens.
    pub fn link(&self) -> Option<u64> {
        self.is_listening().then_some(self.links)
    }

    /// The agent asks for more, which it does when it has replayed all that it was sent.
    pub fn handle_asked(&mut self) {
        if !self.has_next() && self.nets.len() == 0 {
            self.in_step = self.in_step.max(self.nets.drained_at());
        }
    }

    /// The thread that is registered as the agent's.
    pub fn agent_tid(&self) -> Option<u32> {
        self.agent.as_ref().map(|agent| agent.tid)
    }

    /// Whether changes become notifications.
    pub fn is_listening(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.listening)
    }

    /// How many events wait for a buffer.
    pub fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    /// Has at most `len_max` events wait for a buffer, and at least a few, instead of 2^17.
    pub fn limit_backlog(&mut self, len_max: usize) {
        self.backlog.limit(len_max);
    }

    /// How many directories are stale: single events about them were given up, and what became of
    /// them has not been told yet.
    pub fn stale_len(&self) -> usize {
        self.nets.len()
    }

    /// How many single events were given up since the daemon started.
    pub fn events_forgotten(&self) -> u64 {
        self.backlog.forgotten()
    }

    /// A nodeid for a stand-in of a type. It is never given out twice within any guest's memory.
    pub fn phantom(&mut self, kind: FileKind) -> NodeId {
        phantom(&mut self.phantoms, kind)
    }

    /// Takes in one change on the host.
    pub fn handle_change(&mut self, change: HostChange) {
        if !self.is_listening() {
            return;
        }
        self.observed(&change);
        match change {
            HostChange::Entry { entry, mask, object } => {
                self.entry_changed(&entry, mask, object.as_ref());
            }
            HostChange::Object { object, mask } => self.object_changed(&object, mask),
            HostChange::Move { from, to, object, directory } => {
                self.moved(from.as_ref(), to.as_ref(), object.as_ref(), directory);
            }
            HostChange::Overflow => {
                self.backlog.overflowed();
                self.nets.lost_track(self.nets.drained_at(), &self.tree);
            }
        }
    }

    /// A change in a directory went untold, and it is not known which.
    pub fn handle_lost(&mut self, dir: &Fid) {
        if self.is_listening() {
            for dir in self.tree.nodes_of(dir).to_vec() {
                self.backlog.give_up();
                self.nets.gave_up(dir, Mask::empty(), &self.tree);
            }
        }
    }

    /// The kernel's queue was empty at `now` or later, and all that was read has been handed in.
    /// An event that goes missing from now on happened after `now`, by the host's clock.
    pub fn handle_drained(&mut self, now: SystemTime) {
        self.nets.drained(now);
    }

    /// Whether a directory is to be listed, as soon as it may be tried.
    pub fn wants_rescan(&self) -> bool {
        self.is_listening() && self.nets.len() > 0 && self.backlog.is_empty()
    }

    /// When to call [`Engine::poll_rescan`] again, after it gave nothing.
    pub fn rescan_timeout(&self) -> Option<Instant> {
        if self.wants_rescan() { self.nets.retry_at() } else { None }
    }

    /// The directory to list now. The answer is [`Engine::handle_listing`] or
    /// [`Engine::handle_unlisted`], before the next is asked for. There is none while events wait,
    /// and the client is told of the overflow first.
    pub fn poll_rescan(&mut self, now: Instant) -> Option<Rescan> {
        if !self.wants_rescan() {
            return None;
        }
        let rescan = self.nets.ask(now, self.backlog.piece_len(), &self.tree, &self.ledger)?;
        self.tree.look_out(rescan.dir, rescan.after.clone());
        Some(rescan)
    }

    /// The directory that was asked for could not be listed. It is asked for again, later.
    pub fn handle_unlisted(&mut self, now: Instant) {
        self.tree.seen();
        self.nets.postpone(now);
    }

    /// What is in the directory that was asked for: the difference to what the guest was told goes to
    /// the backlog. A directory that is gone has an empty listing.
    pub fn handle_listing(&mut self, now: Instant, listing: Listing) {
        let touched = self.tree.seen();
        let compared = self.nets.compare(now, listing, touched.as_ref(), &self.tree, &self.ledger);
        let Some((dir, Net { itself, changes })) = compared else { return };
        if !itself.is_empty() {
            let object = self.tree.fid(dir).cloned();
            let event = GuestEvent::Object { node: self.tree.node(dir), mask: itself };
            self.push(Pending::new(event, object));
        }
        for change in changes {
            self.push_change(dir, change);
        }
    }

    /// Whether [`Engine::send`] would give a notification.
    pub fn has_next(&self) -> bool {
        self.is_listening() && (self.second_half.is_some() || !self.backlog.is_empty())
    }

    /// What to look at before the next notification is sent, so that the guest makes an object of the
    /// right type and can be given the real one. The answer is [`Engine::handle_look`].
    pub fn poll_look(&self) -> Option<Look> {
        if self.second_half.is_some() { None } else { self.backlog.look() }
    }

    /// The type of what was to be looked at; unknown if it is not under its name any more.
    pub fn handle_look(&mut self, look: &Look, found: FileKind) {
        self.backlog.looked(look, found);
    }

    /// The next notification, for which a buffer is at hand: it counts as sent.
    pub fn send(&mut self) -> Option<Notification> {
        if !self.is_listening() {
            return None;
        }
        let (notification, pending, second) = match self.second_half.take() {
            Some((notification, pending)) => (notification, pending, true),
            None => {
                let pending = self.backlog.pop()?;
                let Split { first, second } = split(&pending.event, self.cookie);
                if let Some(second) = second {
                    self.cookie = self.cookie.next();
                    self.second_half = Some((second, pending.clone()));
                }
                (first, pending, false)
            }
        };
        self.ledger.hand_out(self.seq, pending, second, &mut self.backlog);
        self.seq = self.seq.next();
        Some(notification)
    }

    /// Somebody in the guest wants to know when all that has happened up to now has been replayed.
    /// `None` while no agent listens.
    pub fn ask_barrier(&mut self) -> Option<Ticket> {
        self.is_listening().then(|| self.barriers.ask())
    }

    /// How far that is.
    pub fn progress(&self, ticket: Ticket) -> Progress {
        self.barriers.progress(ticket)
    }

    /// Up to where the kernel's queue is to be read, if anything waits for that.
    pub fn to_read(&self) -> Option<ReadMark> {
        let (ticket, touch) = (self.barriers.to_read(), self.contested.to_read());
        let touch_now = self.contested.mark();
        (ticket.is_some() || touch.is_some()).then_some(ReadMark { ticket, touch: touch_now })
    }

    /// What was in the kernel's queue at some time after [`Engine::to_read`] gave this has been handed in.
    pub fn handle_read(&mut self, ReadMark { ticket, touch }: ReadMark) {
        if let Some(ticket) = ticket {
            let owed = self.owed();
            self.barriers.handle_read(ticket, owed);
        }
        let idle = self.is_idle();
        for difference in self.contested.handle_read(touch, idle) {
            self.push_difference(difference);
        }
    }

    /// Nothing is on its way to the guest.
    fn is_idle(&self) -> bool {
        self.second_half.is_none()
            && self.backlog.is_empty()
            && self.ledger.last_unfinished().is_none()
    }

    fn owed(&self) -> Owed {
        Owed { stale: self.nets.mark(), contested: self.contested.mark() }
    }

    /// Puts probes behind what is to be sent before them: those of barriers, of contested entries, and of
    /// replays that do not come to their end. `true` when it did.
    pub fn poll_probes(&mut self, now: Instant) -> bool {
        if !self.is_listening() {
            return false;
        }
        let mut sent = false;
        let (nets, contested) = (&self.nets, &self.contested);
        let is_owed =
            |owed: Owed| nets.has_before(owed.stale) || contested.has_before(owed.contested);
        while self.barriers.is_due(is_owed) {
            let probe = probe(&mut self.phantoms, &mut self.backlog, self.tree.generation());
            self.barriers.handle_sent(probe);
            sent = true;
        }
        if self.contested.wants_probe() || self.is_stuck(now) {
            let probe = probe(&mut self.phantoms, &mut self.backlog, self.tree.generation());
            self.contested.probe_sent(probe);
            self.stuck = None;
            sent = true;
        }
        sent
    }

    /// Whether the last replay of a name has not come to its end for some time, and nothing follows that
    /// would show that it never will.
    fn is_stuck(&mut self, now: Instant) -> bool {
        let last = self.ledger.last_unfinished();
        let waits = self.has_next();
        if self.contested.is_probing() || (last.is_none() && !waits) {
            self.stuck = None;
            return false;
        }
        // What is sent from now on wakes nobody when its replay fails: the time to look again is kept.
        let last = last.filter(|_| !waits);
        match self.stuck {
            Some((seq, since)) if seq == last && last.is_some() => {
                now.saturating_duration_since(since) >= Self::STUCK_AFTER
            }
            Some(_) | None => {
                self.stuck = Some((last, now));
                false
            }
        }
    }

    /// When to call [`Engine::poll_probes`] or [`Engine::poll_check`] again, though nothing happens.
    pub fn check_timeout(&self) -> Option<Instant> {
        let stuck = self.stuck.and_then(|(_, since)| since.checked_add(Self::STUCK_AFTER));
        [stuck, self.contested.retry_at()].into_iter().flatten().min()
    }

    /// The agent looks for a node that nobody has. `true` when there is something to do by that.
    pub fn handle_probe(&mut self, node: NodeId) -> bool {
        self.ledger.probed(node, &mut self.backlog);
        let unfinished = self.take_unfinished();
        if unfinished {
            let owed = self.owed();
            self.barriers.postpone(node, owed);
        }
        let settled = self.contested.handle_probe(node);
        self.barriers.handle_probe(node) || settled || unfinished
    }

    /// Replays that did not come to their end are in doubt. `true` when there are any.
    fn take_unfinished(&mut self) -> bool {
        let unfinished = self.ledger.take_unfinished();
        for (dir, name) in &unfinished {
            self.doubt(*dir, name);
        }
        !unfinished.is_empty()
    }

    fn doubt(&mut self, dir: NodeId, name: &Name) {
        if !dir.is_reserved() && !self.contested.doubt(dir, name) {
            self.nets.gave_up(dir, Mask::empty(), &self.tree);
        }
    }

    /// The guest has changed names itself: the call has succeeded on the host, and the guest's kernel still
    /// holds the lock of the directories.
    pub fn handle_own(&mut self, change: OwnChange<'_>) {
        match change {
            OwnChange::Made(dir, name, id) => self.own(dir, name, Some(id)),
            OwnChange::Removed(dir, name) => {
                self.tree.cleared(dir, name);
                self.own(dir, name, None);
            }
            OwnChange::Renamed(from, to) => {
                let id = self.tree.current(from.0, from.1);
                self.tree.renamed(from, to);
                self.own(from.0, from.1, None);
                self.own_arrival(to, id);
            }
            OwnChange::Exchanged(one, two) => {
                let ids = [one, two].map(|(dir, name)| self.tree.current(dir, name));
                self.tree.exchanged(one, two);
                self.own_arrival(two, ids[0]);
                self.own_arrival(one, ids[1]);
            }
        }
    }

    fn own_arrival(&mut self, (dir, name): (NodeId, &Name), id: Option<NodeId>) {
        match id {
            Some(id) => self.own(dir, name, Some(id)),
            // The server does not know what the guest has moved.
            None => self.doubt(dir, name),
        }
    }

    fn own(&mut self, dir: NodeId, name: &Name, id: Option<NodeId>) {
        if !self.is_listening() {
            return;
        }
        let shown = |id| Shown {
            object: self.tree.fid(id).cloned(),
            kind: self.tree.kind(id).unwrap_or_default(),
        };
        let reported = id.map_or(Reported::Absent, |id| Reported::Present(shown(id)));
        if !self.contested.guest_changed(dir, name, reported) {
            self.nets.gave_up(dir, Mask::empty(), &self.tree);
        }
    }

    /// The next entry that is to be looked at on the host. The answer is [`Engine::handle_checked`] or
    /// [`Engine::handle_unchecked`].
    pub fn poll_check(&mut self, now: Instant) -> Option<Check> {
        let tree = &self.tree;
        self.contested.poll_check(now, |dir, name| {
            let directory = |id: &NodeId| tree.kind(*id) == Some(FileKind::Directory);
            tree.told(dir, name).iter().copied().filter(directory).collect()
        })
    }

    /// Whether there is something for [`Engine::poll_check`] or [`Engine::poll_probes`].
    pub fn wants_check(&self) -> bool {
        self.is_listening() && (self.contested.wants_check() || self.contested.wants_probe())
    }

    /// What is under the name. What watchers were told and is not so is told them.
    pub fn handle_checked(&mut self, now: Instant, check: Check, checked: Checked) {
        self.contested.handle_checked(now, check, checked);
    }

    /// The entry could not be looked at, for a reason that may pass.
    pub fn handle_unchecked(&mut self, now: Instant, check: Check) {
        let known = self.tree.knows(check.dir);
        self.contested.handle_unchecked(now, check, known);
    }

    fn push_difference(&mut self, difference: Difference) {
        let Difference { dir, name, reported, checked: Checked { found, removed } } = difference;
        let gone = match reported {
            Reported::Absent => Vec::new(),
            Reported::Present(shown) => {
                let node = shown
                    .object
                    .as_ref()
                    .and_then(|object| self.tree.node_at(object, shown.kind, dir, &name));
                vec![(node, shown)]
            }
            Reported::Unknown => {
                let shown = |id: &NodeId| {
                    let kind = self.tree.kind(*id).unwrap_or_default();
                    (Some(*id), Shown { object: self.tree.fid(*id).cloned(), kind })
                };
                let mut gone: Vec<_> = self.tree.told(dir, &name).iter().map(shown).collect();
                if gone.is_empty() {
                    gone.push((None, Shown { object: None, kind: FileKind::Regular }));
                }
                gone
            }
        };
        let is_found = |shown: &Shown| found.as_ref().is_some_and(|found| shown.is(found));
        for (node, shown) in gone.into_iter().filter(|(_, shown)| !is_found(shown)) {
            let Shown { object, kind } = shown;
            // A replayed rmdir(2) leaves a dead directory behind, wherever it was moved.
            let moved =
                kind == FileKind::Directory && node.is_some_and(|id| !removed.contains(&id));
            let mask = if moved { Mask::MOVED_FROM } else { Mask::DELETE };
            self.push_change(dir, Change { name: name.clone(), mask, object, node, kind });
        }
        if let Some(Listed { object, kind, .. }) = found {
            let mask = if kind == FileKind::Regular {
                Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE
            } else {
                Mask::CREATE
            };
            self.push_change(dir, Change { name, mask, object, node: None, kind });
        }
    }

    /// Answers a request with an agent's marks. `seq` is the number that it carries.
    pub fn answer(&mut self, seq: Option<Seq>, request: MarkedRequest<'_>) -> Answer {
        if !self.is_listening() {
            return Answer::Refused(Refusal::NotAsked);
        }
        if let MarkedRequest::Lookup(NodeId::ROOT, name) = request
            && name.as_bytes() == FARWATCH_LIMBO_NAME
        {
            return Answer::Entry(Object::Limbo);
        }
        match seq {
            Some(seq) => {
                let answer = self.ledger.answer(seq, request, &mut self.tree, &mut self.backlog);
                self.replayed(seq, request, &answer);
                self.take_unfinished();
                answer
            }
            None => Answer::Refused(Refusal::NotAsked),
        }
    }

    /// The guest's kernel raises the event of a call when it has this answer.
    fn replayed(&mut self, seq: Seq, request: MarkedRequest<'_>, answer: &Answer) {
        if self.contested.is_empty() || !matches!(answer, Answer::Entry(_) | Answer::Done) {
            return;
        }
        let ledger = &self.ledger;
        let present =
            |kind| Reported::Present(Shown { object: ledger.object_of(seq).cloned(), kind });
        let kind = || ledger.kind_of(seq).unwrap_or_default();
        let contested = &mut self.contested;
        match request {
            MarkedRequest::Create(dir, name, kind) => {
                contested.replayed(dir, name, || present(kind));
            }
            MarkedRequest::Link(_, dir, name) => {
                contested.replayed(dir, name, || present(kind()));
            }
            MarkedRequest::Remove(dir, name, _) => {
                contested.left(dir, name, None);
            }
            MarkedRequest::Rename(from, old, to, new) => {
                contested.left(from, old, ledger.stays(seq));
                contested.replayed(to, new, || present(kind()));
            }
            MarkedRequest::Lookup(..)
            | MarkedRequest::SetTimes(..)
            | MarkedRequest::Open(..)
            | MarkedRequest::Read(_) => {}
        }
    }

    /// Notes which names a change of the host concerns.
    fn observed(&mut self, change: &HostChange) {
        let (names, merged): (Vec<&HostEntry>, bool) = match change {
            HostChange::Entry { entry, mask, .. } => {
                let names = mask.intersection(Mask::CREATE | Mask::DELETE);
                if names.is_empty() {
                    return;
                }
                (vec![entry], names == Mask::CREATE | Mask::DELETE)
            }
            HostChange::Move { from, to, .. } => (from.iter().chain(to).collect(), true),
            HostChange::Object { .. } | HostChange::Overflow => return,
        };
        let merged = merged && self.merges;
        if !merged && self.contested.is_empty() {
            return;
        }
        for HostEntry { dir, name } in names {
            for dir in self.tree.nodes_of(dir).to_vec() {
                if merged {
                    self.doubt(dir, name);
                } else {
                    self.contested.host_changed(dir, name);
                }
            }
        }
    }

    /// The object that the replay of notification `seq` is about, as the host names it.
    pub fn object_of(&self, seq: Seq) -> Option<&Fid> {
        self.ledger.object_of(seq)
    }

    /// The type of that object, as far as the change told it.
    pub fn kind_of(&self, seq: Seq) -> FileKind {
        self.ledger.kind_of(seq).unwrap_or_default()
    }

    fn entry_changed(&mut self, entry: &HostEntry, mask: Mask, object: Option<&Fid>) {
        let kind = self.kind_of_object(object, mask.contains(Mask::ISDIR));
        let isdir = mask.intersection(Mask::ISDIR);
        let wanted = mask.intersection(self.wanted);
        let deleted = wanted.intersection(Mask::DELETE);
        let rest = wanted.difference(Mask::DELETE.union(Mask::MOVE));
        for dir in self.tree.nodes_of(&entry.dir).to_vec() {
            if self.nets.is_stale(dir, &entry.name) {
                self.backlog.give_up();
                continue;
            }
            let child = object.and_then(|fid| self.tree.node_at(fid, kind, dir, &entry.name));
            // Merged by the kernel, the order is lost: an object that was there has been deleted and
            // linked again, one that was not has been created and deleted.
            let was_there = child.is_some_and(|id| self.tree.told(dir, &entry.name).contains(&id));
            let delete_first = rest.contains(Mask::CREATE) && was_there;
            for bits in if delete_first { [deleted, rest] } else { [rest, deleted] } {
                if bits.is_empty() {
                    continue;
                }
                let link = bits.contains(Mask::CREATE)
                    && isdir.is_empty()
                    && child.is_some_and(|id| self.tree.has_other_name(id, dir, &entry.name));
                let (closed, others) = closed(bits, kind);
                if !others.is_empty() {
                    self.push_entry(dir, &entry.name, others | isdir, object, kind, link);
                }
                if !closed.is_empty() {
                    self.push_entry(dir, &entry.name, closed, object, FileKind::Regular, link);
                }
            }
        }
    }

    /// The type of what a change is about, as far as it is known.
    fn kind_of_object(&self, object: Option<&Fid>, directory: bool) -> FileKind {
        let kind = if directory { FileKind::Directory } else { FileKind::Unknown };
        let known = object.and_then(|fid| self.tree.node_of(fid, kind));
        known.and_then(|id| self.tree.kind(id)).unwrap_or(kind)
    }

    fn push_entry(
        &mut self,
        dir: NodeId,
        name: &Name,
        mask: Mask,
        object: Option<&Fid>,
        kind: FileKind,
        link: bool,
    ) {
        let pending = self.pending_entry(dir, name, mask, object, kind, link);
        self.push(pending);
    }

    fn pending_entry(
        &self,
        dir: NodeId,
        name: &Name,
        mask: Mask,
        object: Option<&Fid>,
        kind: FileKind,
        link: bool,
    ) -> Pending {
        let child = object.and_then(|fid| self.tree.node_at(fid, kind, dir, name));
        let event = GuestEvent::Entry {
            entry: Entry { dir: self.tree.node(dir), name: name.clone() },
            mask,
            child: child.map(|id| self.tree.node(id)),
            kind,
            link,
        };
        Pending::new(event, object.cloned())
    }

    /// An event of a net. A further name of a known object is created like a first one: to link it
    /// the guest would have to hold the object until then, and not to have heard that the name that
    /// it knows has gone.
    fn push_change(&mut self, dir: NodeId, change: Change) {
        let Change { name, mask, object, node, kind } = change;
        let mask = mask.intersection(self.wanted);
        if mask.is_empty() {
            return;
        }
        let isdir = if kind == FileKind::Directory { Mask::ISDIR } else { Mask::empty() };
        let known = || self.tree.node_at(object.as_ref()?, kind, dir, &name);
        let node = node.or_else(known);
        let event = GuestEvent::Entry {
            entry: Entry { dir: self.tree.node(dir), name },
            mask: mask | isdir,
            child: node.map(|id| self.tree.node(id)),
            kind,
            link: false,
        };
        self.push(Pending::new(event, object));
    }

    /// Every event goes through here: one that finds no room makes its directories stale.
    fn push(&mut self, pending: Pending) {
        let itself = Mask::empty();
        let about = match &pending.event {
            GuestEvent::Entry { mask, .. } if reads_alone(*mask) => [None, None],
            GuestEvent::Entry { entry, .. } => {
                self.tree.touch(entry.dir.id, &entry.name);
                [Some((entry.dir.id, itself)), None]
            }
            // Of what was only read there is no net.
            GuestEvent::Object { mask, .. } if reads_alone(*mask) => [None, None],
            GuestEvent::Object { node, mask } => {
                [Some((node.id, mask.difference(Mask::READS))), None]
            }
            GuestEvent::Rename { from, to, .. } => {
                self.tree.touch(from.dir.id, &from.name);
                self.tree.touch(to.dir.id, &to.name);
                [Some((from.dir.id, itself)), Some((to.dir.id, itself))]
            }
            GuestEvent::Overflow => [None, None],
        };
        if !self.backlog.push(pending) {
            for (dir, itself) in about.into_iter().flatten() {
                self.nets.gave_up(dir, itself, &self.tree);
            }
        }
    }

    fn object_changed(&mut self, object: &Fid, mask: Mask) {
        let told = Mask::CONTENT.union(Mask::READS).intersection(self.wanted);
        let bits = mask.intersection(told);
        if bits.is_empty() {
            return;
        }
        if self.tree.nodes_of(object).is_empty()
            && let Some((dir, name)) = self.place_of(object)
        {
            let bits = bits | Mask::ISDIR;
            if self.nets.is_stale(dir, &name) {
                self.backlog.give_up();
            } else {
                self.push_entry(dir, &name, bits, Some(object), FileKind::Directory, false);
            }
            return;
        }
        for id in self.tree.nodes_of(object).to_vec() {
            let mask = bits | mask.intersection(Mask::ISDIR);
            if self.nets.takes(id, mask.difference(Mask::READS)) {
                self.backlog.give_up();
                continue;
            }
            let event = GuestEvent::Object { node: self.tree.node(id), mask };
            self.push(Pending::new(event, Some(object.clone())));
        }
    }

    /// Where a directory is, or will be for the guest, whose kernel does not hold it. The watcher
    /// names a directory that has changed by itself alone; the event that brought it to its place
    /// has named that.
    fn place_of(&self, directory: &Fid) -> Option<(NodeId, Name)> {
        let coming =
            self.backlog.place(directory).map(|Entry { dir, name }| (dir.id, name.clone()));
        coming.or_else(|| self.tree.shown_at(directory).cloned())
    }

    fn moved(
        &mut self,
        from: Option<&HostEntry>,
        to: Option<&HostEntry>,
        object: Option<&Fid>,
        directory: bool,
    ) {
        let dirs =
            |side: Option<&HostEntry>| side.map_or(&[][..], |entry| self.tree.nodes_of(&entry.dir));
        let kind = self.kind_of_object(object, directory);
        let isdir = if directory { Mask::ISDIR } else { Mask::empty() };
        let moves = Moves { object, directory };
        let mut stays = None;
        if let Some(HostEntry { dir, name }) = from {
            for dir in self.tree.nodes_of(dir) {
                let queued = self.backlog.exchanged((*dir, name), &moves);
                let sent = self.ledger.exchanged((*dir, name), &moves);
                stays = stays.or(queued).or(sent);
            }
        }
        for (from_dir, to_dir) in self.tree.pairs(dirs(from), dirs(to)) {
            // A side that is stale is out of view until its net: what is left is a plain half.
            let in_step =
                |(entry, dir): &(&HostEntry, NodeId)| !self.nets.is_stale(*dir, &entry.name);
            let (old, new) = (from.zip(from_dir), to.zip(to_dir));
            let sides = old.iter().chain(&new).count();
            let (old, new) = (old.filter(in_step), new.filter(in_step));
            if old.iter().chain(&new).count() < sides {
                self.backlog.give_up();
            }
            match (old, new) {
                (Some((from, from_dir)), Some((to, to_dir))) => {
                    let entry = |dir: NodeId, name: &Name| Entry {
                        dir: self.tree.node(dir),
                        name: name.clone(),
                    };
                    let child =
                        object.and_then(|fid| self.tree.node_at(fid, kind, from_dir, &from.name));
                    let event = GuestEvent::Rename {
                        from: entry(from_dir, &from.name),
                        to: entry(to_dir, &to.name),
                        child: child.map(|id| self.tree.node(id)),
                        kind,
                    };
                    self.push(Pending {
                        stays: stays.clone(),
                        ..Pending::new(event, object.cloned())
                    });
                }
                (Some((from, dir)), None) => {
                    let mask = Mask::MOVED_FROM | isdir;
                    let half = self.pending_entry(dir, &from.name, mask, object, kind, false);
                    self.push(Pending { stays: stays.clone(), ..half });
                }
                (None, Some((to, dir))) => {
                    let mask = Mask::MOVED_TO | isdir;
                    self.push_entry(dir, &to.name, mask, object, kind, false);
                }
                (None, None) => {}
            }
        }
    }
}

fn phantom(count: &mut u64, kind: FileKind) -> NodeId {
    *count = count.wrapping_add(1);
    NodeId::phantom(kind, *count)
}

/// Puts a probe at the end of the backlog: an event of a node that nobody has, for which the agent's kernel
/// must ask when it comes to it.
fn probe(phantoms: &mut u64, backlog: &mut Backlog, generation: Generation) -> NodeId {
    let id = phantom(phantoms, FileKind::Unknown);
    let event = GuestEvent::Object { node: Node { id, generation }, mask: Mask::ATTRIB };
    backlog.push_probe(Pending::new(event, None));
    id
}

/// What is to be told of a regular file, since the agent opens and closes nothing else for writing, and
/// what of an object of type `kind`. The first has a FIFO's CLOSE_WRITE, which so comes to who watches
/// the directory; and all of a file whose name a FIFO may have by the time of the replay.
fn closed(mask: Mask, kind: FileKind) -> (Mask, Mask) {
    let closed = mask.intersection(Mask::CLOSE_WRITE);
    if closed.is_empty() || kind == FileKind::Directory {
        (Mask::empty(), mask)
    } else if matches!(kind, FileKind::Regular | FileKind::Unknown) {
        (mask, Mask::empty())
    } else {
        (closed, mask.difference(closed))
    }
}

fn reads_alone(mask: Mask) -> bool {
    Mask::READS.union(Mask::ISDIR).contains(mask)
}
