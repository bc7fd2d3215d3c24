// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Polls`]: the known directories that the host cannot watch, at a limit or since the file system refuses. Each is
//! compared with the host at an interval, in turn, and at once when a barrier waits.
//!
//! ```text
//!   could not be watched              the oldest, if it is due and the time for comparisons is not spent
//!   ────────────────────▶ waiting ──────────────────────────────────────────────────▶ compared
//!                            ▲                                                           │
//!                            └───────────── all names compared, or not listed ───────────┘
//!                                                                                        │ watched in the meantime
//!                                                                                        ▼
//!                                                                                    not polled
//! ```
//!
//! The comparison itself is that of [`Nets`](super::net::Nets), which owns this. What is added is what a
//! directory had when it was last compared: a net has to take each object that has changed in the last seconds for
//! changed, and a poll would say so again and again.
//!
//! How often it is done is bounded by time: comparisons take a small part of the watch thread's, whatever the number of
//! directories and however slow their file system is.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant, SystemTime};

use super::net::Listed;
use super::tree::Shown;
use crate::{Fid, FileKind, Name, NodeId};

/// What a name had when its directory was last compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) object: Option<Fid>,
    pub(super) kind: FileKind,
    /// `None` if the guest has brought the object there since: then what was done to it by others is not known.
    pub(super) changed: Option<SystemTime>,
}

#[derive(Debug)]
struct Polled {
    /// Which comparison was the last; the place in [`Polls::queue`].
    nth: u64,
    /// When that was begun.
    begun: Option<Instant>,
    /// Up to when events were last known not to be missing, by the host's clock: the beginnings of the last two
    /// comparisons. What the last one found may not have been delivered.
    in_step: [SystemTime; 2],
    /// What was there, if all of it is known. What is not among it was not there.
    seen: BTreeMap<Name, Seen>,
    is_whole: bool,
    /// The comparison that is under way began with the first name, and nothing that it found was dropped.
    becomes_whole: bool,
    /// It could not be listed the last time.
    is_unlisted: bool,
    /// A watch was set: one more comparison, and it is not polled any more.
    is_watched: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Polls {
    dirs: BTreeMap<NodeId, Polled>,
    /// By the number of the last comparison, the oldest first.
    queue: BTreeMap<u64, NodeId>,
    interval: Duration,
    /// Comparisons begun so far; each directory also gets a number when it comes.
    count: u64,
    /// The one that is being compared, with the number of that.
    current: Option<(NodeId, u64)>,
    /// What was compared up to this number is to be compared again at once.
    demanded: u64,
    /// The time for comparisons is spent until then.
    rest_until: Option<Instant>,
    /// When the listing that is under way was asked for.
    asked_at: Option<Instant>,
    /// Names in all that was seen.
    seen_len: usize,
}

impl Default for Polls {
    fn default() -> Self {
        Self {
            dirs: BTreeMap::new(),
            queue: BTreeMap::new(),
            interval: Self::INTERVAL,
            count: 0,
            current: None,
            demanded: 0,
            rest_until: None,
            asked_at: None,
            seen_len: 0,
        }
    }
}

impl Polls {
    /// How long after a comparison was begun the next one is due, unless told otherwise.
    pub(super) const INTERVAL: Duration = Duration::from_secs(1);
    /// The most names of which it is remembered what they had, some 200 bytes each. Without that, a change of a file is
    /// delivered for as long as the clock of a file system may be behind.
    const SEEN_MAX: usize = 1 << 18;
    /// After a listing there is a pause of so many times what it took: a twentieth of the thread's time goes to polls.
    const REST: u32 = 19;
    /// The same while a barrier waits: a quarter.
    const REST_ON_DEMAND: u32 = 3;

