// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Nets`]: what takes the place of single events that were given up. The directories that they
//! concerned are stale; each is listed again, and the difference between what the guest was told and
//! what is becomes ordinary events.
//!
//! ```text
//!             an event was given up                         all names compared
//!   in step ────────────────────────▶ stale ◀───────────┐ ─────────────────────▶ in step
//!                                       │               │
//!                                       │ Rescan        │ Listing: the names up to `upto`
//!                                       ▼               │ are in step, those behind are stale
//!                                    being listed ──────┘
//! ```
//!
//! A directory is compared in pieces, in the order of names, so that a net of any size fits into the
//! backlog and no listing is kept: each piece is a listing of its own. A name is stale or in step.
//! Events about a stale name are left to the net. From the moment a piece is asked for, its names are
//! in step, and events about them are queued as always; a name of which something else is told while
//! the directory is being listed may be newer than its listing, so the piece ends before it and the
//! next one begins with it.
//!
//! The engine calls this; the watch thread does the listing.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant, SystemTime};

use super::ledger::{Ledger, Step};
use super::poll::{Polls, Seen};
use super::state::StaleState;
use super::tree::Tree;
use crate::{Fid, FileKind, Mask, Name, NodeId};

/// A piece of a directory that is to be listed: the names behind `after`, up to `upto`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rescan {
    /// The directory.
    pub dir: NodeId,
    /// The last name that is not wanted; `None` to begin with the first.
    pub after: Option<Name>,
    /// The last name that is wanted; `None` when all are.
    pub upto: Option<Name>,
    /// The most names to list: the first ones, in the order of names.
    pub len_max: usize,
    /// Directories that the guest knows under these names. [`Listing::removed`] says which of them
    /// there are no more.
    pub subdirs: Vec<NodeId>,
    /// The directory is not watched. A watch is to be tried first; if one can be had, that is said by
    /// [`Input::Watched`](super::Input::Watched), and it need not be listed.
    pub is_polled: bool,
}

/// What [`Rescan`] asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// The entries, in any order. What vanished while the directory was read is not among them.
    pub entries: Vec<Listed>,
    /// The last name that the listing covers; `None` when it covers all that was wanted.
    pub upto: Option<Name>,
    /// Those of [`Rescan::subdirs`] that have been removed. One that merely left its name, or of
    /// which that is not known, must not be here: to the guest's kernel it would be dead.
    pub removed: Vec<NodeId>,
}

/// An entry of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// The object, when it can be told.
    pub object: Option<Fid>,
    /// Its type.
    pub kind: FileKind,
    /// When it was last changed in any way (`stx_ctime`).
    pub changed: SystemTime,
    /// When it was made (`stx_btime`), where the file system knows.
    pub born: Option<SystemTime>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Nets {
    /// By directory; never more than the tree has nodes.
    stale: BTreeMap<NodeId, Stale>,
    asked: Option<Asked>,
    /// The directory that was asked for last: the next is before it.
    last: Option<NodeId>,
    /// When the kernel's queue was last found empty.
    drained: SystemTime,
    /// How many directories have become stale.
    count: u64,
    /// How many of those that are to be compared are [`Stale::is_polled`].
    polled_len: usize,
    /// The directories that are compared again and again.
    pub(super) polls: Polls,
}

#[derive(Debug)]
struct Stale {
    /// Which one it was to become stale.
    nth: u64,
    /// Since when events may be missing.
    since: SystemTime,
    /// The last name that is in step again.
    after: Option<Name>,
    /// What happened to the directory itself, and was given up.
    itself: Mask,
    /// Not to be asked for before.
    retry_at: Option<Instant>,
    /// Nothing was dropped: it is compared since it is not watched, or was not up to now.
    is_polled: bool,
}

/// The piece that is being listed.
#[derive(Debug)]
struct Asked {
    dir: NodeId,
    upto: Option<Name>,
}

/// What has to be told about one piece of a directory.
#[derive(Debug, Default)]
pub(super) struct Net {
    /// What happened to the directory itself.
    pub(super) itself: Mask,
    /// What happened to its entries, in order.
    pub(super) changes: Vec<Change>,
}

/// One event of a net.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) name: Name,
    /// Not yet with ISDIR.
    pub(super) mask: Mask,
    pub(super) object: Option<Fid>,
    /// The node that the guest was told of under this name, if it is one.
    pub(super) node: Option<NodeId>,
    pub(super) kind: FileKind,
}

