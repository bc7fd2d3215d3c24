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
        Self { stale: BTreeMap::new(), asked: None, last: None, drained, count: 0 }
    }
}

impl Nets {
    /// How far a file's timestamp can be behind the clock: file systems count in steps of up to two
    /// seconds (FAT), and a long `write(2)` sets it before its event is queued.
    const GRANULARITY: Duration = Duration::from_secs(2);
    /// How long a directory that could not be compared is left alone.
    const RETRY: Duration = Duration::from_secs(1);

    /// The kernel's queue was found empty at `now`, or later.
    pub(super) fn drained(&mut self, now: SystemTime) {
        self.drained = self.drained.max(now);
    }

    /// When the kernel's queue was last known to be empty.
    pub(super) fn drained_at(&self) -> SystemTime {
        self.drained
    }

    /// Nobody is to be told anything.
    pub(super) fn clear(&mut self) {
        *self = Self { drained: self.drained, count: self.count, ..Self::default() };
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
            let nth = self.count;
            self.stale.insert(dir, Stale { nth, since, after: None, itself, retry_at: None });
        }
    }

    /// Whether a directory is stale: events about it, or some of them, are left to its net.
    pub(super) fn has(&self, dir: NodeId) -> bool {
        self.stale.contains_key(&dir)
    }

    /// How many directories are stale.
    pub(super) fn len(&self) -> usize {
        self.stale.len()
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

    /// When a directory is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.stale.values().filter_map(|stale| stale.retry_at).min()
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
        self.lost_since(self.drained, dir, itself, tree);
    }

    fn lost_since(&mut self, in_step: SystemTime, dir: NodeId, itself: Mask, tree: &Tree) {
        if self.asked.as_ref().is_some_and(|asked| asked.dir == dir) {
            self.asked = None;
        }
        let since = in_step.checked_sub(Self::GRANULARITY).unwrap_or(SystemTime::UNIX_EPOCH);
        let stale = self.stale.entry(dir).or_insert_with(|| {
            self.count += 1;
            let nth = self.count;
            Stale { nth, since, after: None, itself: Mask::empty(), retry_at: None }
        });
        stale.after = None;
        stale.itself |= itself;
        if self.stale.len() > tree.len() {
            self.stale.retain(|dir, _| tree.knows(*dir));
        }
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
            self.stale.remove(&dir);
        };
        let after = self.stale.get(&dir)?.after.clone();
        let told = tree.told_after(dir, after.as_ref());
        let upto = told.map(|(name, ..)| name).nth(len_max.saturating_sub(1)).cloned();
        let held = held(dir, after.as_ref(), upto.as_ref(), tree, ledger);
        let directory = |held: &Held| held.node.filter(|_| held.kind == FileKind::Directory);
        let subdirs = held.values().flatten().filter_map(directory).collect();
        self.asked = Some(Asked { dir, upto: upto.clone() });
        Some(Rescan { dir, after, upto, len_max, subdirs })
    }

    /// The directory could not be listed, for a reason that may pass.
    pub(super) fn postpone(&mut self, now: Instant) {
        if let Some(asked) = self.asked.take()
            && let Some(stale) = self.stale.get_mut(&asked.dir)
        {
            stale.retry_at = now.checked_add(Self::RETRY);
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
        let mut net = Net { itself: stale.itself, changes: Vec::new() };
        stale.itself = Mask::empty();
        stale.retry_at = None;
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
            difference(&name, held, listed, stale.since, &listing.removed, &mut net.changes);
            done = Some(name);
        }
        match upto {
            Some(upto) => stale.after = Some(upto),
            None => drop(self.stale.remove(&dir)),
        }
        Some((dir, net))
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
    since: SystemTime,
    removed: &[NodeId],
    changes: &mut Vec<Change>,
) {
    let (same, gone): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|held| listed.as_ref().is_some_and(|listed| held.is(listed)));
    let replaced = !gone.is_empty();
    for Held { object, node, kind } in gone {
        // A replayed rmdir(2) leaves a dead directory behind, wherever it was moved.
        let moved = kind == FileKind::Directory && node.is_some_and(|id| !removed.contains(&id));
        let mask = if moved { Mask::MOVED_FROM } else { Mask::DELETE };
        changes.push(Change { name: name.clone(), mask, object, node, kind });
    }
    let Some(Listed { name, object, kind, changed, born }) = listed else { return };
    let new = if same.is_empty() { changed >= since } else { born.is_some_and(|at| at >= since) };
    let mask = match (replaced || new, kind) {
        (true, FileKind::Regular) => Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE,
        (true, _) => Mask::CREATE,
        (false, _) if changed < since => return,
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