    /// Has each directory compared so often.
    pub(super) fn every(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Nothing is known any more.
    pub(super) fn clear(&mut self) {
        *self = Self { interval: self.interval, ..Self::default() };
    }

    /// How many directories are polled.
    pub(super) fn len(&self) -> usize {
        self.dirs.len()
    }

    /// The one that is being compared.
    pub(super) fn current(&self) -> Option<NodeId> {
        self.current.map(|(dir, _)| dir)
    }

    /// How many of them could not be listed the last time, which nobody can say anything about.
    pub(super) fn unlisted_len(&self) -> usize {
        self.dirs.values().filter(|polled| polled.is_unlisted).count()
    }

    /// How many have not been compared since a barrier asked for it.
    pub(super) fn demanded_len(&self) -> usize {
        self.queue.range(..=self.demanded).count()
    }

    /// A directory could not be watched. In step are its watchers up to `in_step`.
    pub(super) fn insert(&mut self, dir: NodeId, in_step: SystemTime) {
        if let Some(polled) = self.dirs.get_mut(&dir) {
            polled.is_watched = false;
            return;
        }
        self.count += 1;
        let nth = self.count;
        let polled = Polled {
            nth,
            begun: None,
            in_step: [in_step; 2],
            seen: BTreeMap::new(),
            is_whole: false,
            becomes_whole: false,
            is_unlisted: false,
            is_watched: false,
        };
        self.dirs.insert(dir, polled);
        self.queue.insert(nth, dir);
    }

    /// It is watched now. `true` if it was polled: it has to be compared once more.
    pub(super) fn watched(&mut self, dir: NodeId) -> bool {
        self.current.take_if(|(current, _)| *current == dir);
        self.dirs.get_mut(&dir).map(|polled| polled.is_watched = true).is_some()
    }

    /// It is not polled any more.
    pub(super) fn remove(&mut self, dir: NodeId) {
        if let Some(polled) = self.dirs.remove(&dir) {
            self.queue.remove(&polled.nth);
            self.seen_len -= polled.seen.len();
        }
        self.current.take_if(|(current, _)| *current == dir);
    }

    /// The guest has forgotten directories.
    pub(super) fn retain(&mut self, known: impl Fn(NodeId) -> bool) {
        let gone: Vec<_> = self.dirs.keys().copied().filter(|dir| !known(*dir)).collect();
        gone.into_iter().for_each(|dir| self.remove(dir));
    }

    /// Up to when events about a directory are known not to be missing, if it is polled.
    pub(super) fn in_step(&self, dir: NodeId) -> Option<SystemTime> {
        self.dirs.get(&dir).map(|polled| polled.in_step[1])
    }

    /// Something that a comparison found was dropped: what was seen there was not told.
    pub(super) fn unsee(&mut self, dir: NodeId) {
        if let Some(polled) = self.dirs.get_mut(&dir) {
            polled.unsee(&mut self.seen_len);
        }
    }

    /// The client is gone, and with it what it was to be told.
    pub(super) fn unsee_all(&mut self) {
        for polled in self.dirs.values_mut() {
            polled.unsee(&mut self.seen_len);
        }
        (self.current, self.asked_at) = (None, None);
    }

    /// The client listens from `now` on, and was owed nothing before.
    pub(super) fn begin(&mut self, now: SystemTime) {
        self.unsee_all();
        for polled in self.dirs.values_mut() {
            polled.in_step = [now; 2];
        }
    }

    /// All that is polled is to be compared at once. Returns what [`Polls::has_before`] takes.
    pub(super) fn demand(&mut self) -> u64 {
        // Those that are known from now on, and what is being compared, come after.
        self.demanded = self.count;
        self.count += 1;
        self.demanded
    }

    /// What was compared last, for [`Polls::has_before`].
    pub(super) fn mark(&self) -> u64 {
        self.demanded
    }

    /// Whether a directory has not been compared since that mark.
    pub(super) fn has_before(&self, mark: u64) -> bool {
        self.queue.first_key_value().is_some_and(|(nth, _)| *nth <= mark)
    }

    /// When a directory is to be compared next, if none is being compared.
    pub(super) fn due_at(&self, now: Instant) -> Option<Instant> {
        if self.current.is_some() {
            return None;
        }
        let (nth, dir) = self.queue.first_key_value()?;
        let begun = self.dirs.get(dir)?.begun.filter(|_| *nth > self.demanded);
        let due = begun.map_or(Some(now), |begun| begun.checked_add(self.interval))?;
        Some(self.rest_until.map_or(due, |rest| rest.max(due)))
    }

    /// The directory to compare now. It counts as being compared until [`Polls::done`] or [`Polls::unlisted`].
    pub(super) fn next(&mut self, now: Instant, knows: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        while self.due_at(now).is_some_and(|at| at <= now) {
            let (_, dir) = self.queue.first_key_value()?;
            let dir = *dir;
            if !knows(dir) {
                self.remove(dir);
                continue;
            }
            self.count += 1;
            self.current = Some((dir, self.count));
            return Some(dir);
        }
        None
    }

    /// A piece of a directory is about to be listed. `is_first` says that it begins with the first name.
    pub(super) fn asked(&mut self, now: Instant, dir: NodeId, is_first: bool, at: SystemTime) {
        let Some(polled) = self.dirs.get_mut(&dir) else { return };
        self.asked_at = Some(now);
        if is_first {
            polled.becomes_whole = true;
            polled.begun = Some(now);
            if !polled.is_whole {
                self.seen_len -= polled.seen.len();
                polled.seen.clear();
            }
            polled.in_step = [at, polled.in_step[0]];
        }
    }

    /// It has been listed, or could not be. Returns until when the next listing is left alone.
    pub(super) fn listed(&mut self, now: Instant) -> Option<Instant> {
        let took = now.saturating_duration_since(self.asked_at.take()?);
        let is_demanded = self.has_before(self.demanded);
        let rest = took * if is_demanded { Self::REST_ON_DEMAND } else { Self::REST };
        self.rest_until = now.checked_add(rest);
        self.rest_until
    }

    /// What a directory had when it was last compared; `None` if that is not known.
    pub(super) fn seen(&self, dir: NodeId) -> Option<&BTreeMap<Name, Seen>> {
        self.dirs.get(&dir).filter(|polled| polled.is_whole).map(|polled| &polled.seen)
    }

    /// The names of a directory that it had, in a range.
    pub(super) fn names_seen<'a>(
        &'a self,
        dir: NodeId,
        after: Option<&Name>,
        upto: Option<&Name>,
    ) -> impl Iterator<Item = &'a Name> + use<'a> {
        let bounds = (after.map_or(Unbounded, |after| Excluded(after.clone())), Unbounded);
        let upto = upto.cloned();
        let names = self.seen(dir).into_iter().flat_map(move |seen| seen.range(bounds.clone()));
        names.map(|(name, _)| name).take_while(move |name| upto.as_ref().is_none_or(|u| *name <= u))
    }

