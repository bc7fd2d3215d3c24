// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's watch thread: `watch.rs`, `watch/observe.rs`, `watch/rescan.rs`.

use std::time::{Duration, Instant};

use farwatch_proto::host::inotify::{Doubt, Drained, Found, Looks, Mark, Report};
use farwatch_proto::host::{
    Check, Checked, HostChange, HostEntry, Input, Listed, Listing, Look, Output, Rescan, put_right,
};
use farwatch_proto::{FileKind, Name, NodeId};

use crate::backend::Backend;
use crate::config::Watched;
use crate::fanotify::Record;
use crate::host::{Obj, fid};
use crate::sim::{World, wall};

impl World {
    /// The thread.
    pub(crate) async fn watch(&self) {
        let mut alarm = None;
        loop {
            let ready = || self.server.borrow().work || !self.host.borrow().backend.is_empty();
            self.wait_or(ready, || alarm).await;
            self.server.borrow_mut().work = false;
            match self.config.watched {
                Watched::ByInotify => self.observe().await,
                Watched::ByFanotify => self.read_fanotify().await,
            }
            self.server.borrow_mut().input(self, Input::ReadDone);
            // Others that give it something to do wake it; what they change of this is not seen.
            let next = self.carry_out().await;
            let next = [next, self.server.borrow().half_timeout()].into_iter().flatten().min();
            alarm = next.map(|at| self.since_start(at));
        }
    }

    /// `watch::carry_out()`: does what the engine wants to have done.
    async fn carry_out(&self) -> Option<Instant> {
        loop {
            let output = self.server.borrow_mut().poll_output(self);
            self.step().await;
            let input = match output {
                Output::Look(look) => {
                    let found = self.kind_at(&look);
                    Input::Looked(look, found)
                }
                // Whoever waits for something to send finds it by itself.
                Output::Wake => continue,
                Output::Rescan(rescan) => self.rescan(&rescan).await,
                // Without its answer the entry is not compared again.
                Output::Check(_) if self.skips_compare() => continue,
                Output::Check(check) => self.compare(check).await,
                Output::Timeout(next) => return next,
            };
            self.step().await;
            self.server.borrow_mut().input(self, input);
            self.step().await;
        }
    }

    /// `check::run()`: looks at an entry that the engine compares.
    async fn compare(&self, check: Check) -> Input {
        let Some(dir) = self.server.borrow().dir(check.dir) else { return Input::Unchecked(check) };
        let found = self.listed(dir, check.name.clone());
        self.step().await;
        let checked = Checked { found, removed: self.removed(&check.subdirs) };
        self.note(|| format!("compares {check:?}: {checked:?}"));
        Input::Checked(check, checked)
    }

    fn removed(&self, dirs: &[NodeId]) -> Vec<NodeId> {
        let removed = |id: &NodeId| {
            let dir = self.server.borrow().dir(*id);
            dir.is_some_and(|dir| self.host.borrow().object(dir).removed)
        };
        dirs.iter().copied().filter(removed).collect()
    }

    /// `observe::read()`: hands in all that there is, until there is no more.
    async fn observe(&self) {
        loop {
            let now = self.clock();
            let Some(mark) = self.server.borrow_mut().begin() else { return };
            self.begin_passing();
            self.step().await;
            let reports = self.read_reports();
            let empty = reports.is_empty();
            self.step().await;
            let looks = {
                let server = &mut *self.server.borrow_mut();
                server.passing.read(reports.len());
                server.reported(self, reports)
            };
            let looked = !looks.names.is_empty();
            let found = self.look_up(looks).await;
            self.step().await;
            let more = looked && self.read_on().await;
            let (changes, doubts) = self.server.borrow_mut().changes(&found);
            // Without any doubt the lock is held until the changes have been handed in.
            for doubt in doubts {
                self.step().await;
                let changed = self.changed(&doubt);
                self.step().await;
                if changed == Some(doubt.changed) {
                    self.server.borrow_mut().settled(&doubt.object);
                }
            }
            let (drained, reported) = self.hand_in_observed(changes, empty.then_some(mark), now);
            self.carry_out().await;
            let again = drained.as_ref().is_some_and(|drained| drained.again);
            for doubt in drained.into_iter().flat_map(|drained| drained.doubts) {
                self.step().await;
                self.settle(doubt);
            }
            if reported && !again {
                self.server.borrow_mut().pass(self);
            }
            if empty && !again && !more {
                return;
            }
        }
    }

