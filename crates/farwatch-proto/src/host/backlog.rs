// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Backlog`]: the events that wait for a buffer of the client's. Bounded, and in order.
//!
//! An event joins the one before it when both are about the same entry of the same object and their
//! bits come in the order in which a message delivers them: nothing is reordered by that, and the
//! only thing lost is a repetition, which inotify loses too. An OPEN or CLOSE_NOWRITE is not lost: there
//! are as many of the one as of the other. At its limit single events are given
//! up, and the client is told so by one [`GuestEvent::Overflow`]; `net` makes up for them.

mod crowd;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Instant, SystemTime};

use super::barrier::Barriers;
use crate::{Entry, Fid, FileKind, GuestEvent, Mask, Name, NodeId};

/// An event and the host's name of its object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    /// The event.
    pub(super) event: GuestEvent,
    /// The object, when the watcher could tell.
    pub(super) object: Option<Fid>,
    /// What has the new name of this rename is not replaced: it is moved away next
    /// (`RENAME_EXCHANGE`, which is told as two renames).
    pub(super) exchanges: bool,
    /// This rename is the second of an exchange: this object came to its old name with the first, and stays.
    pub(super) stays: Option<Fid>,
    /// When the first report that it follows from was read; `None` for what a comparison with the host has found.
    pub(super) observed: Option<Instant>,
    /// By the host's clock, what the event tells happened after this.
    pub(super) in_step: SystemTime,
}

/// What to look at: an object that was made, and of which the next event tells. What is wanted is its
/// type, if the name still leads to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    /// The directory.
    pub dir: NodeId,
    /// The name in it.
    pub name: Name,
    /// The object.
    pub object: Fid,
}

/// How many events that have not reached the guest bring an object to a name, or take it from one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct UnderWay {
    /// CREATE, MOVED_TO and renames.
    pub(super) arrivals: u32,
    /// Further names by `link(2)`, which raise `st_nlink`.
    pub(super) links: u32,
    /// DELETE, which lowers `st_nlink`.
    pub(super) removals: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Backlog {
    queue: VecDeque<Pending>,
    /// The first event's object has been looked at.
    looked: bool,
    len_max: usize,
    /// By the directory of the name, since an object in two places has each event twice.
    under_way: BTreeMap<Fid, Vec<(NodeId, UnderWay)>>,
    /// Where directories will be that have arrivals under way.
    places: BTreeMap<Fid, Entry>,
    overflow: bool,
    forgotten: u64,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            looked: false,
            len_max: Self::LEN_MAX,
            under_way: BTreeMap::new(),
            places: BTreeMap::new(),
            overflow: false,
            forgotten: 0,
        }
    }
}

impl Backlog {
    /// The most events that wait, unless told otherwise; 2^17 of them take some 40 MB.
    pub(super) const LEN_MAX: usize = 1 << 17;
    /// The most probes that wait beside the events: those of barriers, and one for contested entries.
    const PROBES_MAX: usize = Barriers::STEPS_MAX + 1;
    /// The smallest limit: below it the net of a single name would not fit.
    const LIMIT_MIN: usize = 4;
    /// The two renames of an exchange have no more events between them than this, or they are not
    /// taken for one.
    pub(super) const EXCHANGE_MAX: usize = 16;
    /// The most names of a directory that are compared in one go.
    const PIECE_MAX: usize = 1 << 14;

    /// Has at most `len_max` events wait.
    pub(super) fn limit(&mut self, len_max: usize) {
        self.len_max = len_max.max(Self::LIMIT_MIN);
    }

    /// How many names of a directory may be compared with an empty backlog, so that what comes of it
    /// fits and leaves half of the room: a name that was told can give one event and one that is
    /// listed another.
    pub(super) fn piece_len(&self) -> usize {
        (self.len_max / 4).min(Self::PIECE_MAX)
    }

