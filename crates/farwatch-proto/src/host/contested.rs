// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Contested`]: entries that host and guest may have changed at the same time.
//!
//! A guest raises the events of its own calls immediately; what the host did before that can still be
//! on its way. Then the events of an entry arrive in another order than the changes were made, and the
//! last one may say the opposite of what is true. fanotify can hide a change altogether, since it merges
//! equal events. So for each entry that may be concerned this remembers what watchers were last told,
//! and compares it with the host once nothing about the entry is on its way any more.
//!
//! The guest's kernel holds the directory's lock over a call, its own or a replayed one, and raises the
//! event before it gives the lock back (`vfs_unlink()`, `vfs_rename()`). So the order in which the server
//! answers is the order in which watchers are told.
//!
//! ```text
//!   changed by the guest, or by a host whose watcher merges
//!      │
//!      ▼          what was in the kernel's queue is handed in       the agent has looked for the probe
//!   touched ─────────────────────────────▶ read ──────────────────────────────────▶ settled
//!      ▲                                    │ nothing is on its way, no doubt          │ no doubt: dropped
//!      │                                    ▼                                          ▼ doubt: Check
//!      │                                 dropped             equal: dropped ◀──── being looked at
//!      │                                                                               │ another
//!      └──────────────── the difference is sent ◀── still so when the queue was read ──┘
//! ```
//!
//! Whatever touches an entry in between starts it again. An entry is doubtful when a change of the host
//! was observed or replayed after the guest changed it, and until a comparison finds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use super::net::Listed;
use super::tree::Shown;
use crate::{Fid, Name, NodeId};

/// What the watchers of a directory were last told of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reported {
    /// Nothing that is known here.
    Unknown,
    /// It is gone.
    Absent,
    /// This object is there.
    Present(Shown),
}

/// An entry that is to be looked at on the host. The answer is [`Input::Checked`](super::Input::Checked).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// The directory.
    pub dir: NodeId,
    /// The name in it.
    pub name: Name,
    /// Directories that the guest knows under this name: [`Checked::removed`] says which of them are gone.
    pub subdirs: Vec<NodeId>,
    /// The entry must not have been touched since.
    touched: u64,
}

/// What was found for a [`Check`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// What is under the name; `None` when nothing is.
    pub found: Option<Listed>,
    /// Those of [`Check::subdirs`] that have been removed, and do not live on under another name.
    pub removed: Vec<NodeId>,
}

/// A comparison that has found another state than the one that watchers were told.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) dir: NodeId,
    pub(super) name: Name,
    pub(super) reported: Reported,
    pub(super) checked: Checked,
}

#[derive(Debug)]
struct Slot {
    reported: Reported,
    doubtful: bool,
    /// The guest has changed it.
    by_guest: bool,
    /// What the guest has held under the name since. One of these that is gone may have a watch left.
    held: BTreeSet<NodeId>,
    /// When it was touched last, counted in touches.
    touched: u64,
    /// The touch that the host or the guest has made last: later ones are of differences that were sent. Barriers
    /// behind it wait.
    owed: u64,
    /// What a look has found that watchers were not told. It counts if the entry is still untouched when
    /// the kernel's queue has been read up to this touch.
    found: Option<(u64, Checked)>,
    /// A look is under way.
    looked_at: bool,
    tries: u32,
    /// Not to be looked at before.
    retry_at: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Contested {
    slots: BTreeMap<(NodeId, Name), Slot>,
    /// Touches so far.
    count: u64,
    /// The kernel's queue was read up to this touch.
    read: u64,
    /// A probe was sent behind all that was read up to this touch.
    probing: Option<(u64, NodeId)>,
    /// All that was read up to this touch has been replayed.
    settled: u64,
    /// What the guest has held under names that were given up without a look, since nothing was in doubt.
    given_up: BTreeSet<NodeId>,
    /// The entry that was looked at last: the next is after it.
    hand: Option<(NodeId, Name)>,
    /// Something has changed since it was last found that there is nothing to do.
    unseen: bool,
}

impl Contested {
    /// The most entries that are followed. Past it their directory is rescanned.
    pub(super) const LEN_MAX: usize = 1 << 14;
    /// The most nodes of one entry that are remembered. What is past it keeps its watch until the guest forgets it.
    const HELD_MAX: usize = 256;
    /// How often a difference is sent without a pause. An agent that cannot carry it out is not asked
    /// without end.
    const TRIES_MAX: u32 = 4;
    /// The pause after that, and after a look that failed.
    const RETRY: Duration = Duration::from_secs(1);