    /// Reads what was in the queue after a look. `false` if nothing was.
    async fn read_on(&self) -> bool {
        let mut left = self.host.borrow().backend.len();
        let some = left > 0;
        while left > 0 {
            self.step().await;
            let reports = self.read_reports();
            left = left.saturating_sub(reports.len().max(1));
            let server = &mut *self.server.borrow_mut();
            server.passing.read(reports.len());
            server.read_on(self, reports);
        }
        some
    }

    fn begin_passing(&self) {
        let queued = self.host.borrow().backend.len();
        self.server.borrow_mut().begin_passing(queued);
    }

    fn read_reports(&self) -> Vec<Report> {
        let Backend::Inotify(inotify) = &mut self.host.borrow_mut().backend else {
            return Vec::new();
        };
        let mut reports = inotify.read(self.config.read_max);
        self.spoil_reports(&mut reports);
        if !reports.is_empty() {
            self.note(|| format!("reads {reports:?}"));
        }
        reports
    }

    fn hand_in_observed(
        &self,
        mut changes: Vec<HostChange>,
        mark: Option<Mark>,
        now: Duration,
    ) -> (Option<Drained>, bool) {
        for change in &changes {
            self.note(|| format!("observes {change:?}"));
        }
        self.spoil_changes(&mut changes);
        let server = &mut *self.server.borrow_mut();
        server.hand_in(self, changes);
        let drained = mark.and_then(|mark| server.drained(mark));
        if drained.is_some() {
            server.in_step(self, now);
        }
        let position = server.position();
        let passes = server.passing.passes();
        let reported = passes && {
            let position = server.passing.position(position);
            server.has_reported(position)
        };
        (drained, reported)
    }

    /// `watch::read()`, for fanotify: what is read together is put in order together.
    async fn read_fanotify(&self) {
        /// Reads that are put in order together.
        const READS_MAX: usize = 16;
        let mut changes = Vec::new();
        let mut reads = 0;
        loop {
            let now = self.clock();
            self.begin_passing();
            self.step().await;
            let records = match &mut self.host.borrow_mut().backend {
                Backend::Fanotify(fanotify) => fanotify.read(self.config.read_max),
                Backend::Inotify(_) => return,
            };
            let drained = records.is_empty();
            if !drained {
                self.note(|| format!("reads {records:?}"));
            }
            self.server.borrow_mut().passing.read(records.len());
            changes.extend(records.into_iter().filter_map(Record::into_change));
            reads += 1;
            if drained || reads >= READS_MAX {
                self.step().await;
                put_right(&mut changes);
                self.spoil_changes(&mut changes);
                for change in &changes {
                    self.note(|| format!("observes {change:?}"));
                }
                reads = 0;
                let server = &mut *self.server.borrow_mut();
                server.hand_in(self, std::mem::take(&mut changes));
                if drained {
                    server.in_step(self, now);
                }
                server.pass(self);
            }
            self.carry_out().await;
            if drained {
                return;
            }
        }
    }

    async fn look_up(&self, looks: Looks) -> Found {
        let mut found = Found::default();
        for object in looks.links {
            self.step().await;
            if let Some(nlink) = self.link_count(&object) {
                found.links.insert(object, nlink);
            }
        }
        for entry in looks.names {
            self.step().await;
            let Some(dir) = self.watched_dir(&entry) else { continue };
            let host = self.host.borrow();
            if let Some(object) = host.at(dir, &entry.name) {
                if host.is_directory(object) {
                    found.directories.insert(fid(object));
                }
                found.names.insert(entry, fid(object));
            }
        }
        found
    }

