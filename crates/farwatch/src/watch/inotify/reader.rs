// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the instance and hands in what follows. The observer says which names have to be looked up for
//! that; they are looked up without any lock.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Instant, SystemTime};

use farwatch_proto::host::inotify::{Doubt, Drained, Found, Looks, Mark, Observer, Report};
use farwatch_proto::host::{HostChange, HostEntry};
use farwatch_proto::{Fid, NodeId};
use rustix::fs::{AtFlags, FileType, Mode, Statx, StatxFlags};

use super::InotifyBackend;
use super::instance::buffer;
use crate::watch::look::PATH_ONLY;
use crate::watch::{
    Came, Intake, Observed, Passing, Queued, Reader, carry_out, hand_in, is_mounted, passed, time,
};

/// See the module's documentation.
pub(super) struct InotifyReader<'a> {
    backend: &'a InotifyBackend,
    buf: Vec<MaybeUninit<u8>>,
    passing: Passing,
    /// A moment, and what was in the queue then and has not been read to its end.
    behind: Option<(Moment, Queued)>,
}

/// Before a read of the kernel's queue.
#[derive(Clone, Copy)]
struct Moment {
    /// By the host's clock.
    began: SystemTime,
    /// By the clock that latencies are measured with.
    read_at: Instant,
    mark: Mark,
}

/// One read of the kernel's queue.
#[derive(Clone, Copy)]
struct Round {
    before: Moment,
    empty: bool,
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    /// What an empty queue means; `None` while something waits for its mate.
    drained: Option<Drained>,
    /// A barrier passes.
    passes: bool,
    /// Something was handed in.
    changes: bool,
}

impl<'a> InotifyReader<'a> {
    pub(super) fn new(backend: &'a InotifyBackend) -> Self {
        Self { backend, buf: buffer(), passing: Passing::default(), behind: None }
    }

    /// So many bytes were read.
    fn has_read(&mut self, len: u64) {
        self.passing.read(len);
        if let Some((_, queued)) = &mut self.behind {
            queued.read(len);
        }
    }

    /// Reads what was in the queue after a look: the names may have changed before it. `false` if nothing was.
    fn read_on(&mut self) -> io::Result<bool> {
        let mut left = self.backend.instance.queued();
        let some = left > 0;
        while left > 0 {
            let (reports, len) = self.backend.instance.read(&mut self.buf)?;
            if len == 0 {
                break;
            }
            tracing::trace!(?reports, "reported meanwhile");
            self.has_read(len);
            left = left.saturating_sub(len);
            self.backend.observer().read_on(Instant::now(), reports);
        }
        Ok(some)
    }

    /// Takes in what follows from one read, with `found`. Of what is in doubt the objects are looked at
    /// first.
    fn take_in(&mut self, intake: &dyn Intake, round: Round, found: &Found) -> Outcome {
        let backend = self.backend;
        let mut outcome = Outcome::default();
        let (mut held_back, mut doubts) = (Vec::new(), Vec::new());
        intake.take_in(&mut |tree| {
            let mut observer = backend.observer();
            let changes = observer.changes(tree, found);
            doubts = observer.doubts();
            if doubts.is_empty() {
                self.finish(&mut observer, round, changes, &mut outcome)
            } else {
                held_back = changes;
                Observed::default()
            }
        });
        if !doubts.is_empty() {
            // If the object has not changed since, the report is of this process's own call.
            let unchanged = |doubt: &Doubt| ctime(backend, intake, doubt) == Some(doubt.changed);
            doubts.retain(unchanged);
            intake.take_in(&mut |_| {
                let mut observer = backend.observer();
                doubts.iter().for_each(|doubt| observer.settled(&doubt.object));
                let changes = std::mem::take(&mut held_back);
                self.finish(&mut observer, round, changes, &mut outcome)
            });
        }
        carry_out(intake, backend);
        outcome
    }

    fn finish(
        &mut self,
        observer: &mut Observer,
        round: Round,
        changes: Vec<HostChange>,
        outcome: &mut Outcome,
    ) -> Observed {
        let (began, drained) = self.drained(observer, round).unzip();
        outcome.changes = !changes.is_empty();
        let read_at = Some(round.before.read_at);
        let observed = Observed { changes, drained: began, read_at };
        outcome.drained = drained;
        // What was read is handed in when it waits for no mate any more.
        let position = observer.position();
        outcome.passes =
            self.passing.position(position).is_some_and(|position| observer.has_told(position));
        observed
    }

    /// What is known when all that was queued at a moment has been taken in, and that moment.
    fn drained(&mut self, observer: &mut Observer, round: Round) -> Option<(SystemTime, Drained)> {
        let (moment, drained) = if round.empty {
            (round.before, observer.drained(round.before.mark)?)
        } else {
            let (moment, queued) = self.behind.as_mut()?;
            let position = queued.position(observer.position())?;
            (*moment, observer.passed(moment.mark, position)?)
        };
        self.behind = None;
        Some((moment.began, drained))
    }
}

