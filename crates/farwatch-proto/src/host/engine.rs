// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Engine`]: host changes in, notifications out, and an answer for every marked request.

mod changes;
mod compare;
mod figures;
mod guest;
mod input;
mod invariants;
mod keep;
mod native;
mod overtake;
mod probes;
mod submounts;

use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;

pub use self::figures::{Figures, HandedOut};
pub use self::guest::OwnChange;
use self::input::Queue;
pub use self::input::{Input, Output};
pub use self::native::InterestError;
use super::backlog::{Backlog, Look, Pending};
use super::barrier::{Barriers, Ticket};
use super::contested::Contested;
use super::interest::Interest;
use super::ledger::{Answer, Ending, Ledger, MarkedRequest, Refusal};
use super::net::Nets;
use super::poll::Polls;
use super::split::{Split, split};
use super::state::State;
use super::tree::Tree;
use crate::wire::Notification;
use crate::{Cookie, Fid, FileKind, Generation, GuestEvent, Mask, Name, NodeId, Seq};

/// Why an agent was not attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AttachError {
    /// One is attached already (EBUSY).
    #[error("another agent is attached to this mount")]
    Busy,
}

/// Everything that the host side of one share decides. The daemon keeps it under one lock.
///
/// What comes in without an answer is an [`Input`], what is to be done next an [`Output`] (`input`). What the guest does
/// (`guest`), barriers and probes (`probes`), and the agent's link and its requests (here) are methods, as those who
/// call them need the answer.
///
/// A change becomes an event only while somebody listens: an agent that has been welcomed. Before
/// that there is nobody to tell, and the guest's own watchers see what its own programs do.
#[derive(Debug)]
pub struct Engine {
    /// What the guest knows. It changes with what the guest does (`guest`) and what its agent replays.
    tree: Tree,
    backlog: Backlog,
    nets: Nets,
    ledger: Ledger,
    barriers: Barriers,
    contested: Contested,
    agent: Option<Agent>,
    /// What is watched in the guest, if its kernel tells.
    interest: Option<Interest>,
    cookie: Cookie,
    seq: Seq,
    second_half: Option<(Notification, Pending)>,
    phantoms: u64,
    wanted: Mask,
    /// How many links there have been.
    links: u64,
    /// The client was in step with the host up to here, by the host's clock.
    in_step: SystemTime,
    /// An agent of this session has gone, here or on the host that the guest comes from: the next one is owed
    /// the difference.
    owes: bool,
    /// The host's watcher merges equal events with others between them.
    merges: bool,
    /// The last notification that has not been replayed, `None` while others wait to be sent, and since when that is
    /// so.
    stuck: Option<(Option<Seq>, Instant)>,
    queue: Queue,
    /// There may be something to send that the sinks do not know of.
    has_news: bool,
    /// The watch thread does not know when the next directory is to be polled.
    polls_unseen: bool,
    /// When it was last looked whether comparisons should overtake the backlog.
    looked_behind: Option<Instant>,
    /// When the report that is being taken in was read.
    observed: Option<Instant>,
}

/// Up to where the kernel's queue is to be read: a moment after which nothing that happened before is
/// missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadMark {
    ticket: Option<Ticket>,
    touch: u64,
}

/// The client: an agent that has the control node open, or the guest's kernel.
#[derive(Debug)]
struct Agent {
    /// `None` for the kernel, whose requests are no thread's.
    tid: Option<u32>,
    listening: bool,
    /// Its kernel raises the events itself: no request tells of that, but the answer to a probe. Otherwise its requests
    /// show how far its replay is.
    raises: bool,
    /// It wants to be told in which announced submount an event is.
    submounts: bool,
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
            queue: Queue::default(),
            has_news: false,
            polls_unseen: false,
            looked_behind: None,
            observed: None,
            agent: None,
            interest: None,
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
    /// How often a directory is compared that cannot be watched, unless [`Engine::poll_every`] says otherwise.
    pub const POLL_INTERVAL: Duration = Polls::INTERVAL;

    /// A session begins (FUSE_INIT) or ends: nothing of the one before is left. The file system room calls this.
    pub fn reset(&mut self, root: Option<Fid>) {
        let generation = Generation(self.tree.generation().0.wrapping_add(1).max(1));
        self.tree.reset(generation, root);
        self.drop_link();
        self.nets.clear();
        self.owes = false;
        self.check_invariants();
    }

    /// An agent's thread has opened the control node, which calls this.
    ///
    /// # Errors
    /// When there is one already.
    pub fn attach(&mut self, tid: u32) -> Result<(), AttachError> {
        self.attach_client(Some(tid))
    }