/// What the guest believes to be under a name.
#[derive(Debug)]
struct Held {
    object: Option<Fid>,
    node: Option<NodeId>,
    kind: FileKind,
}

impl Default for Nets {
    fn default() -> Self {
        let drained = SystemTime::UNIX_EPOCH;
        let polls = Polls::default();
        let stale = BTreeMap::new();
        Self { stale, asked: None, last: None, drained, count: 0, polled_len: 0, polls }
    }
}

impl Nets {
    /// How far a file's timestamp can be behind the clock: file systems count in steps of up to two
    /// seconds (FAT), and a long `write(2)` sets it before its event is queued.
    const GRANULARITY: Duration = Duration::from_secs(2);
    /// How long a directory that could not be compared is left alone.
    const RETRY: Duration = Duration::from_secs(1);

    /// The kernel's queue was found empty at `now`, or later. Returns whether the clock was set back since the last time:
    /// then what changes from now on has an older time than what was in step before.
    pub(super) fn drained(&mut self, now: SystemTime) -> bool {
        let is_set_back = now.checked_add(Self::GRANULARITY).is_some_and(|now| now < self.drained);
        if is_set_back {
            self.drained = now;
            let since = since(now);
            self.stale.values_mut().for_each(|stale| stale.since = stale.since.min(since));
        } else {
            // Two threads say it, in any order.
            self.drained = self.drained.max(now);
        }
        is_set_back
    }

    /// When the kernel's queue was last known to be empty.
    pub(super) fn drained_at(&self) -> SystemTime {
        self.drained
    }

    /// Nobody is to be told anything.
    pub(super) fn clear(&mut self) {
        let mut polls = std::mem::take(&mut self.polls);
        polls.clear();
        *self = Self { drained: self.drained, count: self.count, polls, ..Self::default() };
    }

    /// The stale directories, each as a whole, for another host.
    pub(super) fn saved(&self) -> BTreeMap<NodeId, StaleState> {
        let saved = |(dir, stale): (&NodeId, &Stale)| {
            (*dir, StaleState { since: stale.since, itself: stale.itself })
        };
        self.stale.iter().map(saved).collect()
    }

    /// Takes over what was saved, and nothing else is stale.
    pub(super) fn load(&mut self, stale: BTreeMap<NodeId, StaleState>) {
        self.clear();
        for (dir, StaleState { since, itself }) in stale {
            self.count += 1;
            let stale = Stale { itself, ..Stale::new(self.count, since) };
            self.stale.insert(dir, stale);
        }
    }

    /// Whether a directory is stale: events about it, or some of them, are left to its net.
    pub(super) fn has(&self, dir: NodeId) -> bool {
        self.stale.contains_key(&dir)
    }

    /// How many directories are stale, beside those that are compared since they are or were polled.
    pub(super) fn stale_len(&self) -> usize {
        self.stale.len() - self.polled_len
    }

    /// Whether there is nothing to compare but what is to be polled later.
    pub(super) fn is_empty(&self) -> bool {
        self.stale.is_empty()
    }

    fn remove(&mut self, dir: NodeId) {
        let removed = self.stale.remove(&dir);
        self.polled_len -= usize::from(removed.is_some_and(|stale| stale.is_polled));
    }

    /// What is stale now, for [`Nets::has_before`].
    pub(super) fn mark(&self) -> u64 {
        self.count
    }

    /// Whether anything is still stale that was when the mark was taken. Directories are compared from
    /// the last to the first, so the first ones tell.
    pub(super) fn has_before(&self, mark: u64) -> bool {
        self.stale.values().any(|stale| stale.nth <= mark)
    }

    /// When a directory is to be tried again, or is to be polled.
    pub(super) fn retry_at(&self, now: Instant) -> Option<Instant> {
        let retries = self.stale.values().filter_map(|stale| stale.retry_at);
        retries.chain(self.polls.due_at(now)).min()
    }

    /// Whether an event about this name is left to the net.
    pub(super) fn is_stale(&self, dir: NodeId, name: &Name) -> bool {
        let Some(stale) = self.stale.get(&dir) else { return false };
        let asked = self.asked.as_ref().filter(|asked| asked.dir == dir);
        let being_listed =
            asked.is_some_and(|asked| asked.upto.as_ref().is_none_or(|upto| name <= upto));
        !being_listed && stale.after.as_ref().is_none_or(|after| name > after)
    }

    /// An event about an entry of `dir` was given up, or `itself` about the directory.
    pub(super) fn gave_up(&mut self, dir: NodeId, itself: Mask, tree: &Tree) {
        self.polls.unsee(dir);
        self.lost_since(self.drained, dir, itself, tree);
    }