    /// A directory on the host, if the guest knows it.
    fn watched_dir(&self, entry: &HostEntry) -> Option<Obj> {
        let server = self.server.borrow();
        server.dir(*server.engine.tree().nodes_of(&entry.dir).first()?)
    }

    /// By the name under which the guest knows the object, if it is there.
    fn link_count(&self, object: &farwatch_proto::Fid) -> Option<u32> {
        let entry = {
            let server = self.server.borrow();
            let tree = server.engine.tree();
            let (dir, name) = tree.entry(*tree.nodes_of(object).first()?)?;
            HostEntry { dir: tree.fid(dir)?, name: name.clone() }
        };
        let dir = self.watched_dir(&entry)?;
        let host = self.host.borrow();
        let found = host.at(dir, &entry.name).filter(|found| fid(*found) == *object)?;
        Some(host.object(found).links())
    }

    /// When the object in doubt was changed last, if it is still there.
    fn changed(&self, doubt: &Doubt) -> Option<std::time::SystemTime> {
        let dir = self.watched_dir(&doubt.entry)?;
        let host = self.host.borrow();
        let found = host.at(dir, &doubt.entry.name);
        let found = found.filter(|found| fid(*found) == doubt.object)?;
        Some(wall(host.object(found).changed))
    }

    fn settle(&self, doubt: Doubt) {
        let changed = self.changed(&doubt);
        let Doubt { entry, object, mask, changed: own } = doubt;
        if changed.is_some_and(|changed| changed != own) {
            let change = HostChange::Entry { entry, mask, object: Some(object) };
            self.note(|| format!("in doubt, and by somebody else: {change:?}"));
            self.server.borrow_mut().hand_in(self, vec![change]);
        }
    }

    /// `rescan::run()`: lists a directory.
    async fn rescan(&self, rescan: &Rescan) -> Input {
        self.note(|| format!("{rescan:?}"));
        let listing = self.list(rescan).await;
        self.note(|| format!("{listing:?}"));
        listing.map_or(Input::Unlisted, Input::Listing)
    }

    async fn list(&self, rescan: &Rescan) -> Option<Listing> {
        let dir = self.server.borrow().dir(rescan.dir)?;
        let wanted = |name: &&Name| {
            rescan.after.as_ref().is_none_or(|after| *name > after)
                && rescan.upto.as_ref().is_none_or(|upto| *name <= upto)
        };
        let names: Vec<_> = {
            let host = self.host.borrow();
            let names = host.object(dir).entries.keys().filter(wanted);
            names.take(rescan.len_max).cloned().collect()
        };
        self.step().await;
        let removed = self.removed(&rescan.subdirs);
        let upto = (names.len() >= rescan.len_max).then(|| names.last().cloned()).flatten();
        let mut listing = Listing { entries: Vec::new(), upto, removed };
        for name in names {
            self.step().await;
            listing.entries.extend(self.listed(dir, name));
        }
        Some(listing)
    }

    fn listed(&self, dir: Obj, name: Name) -> Option<Listed> {
        let host = self.host.borrow();
        let number = host.at(dir, &name)?;
        let object = host.object(number);
        Some(Listed {
            name,
            object: Some(fid(number)),
            kind: object.kind,
            changed: wall(object.changed),
            born: Some(wall(object.born)),
        })
    }

    /// `rescan::kind_of()`: what an object is that was made, if it is still there.
    pub(crate) fn kind_at(&self, look: &Look) -> FileKind {
        let dir = self.server.borrow().dir(look.dir);
        let found = dir.and_then(|dir| self.listed(dir, look.name.clone()));
        let is_it = |found: &Listed| found.object.as_ref() == Some(&look.object);
        found.filter(is_it).map_or(FileKind::Unknown, |found| found.kind)
    }
}
