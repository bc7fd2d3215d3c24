// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Observer`]: from inotify's reports to [`HostChange`]s.
//!
//! inotify tells less than fanotify, in another way. It numbers its watches, has the two halves of a
//! rename apart with a cookie (`halves`), names no objects (`names`), and does not say who did it
//! (`echo`). But it keeps the order of events. The watch thread reads the reports and looks up the
//! names that are asked for; all that follows from them is decided here.
//!
//! ```text
//! begin()                      before the kernel's queue is read
//! handle(now, reports)         what was read; none when the queue was empty
//! looks(tree)                  names to look up
//! read_on(now, reports)        what was in the queue after that
//! changes(tree, found)         what follows
//! drained(mark)                after all that, if the queue was empty
//! passed(mark, position)       or if all has been told that was in it at the mark
//! ```

mod echo;
mod halves;
mod links;
mod movers;
mod names;
mod objects;
mod twice;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use super::change::{HostChange, HostEntry};
use super::tree::Tree;
use crate::{Cookie, Fid, FileKind, Mask, Name, NodeId};
use echo::Echo;
pub use echo::{CallId, Doubt, Expected, Mark};
use halves::Halves;
use links::Links;
use movers::Departed;
use names::Names;
use objects::{is_reverse, objects};
use twice::Twice;

/// The number that the kernel gave a watch (`wd`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WatchId(pub i32);

/// One record of the kernel's (`struct inotify_event`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// Something happened to an entry of the watched directory.
    Entry {
        /// Of the directory.
        watch: WatchId,
        /// The entry's name.
        name: Name,
        /// What, with ISDIR for a directory.
        mask: Mask,
        /// Joins the halves of a rename.
        cookie: Option<Cookie>,
    },
    /// Something happened to the watched directory itself.
    Itself {
        /// Of the directory.
        watch: WatchId,
        /// What.
        mask: Mask,
    },
    /// There is no such watch any more (`IN_IGNORED`).
    Ignored(WatchId),
    /// The kernel's queue was full (`IN_Q_OVERFLOW`).
    Overflow,
}

/// A report about a known directory.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Entry { entry: HostEntry, mask: Mask },
    Itself { dir: Fid, mask: Mask },
    From { from: HostEntry, directory: bool, cookie: Cookie },
    To { to: HostEntry, directory: bool, cookie: Cookie },
    Move { from: HostEntry, to: HostEntry, directory: bool },
    Overflow,
}

impl Seen {
    /// The name to which something comes.
    fn arrives_at(&self) -> Option<&HostEntry> {
        match self {
            Self::Entry { entry, mask } => mask.contains(Mask::CREATE).then_some(entry),
            Self::To { to, .. } | Self::Move { to, .. } => Some(to),
            Self::From { .. } | Self::Itself { .. } | Self::Overflow => None,
        }
    }

    /// Whether it is about an entry that is a directory.
    fn is_directory(&self) -> bool {
        match self {
            Self::Entry { mask, .. } => mask.contains(Mask::ISDIR),
            Self::From { directory, .. }
            | Self::To { directory, .. }
            | Self::Move { directory, .. } => *directory,
            Self::Itself { .. } => true,
            Self::Overflow => false,
        }
    }
}

/// What an empty queue, or one that has been read far enough, means for what was taken for the daemon's own doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drained {
    /// To be settled by a look at the objects.
    pub doubts: Vec<Doubt>,
    /// Calls have ended meanwhile: the queue is to be read once more, since their reports may be in
    /// it and nothing else would say that they are not.
    pub again: bool,
}

/// What has to be looked up before it can be said what follows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Looks {
    /// The objects under these names.
    pub names: Vec<HostEntry>,
    /// The link counts of these objects, which the guest knows.
    pub links: Vec<Fid>,
}

/// What was found. What is not there is not in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The objects under names.
    pub names: BTreeMap<HostEntry, Fid>,
    /// Those of the objects that are directories.
    pub directories: BTreeSet<Fid>,
    /// Link counts.
    pub links: BTreeMap<Fid, u32>,
}