    /// Adds an event at the end. `false` when it was given up.
    #[must_use]
    pub(super) fn push(&mut self, pending: Pending) -> bool {
        if self.queue.back_mut().is_some_and(|last| last.absorb(&pending)) {
            // A bit that was there already counts once: `absorb` refuses CREATE and DELETE.
            return true;
        }
        if self.queue.len() >= self.len_max {
            self.give_up();
            self.overflow = true;
            return false;
        }
        self.count(&pending, true);
        self.queue.push_back(pending);
        true
    }

    /// Adds an event that is delivered next. There must be room.
    pub(super) fn push_first(&mut self, pending: Pending) {
        self.looked = false;
        self.count(&pending, true);
        self.queue.push_front(pending);
    }

    /// Something is moved from an entry. If another has been moved there just before, the two are
    /// exchanged. `None` if nothing has happened to the entry just before.
    pub(super) fn exchanged(
        &mut self,
        from: (NodeId, &Name),
        moves: &Moves<'_>,
    ) -> Option<Exchanged> {
        let latest = self.queue.iter_mut().rev().take(Self::EXCHANGE_MAX);
        exchanged(latest, from, moves)
    }

    /// Adds the probe of a barrier at the end, of which there are few: it is never given up.
    pub(super) fn push_probe(&mut self, pending: Pending) {
        self.queue.push_back(pending);
    }