    /// Nothing is followed any more: nobody listens.
    pub(super) fn clear(&mut self) {
        *self = Self { count: self.count, ..Self::default() };
        (self.read, self.settled) = (self.count, self.count);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The guest has changed an entry itself, and its watchers were told; it is in doubt if it is not known what they were
    /// told last. `false` when there is no room.
    #[must_use]
    pub(super) fn guest_changed(&mut self, dir: NodeId, name: &Name, reported: Reported) -> bool {
        self.touch(dir, name, true, |slot| {
            slot.doubtful |= matches!(reported, Reported::Unknown);
            slot.reported = reported;
            slot.by_guest = true;
        })
    }

    /// A change of the host to an entry was observed. It is in doubt if the guest has changed it just before.
    pub(super) fn host_changed(&mut self, dir: NodeId, name: &Name) {
        let _followed = self.touch(dir, name, false, |slot| slot.doubtful = true);
    }

    /// What watchers were told of an entry may be wrong. `false` when there is no room.
    #[must_use]
    pub(super) fn doubt(&mut self, dir: NodeId, name: &Name) -> bool {
        self.touch(dir, name, true, |slot| slot.doubtful = true)
    }

    /// A change of the host was replayed: watchers were told this.
    pub(super) fn replayed(
        &mut self,
        dir: NodeId,
        name: &Name,
        reported: impl FnOnce() -> Reported,
    ) {
        if self.slots.is_empty() {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&(dir, name.clone())) {
            slot.reported = reported();
            slot.doubtful = true;
            self.unseen = true;
        }
    }

    /// A change of the host was replayed: an object has left the name. `stays` came there with the first of two
    /// renames that are an exchange, of which this is the second: if nothing has happened to the name since,
    /// it is there, though programs that add the events up believe that it is not, as on a local directory.
    pub(super) fn left(&mut self, dir: NodeId, name: &Name, stays: Option<&Fid>) {
        let Some(slot) = self.slots.get_mut(&(dir, name.clone())) else { return };
        slot.doubtful = true;
        self.unseen = true;
        let is_there = stays.is_some()
            && matches!(&slot.reported, Reported::Present(shown) if shown.object.as_ref() == stays);
        if !is_there {
            slot.reported = Reported::Absent;
        }
    }

    /// Whether an entry is followed that the guest has changed.
    pub(super) fn is_by_guest(&self, dir: NodeId, name: &Name) -> bool {
        !self.slots.is_empty()
            && self.slots.get(&(dir, name.clone())).is_some_and(|slot| slot.by_guest)
    }

    /// The guest holds, or is about to give up, these nodes under a name, if that is followed.
    pub(super) fn held(&mut self, dir: NodeId, name: &Name, nodes: &[NodeId]) {
        if self.slots.is_empty() {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&(dir, name.clone())) {
            let room = Self::HELD_MAX.saturating_sub(slot.held.len());
            slot.held.extend(nodes.iter().take(room));
        }
    }

    fn touch(
        &mut self,
        dir: NodeId,
        name: &Name,
        insert: bool,
        change: impl FnOnce(&mut Slot),
    ) -> bool {
        if self.slots.is_empty() && !insert {
            return true;
        }
        let key = (dir, name.clone());
        if !self.slots.contains_key(&key) {
            if !insert || self.slots.len() >= Self::LEN_MAX {
                return !insert;
            }
            let slot = Slot {
                reported: Reported::Unknown,
                doubtful: false,
                by_guest: false,
                held: BTreeSet::new(),
                touched: 0,
                owed: 0,
                found: None,
                looked_at: false,
                tries: 0,
                retry_at: None,
            };
            self.slots.insert(key.clone(), slot);
        }
        if let Some(slot) = self.slots.get_mut(&key) {
            self.count += 1;
            slot.touched = self.count;
            slot.owed = self.count;
            slot.found = None;
            slot.looked_at = false;
            change(slot);
        }
        true
    }

    /// Up to which touch the kernel's queue is to be read, if it has not been.
    pub(super) fn to_read(&self) -> Option<u64> {
        (!self.slots.is_empty() && self.count > self.read).then_some(self.count)
    }

    /// Touches so far, for [`Contested::has_before`].
    pub(super) fn mark(&self) -> u64 {
        self.count
    }

    /// Whether an entry is still followed that the host or the guest has touched before that mark and not since.
    pub(super) fn has_before(&self, mark: u64) -> bool {
        self.slots.values().any(|slot| slot.owed <= mark)
    }

    /// What was in the kernel's queue at some time after this touch has been handed in. `idle` says that
    /// nothing is on its way to the guest. Returns the differences that hold.
    pub(super) fn handle_read(&mut self, touch: u64, idle: bool) -> Vec<Difference> {
        self.read = self.read.max(touch);
        if idle {
            self.settle(touch);
        }
        let mut differences = Vec::new();
        for ((dir, name), slot) in &mut self.slots {
            let Some((_, checked)) = slot.found.take_if(|(at, _)| *at <= touch) else { continue };
            self.count += 1;
            slot.touched = self.count;
            slot.tries += 1;
            // Compared once more when the difference has been replayed; until then barriers wait for it.
            slot.looked_at = false;
            let (dir, name, reported) = (*dir, name.clone(), slot.reported.clone());
            differences.push(Difference { dir, name, reported, checked });
        }
        differences
    }

    /// All that was observed before this touch has been replayed.
    fn settle(&mut self, touch: u64) {
        self.settled = self.settled.max(touch);
        self.unseen = true;
        let (settled, given_up) = (self.settled, &mut self.given_up);
        self.slots.retain(|_, slot| {
            let stays = slot.doubtful || slot.touched > settled;
            if !stays {
                given_up.append(&mut slot.held);
            }
            stays
        });
    }

    /// Takes what the guest has held under names that were given up without a look.
    pub(super) fn take_given_up(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.given_up)
    }