/// Something has come to a name from out of view. If what was there goes out of view next, the two have
/// changed places (`RENAME_EXCHANGE`).
#[derive(Debug)]
struct Came {
    to: HostEntry,
    was: Option<Fid>,
    /// That is a directory with something in it.
    was_filled: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Observer {
    watches: BTreeMap<WatchId, Fid>,
    by_dir: BTreeMap<Fid, WatchId>,
    /// Watches that were removed and whose end has not been reported. The kernel may give the number
    /// to another meanwhile.
    ending: BTreeMap<WatchId, u32>,
    halves: Halves,
    names: Names,
    links: Links,
    /// Directories that were found and that the guest need not know.
    directories: BTreeSet<Fid>,
    echo: Echo,
    /// Taken out of `halves`, to be told when its names have been looked up.
    batch: Vec<Seen>,
    /// Of directories that were just reported by name: the same will be reported without.
    twice: Twice,
    /// The last to come from out of view.
    came: Option<Came>,
    departed: Departed,
    /// What the second rename of an exchange moves, of which the first was told.
    second: Option<Fid>,
    /// The watch thread has read something, or is about to, and has not handed it in.
    in_hand: bool,
    /// What had been taken in before the names were looked up.
    looked: u64,
}

impl Observer {
    /// The most directories that are remembered without being watched. Past it all are forgotten, and one that is
    /// moved may be taken for what was there before.
    const DIRECTORIES_MAX: usize = 1 << 12;

    /// With `join`, the halves of a rename become one move.
    pub fn new(join: bool) -> Self {
        Self {
            watches: BTreeMap::new(),
            by_dir: BTreeMap::new(),
            ending: BTreeMap::new(),
            halves: Halves::new(join),
            names: Names::default(),
            links: Links::default(),
            directories: BTreeSet::new(),
            echo: Echo::default(),
            batch: Vec::new(),
            twice: Twice::default(),
            came: None,
            departed: Departed::default(),
            second: None,
            in_hand: false,
            looked: 0,
        }
    }

    /// A directory is watched.
    pub fn watch(&mut self, watch: WatchId, dir: Fid) {
        if let Some(old) = self.watches.insert(watch, dir.clone())
            && old != dir
        {
            self.by_dir.remove(&old);
        }
        self.by_dir.insert(dir, watch);
    }

    /// A directory is to be watched no longer. Returns the watch to remove.
    pub fn unwatch(&mut self, dir: &Fid) -> Option<WatchId> {
        self.names.forget(dir);
        let watch = self.by_dir.remove(dir)?;
        self.watches.remove(&watch);
        *self.ending.entry(watch).or_default() += 1;
        Some(watch)
    }

    /// The removal of a watch has failed: there was none any more, and its end is in the queue or has
    /// been read.
    pub fn was_gone(&mut self, watch: WatchId) {
        self.ended(watch);
    }

    /// Nothing is to be watched any longer. Returns the watches to remove.
    pub fn clear(&mut self) -> Vec<WatchId> {
        let dirs: Vec<_> = self.by_dir.keys().cloned().collect();
        self.halves.clear();
        self.batch.clear();
        self.twice.clear();
        self.came = None;
        self.departed = Departed::default();
        self.names.clear();
        self.directories.clear();
        self.links = Links::default();
        dirs.iter().filter_map(|dir| self.unwatch(dir)).collect()
    }

    /// The guest gets to know an object that is no directory, with so many names.
    pub fn learn(&mut self, object: Fid, nlink: u32, tree: &Tree) {
        self.links.learn(object, nlink, tree);
    }

    /// How many directories are watched.
    pub fn watches_len(&self) -> usize {
        self.watches.len()
    }

    /// A call for the guest is about to be made, and will be reported.
    pub fn expect(&mut self, expected: Vec<(Expected, Mask)>, tree: &Tree) -> CallId {
        for (what, event) in &expected {
            if let Expected::Entry(entry) = what
                && event.intersects(Mask::DELETE | Mask::MOVE)
            {
                self.names.hold(entry, tree);
            }
        }
        self.echo.expect(expected)
    }

    /// The call has returned, after which the object's `ctime` was `changed`. Returns the directories
    /// of which something was not told that should have been.
    pub fn end(&mut self, call: CallId, succeeded: bool, changed: Option<SystemTime>) -> Vec<Fid> {
        self.echo.end(call, succeeded, changed)
    }

    /// The kernel's queue was found empty by who is not the watch thread.
    pub fn found_empty(&mut self) {
        if self.is_idle() {
            let mark = self.echo.mark();
            // Nothing has been read since the calls ended, so nothing is in doubt.
            let _settled = self.echo.drained(mark);
        }
    }

    /// Whether the watch thread has nothing in hand: what was reported and is not in the kernel's
    /// queue has been taken in.
    pub fn is_idle(&self) -> bool {
        !self.in_hand && self.halves.is_empty()
    }