    /// Events about entries of `dir` that waited were dropped. None from before `in_step` is missing.
    pub(super) fn overtook(&mut self, dir: NodeId, in_step: SystemTime, tree: &Tree) {
        self.polls.unsee(dir);
        // Later is only what was queued before the clock was set back.
        self.lost_since(in_step.min(self.drained), dir, Mask::empty(), tree);
    }

    /// A directory could not be watched.
    pub(super) fn unwatched(&mut self, dir: NodeId) {
        self.polls.insert(dir, self.drained);
    }

    /// A directory is watched that was not. What happens in it from now on is reported.
    pub(super) fn watched(&mut self, dir: NodeId) {
        if self.polls.watched(dir) {
            self.asked.take_if(|asked| asked.dir == dir);
            self.compare_polled(dir);
        }
    }

    fn lost_since(&mut self, in_step: SystemTime, dir: NodeId, itself: Mask, tree: &Tree) {
        if self.asked.as_ref().is_some_and(|asked| asked.dir == dir) {
            self.asked = None;
        }
        let in_step = self.polls.in_step(dir).map_or(in_step, |polled| polled.min(in_step));
        let since = since(in_step);
        let stale = self.stale.entry(dir).or_insert_with(|| {
            self.count += 1;
            Stale::new(self.count, since)
        });
        stale.since = stale.since.min(since);
        stale.after = None;
        stale.itself |= itself;
        if std::mem::take(&mut stale.is_polled) {
            stale.retry_at = None;
            self.polled_len -= 1;
        }
        if self.stale.len() > tree.len() {
            self.stale.retain(|dir, _| tree.knows(*dir));
            self.polled_len = self.stale.values().filter(|stale| stale.is_polled).count();
            self.polls.retain(|dir| tree.knows(dir));
        }
    }

    /// Has the directory compared that is to be polled now, if any is.
    fn poll(&mut self, now: Instant, tree: &Tree) {
        if let Some(dir) = self.polls.next(now, |dir| tree.knows(dir)) {
            self.compare_polled(dir);
        }
    }

    fn compare_polled(&mut self, dir: NodeId) {
        let in_step = self.polls.in_step(dir).map_or(self.drained, |at| at.min(self.drained));
        let since = since(in_step);
        let stale = self.stale.entry(dir).or_insert_with(|| {
            self.count += 1;
            self.polled_len += 1;
            Stale { is_polled: true, ..Stale::new(self.count, since) }
        });
        // What is compared already, for another reason, may have changed behind the comparison.
        (stale.after, stale.retry_at) = (None, None);
    }

    /// Leaves `itself`, which happened to a directory, to its net if it is stale.
    pub(super) fn takes(&mut self, dir: NodeId, itself: Mask) -> bool {
        self.stale.get_mut(&dir).map(|stale| stale.itself |= itself).is_some()
    }

    /// Any event about any known directory that happened after `in_step` may be missing. Those about a directory that has no name
    /// for the guest, the root, are no entry's.
    pub(super) fn lost_track(&mut self, in_step: SystemTime, tree: &Tree) {
        for dir in tree.directories() {
            let nameless = tree.entry(dir).is_none();
            let itself = if nameless { Mask::ATTRIB | Mask::ISDIR } else { Mask::empty() };
            self.lost_since(in_step, dir, itself, tree);
        }
    }