    /// A name has been compared, and this was found.
    pub(super) fn note(&mut self, dir: NodeId, name: &Name, found: Option<&Listed>) {
        self.put(dir, name, found.map(Seen::of));
    }

    /// The guest has changed a name itself: this is there now.
    pub(super) fn own(&mut self, dir: NodeId, name: &Name, shown: Option<Shown>) {
        let seen = shown.map(|Shown { object, kind }| Seen { object, kind, changed: None });
        self.put(dir, name, seen);
    }

    fn put(&mut self, dir: NodeId, name: &Name, seen: Option<Seen>) {
        let Some(polled) = self.dirs.get_mut(&dir) else { return };
        if !polled.is_whole && !polled.becomes_whole {
            return;
        }
        match seen {
            Some(seen) => {
                self.seen_len += usize::from(polled.seen.insert(name.clone(), seen).is_none());
            }
            None => self.seen_len -= usize::from(polled.seen.remove(name).is_some()),
        }
        if self.seen_len > Self::SEEN_MAX {
            polled.unsee(&mut self.seen_len);
        }
    }

    /// All names of a directory are compared.
    pub(super) fn done(&mut self, dir: NodeId) {
        if let Some(polled) = self.dirs.get_mut(&dir) {
            polled.is_whole |= polled.becomes_whole;
            (polled.becomes_whole, polled.is_unlisted) = (false, false);
            if polled.is_watched {
                self.remove(dir);
                return;
            }
        }
        self.requeue(dir);
    }

    /// It cannot be listed. `true` if it is left for the next time; if it is watched by now it is not polled.
    pub(super) fn unlisted(&mut self, dir: NodeId) -> bool {
        let Some(polled) = self.dirs.get_mut(&dir).filter(|polled| !polled.is_watched) else {
            return false;
        };
        polled.is_unlisted = true;
        polled.becomes_whole = false;
        // What was missed meanwhile is found by the next comparison that can be made.
        polled.in_step[0] = polled.in_step[1];
        self.requeue(dir);
        true
    }

    fn requeue(&mut self, dir: NodeId) {
        let Some((_, nth)) = self.current.take_if(|(current, _)| *current == dir) else { return };
        if let Some(polled) = self.dirs.get_mut(&dir) {
            self.queue.remove(&polled.nth);
            polled.nth = nth;
            self.queue.insert(nth, dir);
        }
    }

    /// Asserts what holds after each input.
    pub(super) fn assert_invariants(&self) {
        assert_eq!(self.dirs.len(), self.queue.len(), "each has its turn");
        let len: usize = self.dirs.values().map(|polled| polled.seen.len()).sum();
        assert_eq!(len, self.seen_len, "names that were seen");
        for (nth, dir) in &self.queue {
            let polled = self.dirs.get(dir).expect("what has a turn is polled");
            assert!(polled.nth == *nth && *nth <= self.count, "{dir}: {polled:?}");
        }
    }
}

impl Polled {
    fn unsee(&mut self, seen_len: &mut usize) {
        *seen_len -= self.seen.len();
        self.seen.clear();
        (self.is_whole, self.becomes_whole) = (false, false);
    }
}

impl Seen {
    fn of(listed: &Listed) -> Self {
        Self { object: listed.object.clone(), kind: listed.kind, changed: Some(listed.changed) }
    }

    /// Whether a listed entry is another object, as far as can be told.
    pub(super) fn is_other(&self, listed: &Listed) -> bool {
        let both = self.object.as_ref().zip(listed.object.as_ref());
        self.kind != listed.kind || both.is_some_and(|(seen, found)| seen != found)
    }
}