    /// Whether another event finds room.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < self.len_max
    }

    /// Counts an event that is left to a net.
    pub(super) fn give_up(&mut self) {
        self.forgotten = self.forgotten.saturating_add(1);
    }

    /// What is to be looked at before the next event is taken. A file that was closed is known to be
    /// one, so when many are made few are looked at.
    pub(super) fn look(&self) -> Option<Look> {
        let Pending { event, object, .. } = self.queue.front().filter(|_| !self.looked)?;
        let GuestEvent::Entry { entry, mask, kind: FileKind::Unknown, .. } = event else {
            return None;
        };
        let object = object.clone().filter(|_| mask.contains(Mask::CREATE))?;
        Some(Look { dir: entry.dir.id, name: entry.name.clone(), object })
    }

    /// What came of that look; nothing if something else is next by now.
    pub(super) fn looked(&mut self, look: &Look, found: FileKind) {
        if self.look().as_ref() != Some(look) {
            return;
        }
        self.looked = true;
        if let Some(Pending { event: GuestEvent::Entry { kind, .. }, .. }) = self.queue.front_mut()
            && found != FileKind::Directory
        {
            *kind = found;
        }
    }

    /// Takes the next event. An overflow is told of when the queue has been delivered up to where it
    /// happened.
    pub(super) fn pop(&mut self) -> Option<Pending> {
        self.looked = false;
        match self.queue.pop_front() {
            Some(pending) => Some(pending),
            None if self.overflow => {
                self.overflow = false;
                Some(Pending::new(GuestEvent::Overflow, None))
            }
            None => None,
        }
    }

    /// Events were lost before they came here: says so to the client when its turn comes.
    pub(super) fn overflowed(&mut self) {
        self.overflow = true;
    }

    /// The event has been replayed, or will never be.
    pub(super) fn settled(&mut self, pending: &Pending) {
        self.count(pending, false);
    }

    /// What is on its way about an object and names in the directories that `counts` lets pass.
    pub(super) fn under_way(&self, fid: &Fid, counts: impl Fn(NodeId) -> bool) -> UnderWay {
        let mut sum = UnderWay::default();
        let all = self.under_way.get(fid).into_iter().flatten();
        for (_, here) in all.filter(|(dir, _)| counts(*dir)) {
            sum.arrivals = sum.arrivals.saturating_add(here.arrivals);
            sum.links = sum.links.saturating_add(here.links);
            sum.removals = sum.removals.saturating_add(here.removals);
        }
        sum
    }

    /// Where a directory will be for the guest, when its last arrival that is under way has been told.
    pub(super) fn place(&self, fid: &Fid) -> Option<&Entry> {
        self.places.get(fid)
    }

    /// Drops everything: the client is gone.
    pub(super) fn clear(&mut self) {
        let (len_max, forgotten) = (self.len_max, self.forgotten);
        *self = Self { len_max, forgotten, ..Self::default() };
    }

    /// How many may.
    pub(super) fn len_max(&self) -> usize {
        self.len_max
    }

    /// How many events wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// True when nothing waits, not even an overflow to tell of.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.overflow
    }

    /// How many single events were given up since the daemon started.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Asserts what holds after each input. `handed_out` are the events that were taken and are not settled.
    pub(super) fn assert_invariants<'a>(&'a self, handed_out: impl Iterator<Item = &'a Pending>) {
        assert!(
            self.queue.len() <= self.len_max + Self::PROBES_MAX,
            "{} events wait, {} may",
            self.queue.len(),
            self.len_max
        );
        let mut counted = Self::default();
        for pending in self.queue.iter().chain(handed_out) {
            counted.count(pending, true);
        }
        assert_eq!(
            self.under_way.len(),
            counted.under_way.len(),
            "objects that have names under way"
        );
        for (fid, all) in &self.under_way {
            let counted = counted.under_way.get(fid).map_or(&[][..], Vec::as_slice);
            let same = all.len() == counted.len() && all.iter().all(|here| counted.contains(here));
            assert!(same, "under way of {fid:?}: {all:?}, in the queue or handed out: {counted:?}");
        }
    }

    fn count(&mut self, pending: &Pending, add: bool) {
        let Some(fid) = &pending.object else { return };
        let (dir, arrivals, links, removals) = match &pending.event {
            GuestEvent::Entry { entry, mask, link, .. } => (
                entry.dir.id,
                u32::from(mask.intersects(Mask::CREATE.union(Mask::MOVED_TO))),
                u32::from(*link),
                u32::from(mask.contains(Mask::DELETE)),
            ),
            GuestEvent::Rename { to, .. } => (to.dir.id, 1, 0, 0),
            GuestEvent::Object { .. } | GuestEvent::Overflow => return,
        };
        if (arrivals, links, removals) == (0, 0, 0) {
            return;
        }
        if add
            && arrivals > 0
            && let GuestEvent::Entry { entry: to, kind: FileKind::Directory, .. }
            | GuestEvent::Rename { to, kind: FileKind::Directory, .. } = &pending.event
        {
            self.places.insert(fid.clone(), to.clone());
        }
        let all = self.under_way.entry(fid.clone()).or_default();
        let nth = all.iter().position(|(at, _)| *at == dir).unwrap_or_else(|| {
            all.push((dir, UnderWay::default()));
            all.len() - 1
        });
        let step = |n: &mut u32, by: u32| {
            let count = if add { n.checked_add(by) } else { n.checked_sub(by) };
            *n = count.expect("an event is settled once, and only after it was pushed");
        };
        let here = &mut all[nth].1;
        step(&mut here.arrivals, arrivals);
        step(&mut here.links, links);
        step(&mut here.removals, removals);
        if *here == UnderWay::default() {
            all.remove(nth);
        }
        if all.iter().all(|(_, here)| here.arrivals == 0) {
            self.places.remove(fid);
        }
        if all.is_empty() {
            self.under_way.remove(fid);
        }
    }
}

impl Pending {
    pub(super) fn new(event: GuestEvent, object: Option<Fid>) -> Self {
        Self {
            event,
            object,
            exchanges: false,
            stays: None,
            observed: None,
            in_step: SystemTime::UNIX_EPOCH,
        }
    }