    /// The next piece to list, of at most `len_max` names. The directories take turns, what the guest
    /// got to know last first: what is in a directory goes before it goes itself.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        len_max: usize,
        tree: &Tree,
        ledger: &Ledger,
    ) -> Option<Rescan> {
        self.poll(now, tree);
        let dir = loop {
            let before =
                self.last.map_or((Unbounded, Unbounded), |last| (Unbounded, Excluded(last)));
            let is_due = |(_, stale): &(&NodeId, &Stale)| stale.retry_at.is_none_or(|at| at <= now);
            let next = self.stale.range(before).rev().find(is_due);
            let (dir, _) = next.or_else(|| self.stale.iter().rev().find(is_due))?;
            let dir = *dir;
            self.last = Some(dir);
            if tree.knows(dir) {
                break dir;
            }
            self.remove(dir);
            self.polls.remove(dir);
        };
        let Stale { after, is_polled, .. } = self.stale.get(&dir)?;
        let (after, is_polled) = (after.clone(), *is_polled);
        self.polls.asked(now, dir, after.is_none(), self.drained);
        let told = tree.told_after(dir, after.as_ref());
        let upto = told.map(|(name, ..)| name).nth(len_max.saturating_sub(1)).cloned();
        let held = held(dir, after.as_ref(), upto.as_ref(), tree, ledger);
        let directory = |held: &Held| held.node.filter(|_| held.kind == FileKind::Directory);
        let subdirs = held.values().flatten().filter_map(directory).collect();
        self.asked = Some(Asked { dir, upto: upto.clone() });
        let is_polled = is_polled && self.polls.current() == Some(dir);
        Some(Rescan { dir, after, upto, len_max, subdirs, is_polled })
    }

    /// The directory could not be listed, for a reason that may pass.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.polls.listed(now);
        if let Some(asked) = self.asked.take()
            && let Some(stale) = self.stale.get_mut(&asked.dir)
        {
            stale.retry_at = now.checked_add(Self::RETRY);
            if stale.itself.is_empty() && self.polls.unlisted(asked.dir) {
                self.remove(asked.dir);
            }
        }
    }

    /// The difference, and its directory. `touched` is the first name of which something else was
    /// told while the directory was listed. `None` when the answer is no use any more.
    pub(super) fn compare(
        &mut self,
        now: Instant,
        listing: Listing,
        touched: Option<&Name>,
        tree: &Tree,
        ledger: &Ledger,
    ) -> Option<(NodeId, Net)> {
        let rest_until = self.polls.listed(now);
        let Asked { dir, upto } = self.asked.take()?;
        let stale = self.stale.get_mut(&dir)?;
        let upto = [upto, listing.upto].into_iter().flatten().min();
        let wanted = |name: &Name| {
            stale.after.as_ref().is_none_or(|after| name > after)
                && upto.as_ref().is_none_or(|upto| name <= upto)
        };
        let mut names: BTreeMap<Name, (Vec<Held>, Option<Listed>)> = BTreeMap::new();
        for (name, held) in held(dir, stale.after.as_ref(), upto.as_ref(), tree, ledger) {
            names.entry(name.clone()).or_default().0 = held;
        }
        for listed in listing.entries.into_iter().filter(|listed| wanted(&listed.name)) {
            let name = listed.name.clone();
            names.entry(name).or_default().1 = Some(listed);
        }
        for name in self.polls.names_seen(dir, stale.after.as_ref(), upto.as_ref()) {
            names.entry(name.clone()).or_default();
        }
        let mut net = Net { itself: stale.itself, changes: Vec::new() };
        stale.itself = Mask::empty();
        stale.retry_at = rest_until.filter(|_| stale.is_polled);
        let mut done = None;
        for (name, (held, listed)) in names {
            if touched.is_some_and(|touched| *touched <= name) {
                if done.is_some() {
                    stale.after = done;
                } else {
                    stale.retry_at = now.checked_add(Self::RETRY);
                }
                return Some((dir, net));
            }
            let before = match self.polls.seen(dir) {
                Some(seen) => Before::Known(seen.get(&name)),
                None => Before::InStep(stale.since),
            };
            let found = listed.clone();
            difference(&name, held, listed, before, &listing.removed, &mut net.changes);
            self.polls.note(dir, &name, found.as_ref());
            done = Some(name);
        }
        match upto {
            Some(upto) => stale.after = Some(upto),
            None => {
                self.remove(dir);
                self.polls.done(dir);
            }
        }
        Some((dir, net))
    }
}

/// From when on the time of a change may be that of one which came after `in_step`.
fn since(in_step: SystemTime) -> SystemTime {
    in_step.checked_sub(Nets::GRANULARITY).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Stale {
    fn new(nth: u64, since: SystemTime) -> Self {
        let (itself, is_polled) = (Mask::empty(), false);
        Self { nth, since, after: None, itself, retry_at: None, is_polled }
    }
}

/// What a name had before.
#[derive(Clone, Copy)]
enum Before<'a> {
    /// It is not known. Events about it may be missing since then.
    InStep(SystemTime),
    /// This, or nothing.
    Known(Option<&'a Seen>),
}

impl Before<'_> {
    /// Whether a listed entry is new. `same` says that the guest knows the object under the name.
    fn is_new(&self, listed: &Listed, same: bool) -> bool {
        match self {
            Self::InStep(since) if same => listed.born.is_some_and(|at| at >= *since),
            Self::InStep(since) => listed.changed >= *since,
            Self::Known(seen) => seen.is_none_or(|seen| !same && seen.is_other(listed)),
        }
    }

    /// Whether the object has changed in any way.
    fn has_changed(&self, listed: &Listed) -> bool {
        match self {
            Self::InStep(since) => listed.changed >= *since,
            Self::Known(seen) => seen.is_none_or(|seen| seen.changed != Some(listed.changed)),
        }
    }

    /// What is not there any more, of which the guest knows nothing.
    fn gone(&self, listed: Option<&Listed>) -> Option<&Seen> {
        match self {
            Self::Known(Some(seen)) => {
                Some(*seen).filter(|seen| listed.is_none_or(|listed| seen.is_other(listed)))
            }
            Self::Known(None) | Self::InStep(_) => None,
        }
    }
}

