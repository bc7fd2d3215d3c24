// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the groups and hands in what they report.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use farwatch_proto::host::{Hold, HostChange, put_right};
use farwatch_sys::fanotify::Fanotify;

use super::FanotifyBackend;
use super::changes::{self, BUFFER_LEN};
use crate::watch::{Came, Intake, Observed, Passing, Reader, hand_in, passed};

/// Reads that are put in order together. In the kernel's queue 128 events are merged at most, and one read
/// has room for some hundreds.
const READS_MAX: usize = 16;

/// See the module's documentation.
pub(super) struct FanotifyReader<'a> {
    backend: &'a FanotifyBackend,
    /// Room for a read of the first group.
    first: Vec<u8>,
    /// For each of the others in turn.
    other: Vec<u8>,
    hold: Hold,
    passing: Passing,
}

impl<'a> FanotifyReader<'a> {
    pub(super) fn new(backend: &'a FanotifyBackend) -> Self {
        let [first, other] = [(); 2].map(|()| vec![0; BUFFER_LEN]);
        Self { backend, first, other, hold: Hold::default(), passing: Passing::default() }
    }

    /// Reads once from the first group, and the others to their ends. Adds to `changes`; `true` when
    /// there was nothing.
    ///
    /// What is read from the first one is handed in last: a subvolume, whose entries another group
    /// reports, is removed from a directory of the first, and nothing can be sent about what is gone.
    /// What happened in it before is in the other group's queue by then.
    fn read_groups(
        &mut self,
        intake: &dyn Intake,
        changes: &mut Vec<HostChange>,
    ) -> io::Result<bool> {
        let own_pid = i32::try_from(std::process::id()).unwrap_or(-1);
        let groups = self.backend.groups.all();
        let Some((first, others)) = groups.split_first() else { return Ok(true) };
        self.passing.begin(intake, || first.queued());
        let len = first.read(&mut self.first)?;
        let mut drained = len == 0;
        for group in others {
            drained &= !read_all(group, &mut self.other, own_pid, changes)?;
        }
        let events = self.first.get(..len).unwrap_or_default();
        if self.passing.counts() {
            self.passing.read(changes::count(events));
        }
        changes.extend(changes::changes(events, own_pid));
        Ok(drained)
    }

    fn hand_in(&self, intake: &dyn Intake, read_at: Instant, changes: Vec<HostChange>) {
        hand_in(intake, self.backend, read_at, changes);
    }
}

impl Reader for FanotifyReader<'_> {
    fn read(&mut self, intake: &dyn Intake) -> io::Result<Came> {
        let mut changes = Vec::new();
        let (mut reads, mut read_at) = (0, Instant::now());
        loop {
            self.backend.in_hand.store(true, Ordering::SeqCst);
            // Whatever a group reports that is opened after this will have happened after `now`.
            let now = SystemTime::now();
            let drained = self.read_groups(intake, &mut changes)?;
            reads += 1;
            if drained || reads >= READS_MAX {
                put_right(&mut changes);
                let observed = std::mem::take(&mut changes);
                let observed = if intake.holds_opens() {
                    self.hold.handle(Instant::now(), observed)
                } else {
                    observed
                };
                self.hand_in(intake, read_at, observed);
                (reads, read_at) = (0, Instant::now());
                if drained {
                    self.passing.drained();
                    intake.take_in(&mut |_| Observed { drained: Some(now), ..Observed::default() });
                }
                if self.passing.passes() {
                    // An OPEN waits for what says how the file was opened; a barrier for nothing.
                    let held = self.hold.handle_timeout(Instant::now() + Hold::WAIT_MAX);
                    self.hand_in(intake, read_at, held);
                }
                passed(intake, self.backend, &mut self.passing);
            }
            if drained {
                break;
            }
        }
        self.backend.in_hand.store(false, Ordering::SeqCst);
        let now = Instant::now();
        let held = self.hold.handle_timeout(now);
        self.hand_in(intake, now, held);
        Ok(Came::Other)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.hold.poll_timeout()
    }
}

/// Reads a group to its end; `true` when there was something.
fn read_all(
    group: &Fanotify,
    buf: &mut [u8],
    own_pid: i32,
    changes: &mut Vec<HostChange>,
) -> io::Result<bool> {
    let mut any = false;
    loop {
        let len = group.read(buf)?;
        if len == 0 {
            return Ok(any);
        }
        any = true;
        changes.extend(changes::changes(buf.get(..len).unwrap_or_default(), own_pid));
    }
}