    /// Whether the entry has got or lost an object by this, and if so whether by a rename to it.
    fn turns_over(&self, dir: NodeId, name: &Name) -> Option<bool> {
        let is = |entry: &Entry| entry.dir.id == dir && entry.name == *name;
        match &self.event {
            GuestEvent::Rename { to, .. } if is(to) => Some(true),
            GuestEvent::Rename { from, .. } if is(from) => Some(false),
            GuestEvent::Entry { entry, mask, .. } if is(entry) => mask
                .intersects(Mask::MOVE | Mask::CREATE | Mask::DELETE)
                .then(|| mask.contains(Mask::MOVED_TO)),
            GuestEvent::Rename { .. }
            | GuestEvent::Entry { .. }
            | GuestEvent::Object { .. }
            | GuestEvent::Overflow => None,
        }
    }

    fn is_about_another(&self, moves: &Moves<'_>) -> bool {
        let (GuestEvent::Entry { kind, .. } | GuestEvent::Rename { kind, .. }) = self.event else {
            return false;
        };
        let both = self.object.as_ref().zip(moves.object);
        (kind == FileKind::Directory) != moves.directory
            || both.is_some_and(|(one, two)| one != two)
    }

    /// Takes `later` into this event when one message can carry both without reordering anything.
    fn absorb(&mut self, later: &Self) -> bool {
        let GuestEvent::Entry { entry, mask, child, kind, .. } = &mut self.event else {
            return false;
        };
        let GuestEvent::Entry {
            entry: entry2,
            mask: mask2,
            child: child2,
            kind: kind2,
            link: false,
        } = &later.event
        else {
            return false;
        };
        let mergeable = Mask::CONTENT.union(Mask::READS).union(Mask::ISDIR);
        // A file's type is known when it is closed.
        let closed = *kind == FileKind::Unknown && *kind2 == FileKind::Regular;
        let same = entry == entry2
            && child == child2
            && (kind == kind2 || closed)
            && self.object == later.object
            && mergeable.contains(*mask2)
            && !mask.intersects(Mask::MOVE)
            && mask.contains(Mask::ISDIR) == mask2.contains(Mask::ISDIR);
        if !same || !in_order(*mask, *mask2) {
            return false;
        }
        *mask |= *mask2;
        *kind = *kind2;
        true
    }
}

/// What is moved, as far as the watcher could tell.
#[derive(Debug)]
pub(super) struct Moves<'a> {
    pub(super) object: Option<&'a Fid>,
    pub(super) directory: bool,
}

/// The last event of an entry from which something is moved.
#[derive(Debug)]
pub(super) struct Exchanged {
    /// What it has brought there, if the two are an exchange: that stays.
    pub(super) stays: Option<Fid>,
}

/// Of these events, the latest first, one that has just brought another object to where something is now
/// moved from has not replaced it.
pub(super) fn exchanged<'a>(
    latest: impl IntoIterator<Item = &'a mut Pending>,
    (dir, name): (NodeId, &Name),
    moves: &Moves<'_>,
) -> Option<Exchanged> {
    for pending in latest {
        if let Some(arrives) = pending.turns_over(dir, name) {
            pending.exchanges |= arrives && pending.is_about_another(moves);
            let stays = pending.object.clone().filter(|_| arrives && pending.exchanges);
            return Some(Exchanged { stays });
        }
    }
    None
}