/// What the guest believes, or will when it has replayed what it was sent, of the names behind
/// `after` up to `upto`.
fn held<'a>(
    dir: NodeId,
    after: Option<&Name>,
    upto: Option<&Name>,
    tree: &'a Tree,
    ledger: &'a Ledger,
) -> BTreeMap<&'a Name, Vec<Held>> {
    let by_object = |name: &Name, object: Option<&Fid>, kind| {
        let node = object.and_then(|object| tree.node_at(object, kind, dir, name));
        Held { object: object.cloned(), node, kind }
    };
    let by_node = |id: &NodeId| {
        let kind = tree.kind(*id).unwrap_or_default();
        Held { object: tree.fid(*id), node: Some(*id), kind }
    };
    let mut held = BTreeMap::new();
    for (name, nodes, shown) in tree.told_after(dir, after) {
        if upto.is_some_and(|upto| name > upto) {
            break;
        }
        let shown = shown.map(|shown| by_object(name, shown.object.as_ref(), shown.kind));
        held.insert(name, nodes.iter().map(by_node).chain(shown).collect::<Vec<_>>());
    }
    ledger.outstanding(dir, |name, step, object, kind| {
        if after.is_some_and(|after| name <= after) || upto.is_some_and(|upto| name > upto) {
            return;
        }
        let here = held.entry(name).or_default();
        match step {
            Step::Arrives | Step::Leaves => {
                here.retain(|held| object.is_some() && held.object.as_ref() != object);
            }
            Step::Replaces => here.clear(),
        }
        if step != Step::Leaves {
            here.push(by_object(name, object, kind));
        }
    });
    held
}

/// Adds to `changes` what has to be told about one name.
fn difference(
    name: &Name,
    held: Vec<Held>,
    listed: Option<Listed>,
    before: Before<'_>,
    removed: &[NodeId],
    changes: &mut Vec<Change>,
) {
    let (same, gone): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|held| listed.as_ref().is_some_and(|listed| held.is(listed)));
    let mut replaced = !gone.is_empty();
    if let Some(seen) = before.gone(listed.as_ref()).filter(|_| same.is_empty() && !replaced) {
        let (object, kind) = (seen.object.clone(), seen.kind);
        changes.push(Change { name: name.clone(), mask: Mask::DELETE, object, node: None, kind });
        replaced = true;
    }
    for Held { object, node, kind } in gone {
        // A replayed rmdir(2) leaves a dead directory behind, wherever it was moved.
        let moved = kind == FileKind::Directory && node.is_some_and(|id| !removed.contains(&id));
        let mask = if moved { Mask::MOVED_FROM } else { Mask::DELETE };
        changes.push(Change { name: name.clone(), mask, object, node, kind });
    }
    let Some(listed) = listed else { return };
    let is_new = before.is_new(&listed, !same.is_empty());
    let has_changed = before.has_changed(&listed);
    let Listed { name, object, kind, .. } = listed;
    let mask = match (replaced || is_new, kind) {
        (true, FileKind::Regular) => Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE,
        (true, _) => Mask::CREATE,
        (false, _) if !has_changed => return,
        (false, FileKind::Regular) => Mask::CONTENT,
        (false, _) => Mask::ATTRIB,
    };
    let node = same.iter().find_map(|held| held.node);
    changes.push(Change { name, mask, object, node, kind });
}

impl Held {
    /// Whether a listed entry is this object, as far as can be told.
    fn is(&self, listed: &Listed) -> bool {
        match (&self.object, &listed.object) {
            (Some(held), Some(listed)) => held == listed,
            (None, _) | (_, None) => {
                let directory = FileKind::Directory;
                self.kind == listed.kind
                    || (self.kind == FileKind::Unknown && listed.kind != directory)
            }
        }
    }
}
