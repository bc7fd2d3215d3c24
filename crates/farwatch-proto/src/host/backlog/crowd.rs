// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Events that wait in vain: many about the same few names. A comparison of their directory says in a few events what
//! follows from all of them, so where the client is far behind, that overtakes them. [`Engine`](super::super::Engine)
//! decides when; this finds and drops them.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use super::{Backlog, Pending};
use crate::{Entry, GuestEvent, Name, NodeId};

impl Backlog {
    /// So many events about each name of a directory, in the mean, are more than a comparison costs: an exchange is four,
    /// and a difference two messages, of which one takes several calls.
    const PER_NAME_MIN: usize = 8;

    /// When the event that is next was observed, if at least `len_min` wait.
    pub(in super::super) fn waits_since(&self, len_min: usize) -> Option<Instant> {
        if self.queue.len() < len_min {
            return None;
        }
        self.queue.front()?.observed
    }

    /// When the oldest event that waits was observed.
    pub(in super::super) fn oldest(&self) -> Option<Instant> {
        self.queue.iter().take(Self::OLDEST_WITHIN).find_map(|pending| pending.observed)
    }

    /// Events that follow from comparisons and may be in front of others.
    const OLDEST_WITHIN: usize = 64;

    /// Drops the events of directories in which far fewer names have changed than events wait, and says so to the client.
    /// Returns these directories, and those that a dropped rename concerned besides, each with the time up to which no
    /// event about it is missing.
    pub(in super::super) fn drop_crowds(&mut self) -> BTreeMap<NodeId, SystemTime> {
        let crowds = self.crowds();
        let mut dirs = BTreeMap::new();
        if crowds.is_empty() {
            return dirs;
        }
        self.looked = false;
        let is_crowd = |dir: &NodeId| crowds.binary_search(dir).is_ok();
        let all = std::mem::take(&mut self.queue);
        for pending in all {
            let entries = pending.entries();
            if !entries.iter().flatten().any(|entry| is_crowd(&entry.dir.id)) {
                self.queue.push_back(pending);
                continue;
            }
            for entry in entries.into_iter().flatten() {
                let in_step = dirs.entry(entry.dir.id).or_insert(pending.in_step);
                *in_step = pending.in_step.min(*in_step);
            }
            self.count(&pending, false);
            self.give_up();
        }
        self.overflow = true;
        dirs
    }

    /// In order.
    ///
    /// The whole backlog is sorted under the lock of the share, so names are compared by their hashes alone, which takes
    /// some milliseconds at the limit. Two names with one hash count as one: at worst, a directory is compared whose events
    /// could have been delivered.
    fn crowds(&self) -> Vec<NodeId> {
        let mut entries: Vec<(NodeId, u64)> = Vec::with_capacity(self.queue.len());
        for pending in &self.queue {
            let named = pending.entries().into_iter().flatten();
            entries.extend(named.map(|entry| (entry.dir.id, hash(&entry.name))));
        }
        entries.sort_unstable();
        let by_dir = entries.chunk_by(|one, two| one.0 == two.0);
        let crowds = by_dir.filter_map(|events| {
            let names = events.chunk_by(|one, two| one.1 == two.1).count();
            let (dir, _) = events.first()?;
            (events.len() >= Self::PER_NAME_MIN * names).then_some(*dir)
        });
        crowds.filter(|dir| !dir.is_reserved()).collect()
    }
}

/// FNV-1a of 64 bits.
fn hash(name: &Name) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    name.as_bytes()
        .iter()
        .fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

impl Pending {
    /// The entries that a comparison would say more of: those of an observed event.
    fn entries(&self) -> [Option<&Entry>; 2] {
        if self.observed.is_none() {
            // What a comparison has found happened at any time before.
            return [None, None];
        }
        match &self.event {
            GuestEvent::Entry { entry, .. } => [Some(entry), None],
            GuestEvent::Rename { from, to, .. } => [Some(from), Some(to)],
            GuestEvent::Object { .. } | GuestEvent::Overflow => [None, None],
        }
    }
}