    /// Whether a probe is to be sent behind what is on its way.
    pub(super) fn wants_probe(&self) -> bool {
        let waits = |slot: &Slot| slot.touched > self.settled && slot.touched <= self.read;
        self.probing.is_none() && self.slots.values().any(waits)
    }

    /// Whether a probe is on its way.
    pub(super) fn is_probing(&self) -> bool {
        self.probing.is_some()
    }

    /// The probe has been sent.
    pub(super) fn probe_sent(&mut self, probe: NodeId) {
        self.probing = Some((self.read, probe));
    }

    /// The agent looks for a node. `true` when that was the probe's.
    pub(super) fn handle_probe(&mut self, node: NodeId) -> bool {
        let Some((touch, _)) = self.probing.take_if(|(_, probe)| *probe == node) else {
            return false;
        };
        self.settle(touch);
        true
    }

    /// Whether there may be something to do that was not there at the last [`Contested::seen`].
    pub(super) fn is_unseen(&self) -> bool {
        self.unseen && !self.slots.is_empty()
    }

    /// There is nothing to do now.
    pub(super) fn seen(&mut self) {
        self.unseen = false;
    }

    /// The next entry to look at. `subdirs` says which directories the guest knows there.
    pub(super) fn poll_check(
        &mut self,
        now: Instant,
        subdirs: impl FnOnce(NodeId, &Name) -> Vec<NodeId>,
    ) -> Option<Check> {
        let settled = self.settled;
        let due = |slot: &Slot| slot.retry_at.is_none_or(|at| at <= now);
        let is_next = |slot: &Slot| slot.is_waiting(settled) && due(slot);
        let after = self.hand.take().map_or(Unbounded, Excluded);
        let later = self.slots.range((after, Unbounded)).find(|(_, slot)| is_next(slot));
        let (key, _) = later.or_else(|| self.slots.iter().find(|(_, slot)| is_next(slot)))?;
        let key = key.clone();
        self.hand = Some(key.clone());
        let slot = self.slots.get_mut(&key)?;
        slot.looked_at = true;
        let (dir, name) = key;
        let subdirs = subdirs(dir, &name);
        Some(Check { dir, name, subdirs, touched: slot.touched })
    }