impl Reader for InotifyReader<'_> {
    fn read(&mut self, intake: &dyn Intake) -> io::Result<Came> {
        let backend = self.backend;
        let (mut reported, mut changed) = (false, false);
        loop {
            let (began, read_at) = (SystemTime::now(), Instant::now());
            let before = Moment { began, read_at, mark: backend.observer().begin() };
            self.passing.begin(intake, || backend.instance.queued());
            self.behind.get_or_insert_with(|| (before, Queued::new(backend.instance.queued())));
            let (reports, len) = backend.instance.read(&mut self.buf)?;
            reported |= len > 0;
            let round = Round { before, empty: len == 0 };
            self.has_read(len);
            if round.empty {
                self.passing.drained();
            }
            tracing::trace!(?reports, "reported");
            let looks = handle(backend, intake, reports);
            let looked = !looks.names.is_empty();
            let found = look_up(backend, intake, looks);
            let more = looked && self.read_on()?;
            let Outcome { drained, passes, changes } = self.take_in(intake, round, &found);
            let doubts = drained.as_ref().is_some_and(|drained| !drained.doubts.is_empty());
            changed |= changes || doubts;
            let again = drained.as_ref().is_some_and(|drained| drained.again);
            for doubt in drained.into_iter().flat_map(|drained| drained.doubts) {
                settle(backend, intake, doubt);
            }
            if passes && !again {
                passed(intake, backend, &mut self.passing);
            }
            if round.empty && !again && !more {
                let own_alone = reported && !changed && backend.observer().is_idle();
                return Ok(if own_alone { Came::OwnAlone } else { Came::Other });
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.backend.observer().poll_timeout()
    }
}

/// Gives the observer what was read. Returns what to look up.
fn handle(backend: &InotifyBackend, intake: &dyn Intake, reports: Vec<Report>) -> Looks {
    let (mut reports, mut looks) = (Some(reports), Looks::default());
    intake.inspect(&mut |tree| {
        let mut observer = backend.observer();
        observer.handle(Instant::now(), reports.take().unwrap_or_default());
        looks = observer.looks(tree);
    });
    looks
}

fn look_up(backend: &InotifyBackend, intake: &dyn Intake, looks: Looks) -> Found {
    let mut found = Found::default();
    for object in looks.links {
        if let Some(nlink) = link_count(backend, intake, &object) {
            found.links.insert(object, nlink);
        }
    }
    for entry in looks.names {
        let Some(id) = node_of(intake, &entry.dir) else { continue };
        let Some(dir) = intake.open_dir(id) else { continue };
        let Ok(name) = CString::new(entry.name.as_bytes()) else { continue };
        if is_mounted(&dir, &name) {
            // What is mounted there is not what was reported: that is beneath.
            continue;
        }
        if let Some((fid, stat)) = identify(backend, &dir, &name, StatxFlags::TYPE) {
            if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                found.directories.insert(fid.clone());
            }
            found.names.insert(entry, fid);
        }
    }
    found
}

fn node_of(intake: &dyn Intake, dir: &Fid) -> Option<NodeId> {
    let mut id = None;
    intake.inspect(&mut |tree| id = tree.nodes_of(dir).first().copied());
    id
}

/// The object under a name, and what is wanted of it: both of the same object, whatever happens to the name in
/// between. A subvolume of btrfs has an fsid of its own, which its directory does not tell.
fn identify(
    backend: &InotifyBackend,
    dir: &OwnedFd,
    name: &CStr,
    wanted: StatxFlags,
) -> Option<(Fid, Statx)> {
    let object = rustix::fs::openat(dir, name, PATH_ONLY, Mode::empty()).ok()?;
    let stat = rustix::fs::statx(&object, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    Some((backend.instance.fid(object.as_fd()).ok()?, stat))
}

/// By the name under which the guest knows the object, if it is there.
fn link_count(backend: &InotifyBackend, intake: &dyn Intake, object: &Fid) -> Option<u32> {
    let mut place = None;
    intake.inspect(&mut |tree| {
        let known = tree.nodes_of(object).first().and_then(|id| tree.entry(*id));
        place = known.and_then(|(dir, name)| {
            let entry = HostEntry { dir: tree.fid(dir)?, name: name.clone() };
            Some((dir, entry))
        });
    });
    let (dir, entry) = place?;
    stat_of(backend, intake, dir, &entry, object, StatxFlags::NLINK).map(|stat| stat.stx_nlink)
}

/// What an entry of a directory says of an object, if it leads to that.
fn stat_of(
    backend: &InotifyBackend,
    intake: &dyn Intake,
    dir: NodeId,
    entry: &HostEntry,
    object: &Fid,
    wanted: StatxFlags,
) -> Option<Statx> {
    let dir = intake.open_dir(dir)?;
    let name = CString::new(entry.name.as_bytes()).ok()?;
    let (fid, stat) = identify(backend, &dir, &name, wanted)?;
    (fid == *object).then_some(stat)
}

/// Hands the change in after all, if it was not, or not only, this process's own.
fn settle(backend: &InotifyBackend, intake: &dyn Intake, doubt: Doubt) {
    let ctime = ctime(backend, intake, &doubt);
    let Doubt { entry, object, mask, changed } = doubt;
    if ctime.is_some_and(|ctime| ctime != changed) {
        tracing::debug!(?object, ?mask, "changed by somebody else at the same time");
        let change = HostChange::Entry { entry, mask, object: Some(object) };
        hand_in(intake, backend, Instant::now(), vec![change]);
    }
}

/// When the object in doubt was changed last, if it is still there.
fn ctime(backend: &InotifyBackend, intake: &dyn Intake, doubt: &Doubt) -> Option<SystemTime> {
    let Doubt { entry, object, .. } = doubt;
    let id = node_of(intake, &entry.dir)?;
    let stat = stat_of(backend, intake, id, entry, object, StatxFlags::CTIME)?;
    Some(time(stat.stx_ctime))
}