    /// The kernel's queue is about to be read.
    pub fn begin(&mut self) -> Mark {
        self.in_hand = true;
        self.echo.mark()
    }

    /// Takes in what was read at `now`; nothing when the queue was empty.
    pub fn handle(&mut self, now: Instant, reports: impl IntoIterator<Item = Report>) {
        let mut reports = reports.into_iter().peekable();
        if reports.peek().is_none() {
            self.halves.drained(now);
        }
        self.read_on(now, reports);
        self.looked = self.halves.position();
        while let Some(seen) = self.halves.pop() {
            self.batch.push(seen);
        }
    }

    /// Takes in what was in the kernel's queue after the names of [`Observer::looks`] were looked up. It follows with
    /// the next [`Observer::handle`], but it may have happened before the look: what was found is traced back over it.
    pub fn read_on(&mut self, now: Instant, reports: impl IntoIterator<Item = Report>) {
        self.twice.at(now);
        for report in reports {
            if let Some(seen) = self.seen(report) {
                self.halves.push(now, seen);
            }
        }
    }

    /// When the kernel's queue is to be read again though nothing new is in it.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.halves.poll_timeout()
    }

    /// What has been taken in up to now, for [`Observer::has_told`].
    pub fn position(&self) -> u64 {
        self.halves.position()
    }

    /// Whether all that had been taken in at that position has been told, given that
    /// [`Observer::changes`] was.
    pub fn has_told(&self, position: u64) -> bool {
        self.halves.has_popped(position)
    }

    /// What was taken for the daemon's own and is in doubt. One whose object has not been changed since
    /// is to be handed back to [`Observer::settled`], before the changes that came with it are told: by
    /// then somebody may change the object who has waited for them.
    pub fn doubts(&self) -> Vec<Doubt> {
        self.echo.doubts()
    }

    /// The object has not been changed by anybody else.
    pub fn settled(&mut self, object: &Fid) {
        self.echo.settled(object);
    }

    /// The queue was empty after `mark`, and all that follows has been told. `None` while something
    /// still waits for its mate.
    pub fn drained(&mut self, mark: Mark) -> Option<Drained> {
        if !self.halves.is_empty() {
            return None;
        }
        let (doubts, again) = self.echo.drained(mark);
        self.in_hand = again;
        Some(Drained { doubts, again })
    }

    /// The same where the queue was not empty: all that was in it at `mark` had been taken in at that position, given
    /// that [`Observer::changes`] was told. `None` while some of it still waits. A host that never pauses could keep
    /// the queue from ever being empty.
    pub fn passed(&mut self, mark: Mark, position: u64) -> Option<Drained> {
        if !self.has_told(position) {
            return None;
        }
        // Whoever comes here reads on anyway.
        let (doubts, _) = self.echo.drained(mark);
        Some(Drained { doubts, again: false })
    }

    /// What has to be looked up: names, if something came to them or it is not known what they stand
    /// for, and link counts, if a name has gone and it is not known what it stood for.
    pub fn looks(&self, tree: &Tree) -> Looks {
        let mut looks = Vec::new();
        let mut links = Vec::new();
        for (i, seen) in self.batch.iter().enumerate() {
            match seen {
                Seen::Entry { entry, mask } => {
                    let known = || self.names.at(entry, tree).flatten().is_some();
                    if mask.contains(Mask::CREATE) || !(mask.contains(Mask::DELETE) || known()) {
                        looks.push(entry.clone());
                    }
                    if links.is_empty() && self.is_gone_unknown(entry, *mask, tree) {
                        links = self.links.looks(tree);
                    }
                }
                Seen::To { to, .. } => looks.push(to.clone()),
                Seen::Move { from, to, .. } => {
                    looks.push(to.clone());
                    if is_reverse(seen, self.batch.get(i + 1)) || self.goes_back(from, to, tree) {
                        looks.push(from.clone());
                    }
                }
                Seen::From { from, .. } => {
                    let came = self.came.as_ref().filter(|came| came.to == *from);
                    looks.extend(came.map(|came| came.to.clone()));
                }
                Seen::Itself { .. } | Seen::Overflow => {}
            }
        }
        looks.sort();
        looks.dedup();
        Looks { names: looks, links }
    }

    /// Whether a name of a file has gone of which nobody knows what it stood for.
    fn is_gone_unknown(&self, entry: &HostEntry, mask: Mask, tree: &Tree) -> bool {
        let file = mask.contains(Mask::DELETE) && !mask.contains(Mask::ISDIR);
        file && self.names.at(entry, tree).is_none()
    }