    /// Without a thread it is the kernel.
    fn attach_client(&mut self, tid: Option<u32>) -> Result<(), AttachError> {
        if self.agent.is_some() {
            return Err(AttachError::Busy);
        }
        self.agent = Some(Agent { tid, listening: false, raises: tid.is_none(), submounts: false });
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
                self.end_nameless();
            } else {
                self.in_step = now;
                self.nets.polls.begin(now);
            }
            self.polls_unseen = true;
            // Otherwise it is in step when it has replayed the difference and asks for more: if it goes before
            // that, the next one is owed the same.
            self.drained(now);
        }
    }

    /// The agent has closed the control node. What it was not told, and what happens until the next
    /// one listens, is left to nets: the difference is what that one is told first.
    pub fn detach(&mut self) {
        if self.is_listening() {
            self.nets.lost_track(self.in_step, &self.tree);
            self.nets.polls.unsee_all();
            self.owes = true;
        }
        self.drop_link();
        self.check_invariants();
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
    /// other object is to be found again ([`Engine::identify`]). If an agent listened there, it is owed
    /// the difference for each directory, since it listens no more.
    pub fn load(&mut self, state: State, root: Option<Fid>) {
        self.drop_link();
        self.tree.load(state.generation, &state.nodes, state.entries, root);
        self.phantoms = state.phantoms;
        self.cookie = state.cookie;
        self.nets.load(state.stale);
        self.owes = false;
        if let Some(in_step) = state.in_step {
            self.nets.lost_track(in_step, &self.tree);
            (self.in_step, self.owes) = (in_step, true);
        }
        self.check_invariants();
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

    /// The events that the client is sent.
    pub fn wanted(&self) -> Mask {
        self.wanted
    }

    fn drop_link(&mut self) {
        self.agent = None;
        self.interest = None;
        self.backlog.clear();
        self.ledger.clear();
        self.barriers.clear();
        self.contested.clear();
        self.stuck = None;
        self.has_news = false;
        self.second_half = None;
        self.seq = Seq::FIRST;
    }

    /// Which link this is, counted from the daemon's start; `None` when no agent listens. For sinks.
    pub fn link(&self) -> Option<u64> {
        self.is_listening().then_some(self.links)
    }

    /// See [`Input::Drained`].
    fn drained(&mut self, at: SystemTime) {
        if self.nets.drained(at) {
            self.in_step = self.in_step.min(at);
        }
    }

    /// See [`Input::Asked`].
    fn handle_asked(&mut self) {
        if !self.has_next() && self.nets.stale_len() == 0 {
            self.in_step = self.in_step.max(self.nets.drained_at());
        }
        if self.is_native() {
            // A rename of which the second half is to come has not been raised.
            let kept = usize::from(self.second_half.is_some());
            self.ledger.raised_up_to(kept, &mut self.backlog);
        }
    }

    /// The thread that is registered as the agent's.
    pub fn agent_tid(&self) -> Option<u32> {
        self.agent.as_ref().and_then(|agent| agent.tid)
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
        self.nets.stale_len()
    }

    /// How many single events were given up since the daemon started.
    pub fn events_forgotten(&self) -> u64 {
        self.backlog.forgotten()
    }

    /// Whether [`Engine::send`] would give a notification. For tests: sinks call that, and are woken for it.
    pub fn has_next(&self) -> bool {
        self.is_listening() && (self.second_half.is_some() || !self.backlog.is_empty())
    }

    /// Whether the type of an object is to be found out before the next notification is sent, so that the guest
    /// makes an object of the right type and can be given the real one. The watch thread does it
    /// ([`Output::Look`]); a sink that finds this to be so waits for that, or sends without where none is.
    pub fn is_look_pending(&self) -> bool {
        self.look().is_some()
    }

    fn look(&self) -> Option<Look> {
        // A kernel that raises events itself makes no object.
        if self.second_half.is_some() || self.is_native() { None } else { self.backlog.look() }
    }

    /// The next notification, for which a buffer is at hand: it counts as sent. Sinks pull by this, on any thread.
    pub fn send(&mut self) -> Option<Notification> {
        if !self.is_listening() {
            return None;
        }
        let (notification, pending, second) = match self.second_half.take() {
            Some((notification, pending)) => (notification, pending, true),
            None => {
                let pending = self.next_wanted()?;
                let Split { first, second } = split(&pending.event, self.cookie);
                if let Some(second) = second {
                    self.cookie = self.cookie.next();
                    self.second_half = Some((second, pending.clone()));
                }
                (first, pending, false)
            }
        };
        let submount = self.submount_of(&pending.event);
        let notification = Notification { submount, ..notification };
        let seq = self.seq;
        self.ledger.hand_out(seq, pending, second, &mut self.backlog);
        self.seq = self.seq.next();
        if self.is_native() {
            self.raised(seq);
        }
        // The ledger may have had to give up its oldest record.
        self.take_unfinished();
        self.checked(Some(notification))
    }

    /// Answers a request with an agent's marks. `seq` is the number that it carries. The file system room asks, and
    /// makes the reply.
    pub fn answer(&mut self, seq: Option<Seq>, request: MarkedRequest<'_>) -> Answer {
        if !self.is_listening() {
            return Answer::Refused(Refusal::NotAsked);
        }
        if let Some(answer) = self.answer_own_name(seq, request) {
            return self.checked(answer);
        }
        match seq {
            Some(seq) => {
                let answer = self.ledger.answer(seq, request, &mut self.tree, &mut self.backlog);
                self.replayed(seq, request, &answer);
                self.take_unfinished();
                self.checked(answer)
            }
            None => Answer::Refused(Refusal::NotAsked),
        }
    }

    /// The object that the replay of notification `seq` is about, as the host names it.
    pub fn object_of(&self, seq: Seq) -> Option<&Fid> {
        self.ledger.object_of(seq)
    }

    /// The object of which the server has to know whether it lives, before it answers the removal that replays
    /// notification `seq`: if it does, or [`Engine::has_more_links`], then [`Engine::told_stale`] and ESTALE. The
    /// guest's kernel then asks for its link count, without which it would hold it for dead, or for living.
    pub fn removes_unasked(&self, seq: Seq) -> Option<NodeId> {
        self.ledger.removes_unasked(seq, &self.tree)
    }

    /// The same of what is under the new name of a rename: the kernel would hold it for replaced.
    pub fn replaces_unasked(&self, seq: Seq) -> Option<NodeId> {
        self.ledger.replaces_unasked(seq, &self.tree)
    }

    /// The link count that the guest's kernel was last given for a node. `None` for a directory, and if it was given none.
    pub fn links_given(&self, id: NodeId) -> Option<u32> {
        self.tree.links_given(id)
    }

    /// Whether the guest's kernel was last given a higher link count for a node than the host's.
    pub fn has_more_links(&self, id: NodeId) -> bool {
        self.tree.has_more_links(id)
    }

    /// The guest's kernel was told to look the entry of notification `seq` up again.
    pub fn told_stale(&mut self, seq: Seq) {
        self.ledger.told_stale(seq);
    }

    /// How the replay of notification `seq` ends what is under a name, if it does. The server then must not
    /// name a directory that lives: the guest's kernel would hold it for dead, with the watches on it.
    pub fn ending(&self, seq: Seq, dir: NodeId, name: &Name) -> Option<Ending> {
        self.ledger.ending(seq, dir, name)
    }

    /// The same, if that would be a mistake: the guest knows what is there as `id`, which has `links` on the host.
    /// Where the watcher names no objects, which directory has gone is guessed. A file has a link count, by which it
    /// outlives a wrong guess; but where host and guest have changed the entry, the guest may have brought it
    /// there after what is replayed, and then the host counts each of its names.
    pub fn mistaken_ending(
        &self,
        seq: Seq,
        (dir, name): (NodeId, &Name),
        id: NodeId,
        links: u32,
    ) -> Option<Ending> {
        let ending = self.ledger.ending(seq, dir, name)?;
        let names = self.tree.names_len(id);
        let is_mistake = if self.tree.kind(id)? == FileKind::Directory {
            links > 0
        } else {
            links >= names.max(1) && self.contested.is_by_guest(dir, name)
        };
        is_mistake.then_some(ending)
    }

    /// The type of that object, as far as the change told it.
    pub fn kind_of(&self, seq: Seq) -> FileKind {
        self.ledger.kind_of(seq).unwrap_or_default()
    }

    /// Every event goes through here: one that finds no room makes its directories stale.
    fn push(&mut self, mut pending: Pending) {
        pending.observed = self.observed;
        pending.in_step = self.nets.drained_at();
        let itself = Mask::empty();
        let about = match &pending.event {
            GuestEvent::Entry { mask, .. } if reads_alone(*mask) => [None, None],
            event if event.is_end() => [None, None],
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
        self.has_news = true;
        if !self.backlog.push(pending) {
            for (dir, itself) in about.into_iter().flatten() {
                self.nets.gave_up(dir, itself, &self.tree);
            }
        }
    }
}

fn phantom(count: &mut u64, kind: FileKind) -> NodeId {
    *count = count.wrapping_add(1);
    NodeId::phantom(kind, *count)
}

fn reads_alone(mask: Mask) -> bool {
    Mask::READS.union(Mask::ISDIR).contains(mask)
}