/// Whether everything in `later` comes after, or repeats the last of, what is in `earlier`.
pub(super) fn in_order(earlier: Mask, later: Mask) -> bool {
    const COUNTED: Mask = Mask::OPEN.union(Mask::CLOSE_NOWRITE);
    if earlier.intersection(later).intersects(COUNTED) {
        return false;
    }
    let last = Mask::ORDER.iter().rposition(|bit| earlier.contains(*bit));
    let first = Mask::ORDER.iter().position(|bit| later.contains(*bit));
    last.is_none_or(|last| first.is_some_and(|first| last <= first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Node;

    fn event(name: &str, mask: Mask) -> Pending {
        let entry = Entry { dir: Node::ROOT, name: Name::parse(name.as_bytes()).unwrap() };
        let event =
            GuestEvent::Entry { entry, mask, child: None, kind: FileKind::Unknown, link: false };
        let object = Some(Fid::new([1, 2], 1, name.as_bytes()).unwrap());
        Pending::new(event, object)
    }

    fn drain(backlog: &mut Backlog) -> Vec<(String, Mask)> {
        std::iter::from_fn(|| backlog.pop())
            .map(|pending| {
                let GuestEvent::Entry { entry, mask, .. } = pending.event else {
                    return (format!("{:?}", pending.event), Mask::empty());
                };
                (format!("{:?}", entry.name), mask)
            })
            .collect()
    }

    #[test]
    fn a_write_cycle_of_a_new_file_shares_one_message() {
        let mut backlog = Backlog::default();
        for mask in [Mask::CREATE, Mask::MODIFY, Mask::MODIFY, Mask::CLOSE_WRITE] {
            assert!(backlog.push(event("f", mask)));
        }
        let all = Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE;
        assert_eq!(drain(&mut backlog), [("\"f\"".into(), all)]);
    }

    #[test]
    fn each_cycle_of_a_reader_has_a_message_of_its_own() {
        let mut backlog = Backlog::default();
        for _ in 0..2 {
            for mask in [Mask::OPEN, Mask::ACCESS, Mask::ACCESS, Mask::CLOSE_NOWRITE] {
                assert!(backlog.push(event("f", mask)));
            }
        }
        for mask in [Mask::OPEN, Mask::OPEN, Mask::CLOSE_NOWRITE, Mask::CLOSE_NOWRITE] {
            assert!(backlog.push(event("f", mask)));
        }
        let told: Vec<_> = drain(&mut backlog).into_iter().map(|(_, mask)| mask).collect();
        let (open, close) = (Mask::OPEN, Mask::CLOSE_NOWRITE);
        assert_eq!(told, [Mask::READS, Mask::READS, open, open | close, close]);
    }

    #[test]
    fn events_out_of_the_delivery_order_stay_apart() {
        let mut backlog = Backlog::default();
        for mask in [Mask::CLOSE_WRITE, Mask::MODIFY, Mask::DELETE, Mask::CREATE] {
            assert!(backlog.push(event("f", mask)));
        }
        assert_eq!(backlog.len(), 4);
    }

    #[test]
    fn an_event_of_another_entry_in_between_keeps_two_apart() {
        let mut backlog = Backlog::default();
        assert!(backlog.push(event("f", Mask::MODIFY)));
        assert!(backlog.push(event("g", Mask::MODIFY)));
        assert!(backlog.push(event("f", Mask::MODIFY)));
        assert_eq!(backlog.len(), 3);
    }

    #[test]
    fn events_past_the_limit_are_counted_and_one_overflow_is_sent() {
        let mut backlog = Backlog::default();
        for i in 0..Backlog::LEN_MAX + 5 {
            let pushed = backlog.push(event(&format!("f{i}"), Mask::CREATE));
            assert_eq!(pushed, i < Backlog::LEN_MAX);
        }
        assert_eq!(backlog.forgotten(), 5);
        let events = drain(&mut backlog);
        assert_eq!(events.len(), Backlog::LEN_MAX + 1);
        assert_eq!(events.last().unwrap().0, "Overflow");
        assert!(backlog.is_empty());
    }

    #[test]
    fn pending_replay_is_counted_until_it_is_settled() {
        let mut backlog = Backlog::default();
        let create = event("f", Mask::CREATE);
        let fid = create.object.clone().unwrap();
        assert!(backlog.push(create));
        assert!(backlog.push(event("f", Mask::DELETE)));
        assert_eq!(
            backlog.under_way(&fid, |_| true),
            UnderWay { arrivals: 1, links: 0, removals: 1 }
        );
        let first = backlog.pop().unwrap();
        assert_eq!(backlog.under_way(&fid, |_| true).arrivals, 1, "handed out is still under way");
        backlog.settled(&first);
        assert_eq!(
            backlog.under_way(&fid, |_| true),
            UnderWay { arrivals: 0, links: 0, removals: 1 }
        );
    }
}