    /// What the reports say, without what the daemon did itself.
    pub fn changes(&mut self, tree: &Tree, found: &Found) -> Vec<HostChange> {
        let batch = std::mem::take(&mut self.batch);
        let traced = {
            let (waiting, looked) = self.halves.waiting(self.looked);
            let (before, after) = waiting.split_at(looked);
            objects(&batch, before, after, found)
        };
        if self.directories.len() + found.directories.len() > Self::DIRECTORIES_MAX {
            self.directories.clear();
        }
        self.directories.extend(found.directories.iter().cloned());
        let mut changes = Vec::with_capacity(batch.len());
        self.second = None;
        // Behind the batch, what waits was traced too.
        for (i, (seen, this)) in batch.iter().zip(&traced).enumerate() {
            let object = this.object.clone();
            match seen {
                Seen::Entry { entry, mask } => {
                    let lost = if self.is_gone_unknown(entry, *mask, tree) {
                        self.links.lost(&found.links)
                    } else {
                        None
                    };
                    changes.extend(self.entry(entry, *mask, lost.or(object), tree));
                }
                Seen::Itself { dir, mask } => changes.extend(self.itself(dir, *mask, tree)),
                Seen::From { from, directory, cookie } => {
                    let change = self.left_view(from, *directory, this, tree);
                    self.departed.leaves(*cookie, change.as_ref());
                    changes.extend(change);
                }
                Seen::To { to, directory, cookie } => {
                    let departed = self.departed.comes_back(*cookie);
                    let object = object.or(departed);
                    let was = self.names.at(to, tree).flatten();
                    let another = was.as_ref().filter(|was| Some(*was) != object.as_ref());
                    let was_filled = another.is_some_and(|was| self.names.is_filled(was, tree));
                    self.came = Some(Came { to: to.clone(), was, was_filled });
                    self.replaced(to, object.as_ref(), tree);
                    changes.extend(self.moved(None, Some(to), object, *directory, tree));
                }
                Seen::Move { from, to, directory } => {
                    let next = traced.get(i + 1);
                    let reverse = next.filter(|_| is_reverse(seen, batch.get(i + 1)));
                    let (mover, stays) = self.mover(from, to, *directory, reverse, this, tree);
                    let object = mover.or(object);
                    if self.second.is_none() && stays.is_none() {
                        self.replaced(to, object.as_ref(), tree);
                    }
                    changes.extend(self.moved(Some(from), Some(to), object, *directory, tree));
                    self.stayed(from, stays, tree);
                }
                Seen::Overflow => {
                    self.names.clear();
                    self.twice.clear();
                    self.came = None;
                    self.departed = Departed::default();
                    // Their ends may be among what is lost.
                    self.ending.clear();
                    changes.push(HostChange::Overflow);
                }
            }
        }
        changes
    }

    fn seen(&mut self, report: Report) -> Option<Seen> {
        match report {
            Report::Overflow => Some(Seen::Overflow),
            Report::Ignored(watch) => {
                if !self.ended(watch)
                    && let Some(dir) = self.watches.remove(&watch)
                {
                    self.by_dir.remove(&dir);
                    self.names.forget(&dir);
                }
                None
            }
            Report::Itself { watch, mask } => {
                let dir = self.dir(watch)?.clone();
                Some(Seen::Itself { dir, mask })
            }
            Report::Entry { watch, name, mask, cookie } => {
                let entry = HostEntry { dir: self.dir(watch)?.clone(), name };
                let directory = mask.contains(Mask::ISDIR);
                Some(match cookie {
                    Some(cookie) if mask.contains(Mask::MOVED_FROM) => {
                        Seen::From { from: entry, directory, cookie }
                    }
                    Some(cookie) if mask.contains(Mask::MOVED_TO) => {
                        Seen::To { to: entry, directory, cookie }
                    }
                    Some(_) | None => Seen::Entry { entry, mask },
                })
            }
        }
    }

    /// The directory of a report. Those of a watch that was removed come before its end.
    fn dir(&self, watch: WatchId) -> Option<&Fid> {
        if self.ending.contains_key(&watch) { None } else { self.watches.get(&watch) }
    }

    /// The end of a watch that was removed has been seen; `false` if it was not.
    fn ended(&mut self, watch: WatchId) -> bool {
        let Some(ending) = self.ending.get_mut(&watch) else { return false };
        *ending -= 1;
        if *ending == 0 {
            self.ending.remove(&watch);
        }
        true
    }