    /// When an entry is to be looked at again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let waiting = self.slots.values().filter(|slot| slot.is_waiting(self.settled));
        waiting.filter_map(|slot| slot.retry_at).min()
    }

    /// What was found. An entry that was touched in the meantime is looked at again later. Returns what the guest
    /// has held under a name that is not followed any more.
    pub(super) fn handle_checked(
        &mut self,
        now: Instant,
        check: Check,
        checked: Checked,
    ) -> BTreeSet<NodeId> {
        let key = (check.dir, check.name);
        let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.touched == check.touched)
        else {
            return BTreeSet::new();
        };
        if slot.reported.agrees(checked.found.as_ref()) {
            return self.slots.remove(&key).map(Slot::into_held).unwrap_or_default();
        }
        if slot.tries >= Self::TRIES_MAX {
            slot.tries = 0;
            slot.looked_at = false;
            // Nobody need wait for what an agent cannot carry out.
            self.count += 1;
            slot.owed = self.count;
            slot.retry_at = now.checked_add(Self::RETRY);
            return BTreeSet::new();
        }
        // What has just happened on the host may be on its way by itself.
        self.count += 1;
        slot.found = Some((self.count, checked));
        BTreeSet::new()
    }

    /// The entry could not be looked at. It is tried again later, or never if the guest has given the
    /// directory up. Returns what the guest has held under a name that is not followed any more.
    pub(super) fn handle_unchecked(
        &mut self,
        now: Instant,
        check: Check,
        known: bool,
    ) -> BTreeSet<NodeId> {
        let key = (check.dir, check.name);
        if !known {
            return self.slots.remove(&key).map(Slot::into_held).unwrap_or_default();
        }
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.looked_at = false;
            slot.retry_at = now.checked_add(Self::RETRY);
        }
        BTreeSet::new()
    }

    /// Asserts what holds after each input.
    pub(super) fn assert_invariants(&self) {
        assert!(self.slots.len() <= Self::LEN_MAX, "{} entries", self.slots.len());
        assert!(self.settled <= self.read && self.read <= self.count, "{self:?}");
        for ((dir, name), slot) in &self.slots {
            assert!(!dir.is_reserved(), "{dir} is not in the share");
            let last = slot.found.as_ref().map_or(slot.touched, |(at, _)| *at);
            assert!(
                slot.owed > 0 && slot.touched > 0 && slot.touched <= last && last <= self.count,
                "{dir}/{name:?}: {slot:?}, {} touches",
                self.count
            );
        }
    }
}

impl Slot {
    /// What the guest has held under the name, if it has changed that itself: only then can an object have been left
    /// without the name that a replay takes from it.
    fn into_held(self) -> BTreeSet<NodeId> {
        if self.by_guest { self.held } else { BTreeSet::new() }
    }

    fn is_waiting(&self, settled: u64) -> bool {
        self.doubtful && self.touched <= settled && !self.looked_at
    }
}

impl Reported {
    fn agrees(&self, found: Option<&Listed>) -> bool {
        match (self, found) {
            (Self::Absent, None) => true,
            (Self::Present(shown), Some(found)) => shown.is(found),
            (Self::Unknown, _) | (Self::Absent, Some(_)) | (Self::Present(_), None) => false,
        }
    }
}