    fn entry(
        &mut self,
        entry: &HostEntry,
        mask: Mask,
        object: Option<Fid>,
        tree: &Tree,
    ) -> Option<HostChange> {
        let was = self.names.at(entry, tree);
        let before = self.names.before(entry).cloned();
        let past = self.names.past(entry).to_vec();
        let object = if mask.contains(Mask::CREATE) {
            self.names.created(entry, object.clone(), tree);
            object.iter().for_each(|object| self.links.linked(object));
            object
        } else if mask.contains(Mask::DELETE) {
            // `links` has counted the one that it found.
            was.iter().flatten().for_each(|object| self.links.unlinked(object));
            let was = was.unwrap_or(object);
            self.names.left(entry, was.clone(), tree);
            was
        } else {
            // A file that has lost its name to a directory is still written to under it.
            let file =
                |object: &Fid| mask.contains(Mask::ISDIR) || !self.is_directory(object, tree);
            let was = was.flatten().filter(file);
            was.or_else(|| before.clone().filter(file)).or(object)
        };
        let directory = mask.intersection(Mask::ISDIR);
        if !directory.is_empty()
            && let Some(object) = object.as_ref().filter(|dir| self.by_dir.contains_key(dir))
        {
            self.twice.named(object, mask.intersection(Mask::CONTENT));
        }
        let objects: Vec<&Fid> = object.iter().chain(&before).chain(past.iter().rev()).collect();
        let events = mask.difference(Mask::ISDIR).iter();
        let told = events.filter(|event| !self.echo.takes(entry, &objects, *event));
        let told: Mask = told.collect();
        let entry = entry.clone();
        (!told.is_empty()).then(|| HostChange::Entry { entry, mask: told | directory, object })
    }

    /// What happens to a directory is reported to those who watch the one above it too: there it has
    /// a name.
    ///
    /// An ATTRIB that is not is about the link count, and the last event of a directory that another has replaced
    /// (`fsnotify_link_count()`): the guest's kernel raises it when that is replayed.
    fn itself(&mut self, dir: &Fid, mask: Mask, tree: &Tree) -> Option<HostChange> {
        let above = |id: &NodeId| tree.parent(*id).and_then(|above| tree.fid(above));
        let is_seen = |above: Fid| self.by_dir.contains_key(&above);
        let nodes = tree.nodes_of(dir);
        // The root of a mount is reported to nobody above it.
        let has_name =
            nodes.iter().all(|id| !tree.is_mounted(*id) && above(id).is_some_and(is_seen));
        let mut told = Mask::empty();
        for event in mask.difference(Mask::ISDIR).iter() {
            let is_taken = self.twice.takes(dir, event) || self.echo.takes_itself(dir, event);
            let is_link_count = has_name && event == Mask::ATTRIB;
            if !is_taken && !is_link_count {
                told |= event;
            }
        }
        let mask = told | Mask::ISDIR;
        (!told.is_empty()).then(|| HostChange::Object { object: dir.clone(), mask })
    }

    fn moved(
        &mut self,
        from: Option<&HostEntry>,
        to: Option<&HostEntry>,
        object: Option<Fid>,
        directory: bool,
        tree: &Tree,
    ) -> Option<HostChange> {
        if let Some(from) = from {
            self.names.left(from, object.clone(), tree);
        }
        if let Some(to) = to {
            self.names.arrived(to, object.clone(), tree);
        }
        let mut takes = |entry: Option<&HostEntry>, event| {
            entry.is_none_or(|entry| self.echo.takes(entry, &[], event))
        };
        // Both are asked: each announcement is for one report.
        let own = [takes(from, Mask::MOVED_FROM), takes(to, Mask::MOVED_TO)];
        if own == [true, true] {
            return None;
        }
        Some(HostChange::Move { from: from.cloned(), to: to.cloned(), object, directory })
    }

    /// Whether an object is known to be a directory.
    fn is_directory(&self, object: &Fid, tree: &Tree) -> bool {
        let mut nodes = tree.nodes_of(object).iter();
        self.by_dir.contains_key(object)
            || self.directories.contains(object)
            || nodes.any(|id| tree.kind(*id) == Some(FileKind::Directory))
    }

    /// What is under a name loses it to another object.
    fn replaced(&mut self, to: &HostEntry, by: Option<&Fid>, tree: &Tree) {
        let was = self.names.at(to, tree).flatten();
        if let Some(was) = was.filter(|was| Some(was) != by) {
            self.links.unlinked(&was);
        }
    }
}
