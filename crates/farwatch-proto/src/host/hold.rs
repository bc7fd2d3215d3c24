// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Hold`]: an OPEN waits for what tells whether the file was opened for writing.
//!
//! The host's kernel does not say it, and to raise the OPEN in the guest the agent has to know
//! ([`Opens`](crate::guest::opens::Opens)). Most often it is written, read or closed at once. So an OPEN waits,
//! with what it has come with, until the next event of the same entry that tells, for
//! [`Hold::WAIT_MAX`] at most. Other entries' content overtakes it. Names do not: when one comes, goes or is renamed,
//! nothing waits any longer. Called by the watcher with all that it has read.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::backlog::in_order;
use super::change::{HostChange, HostEntry};
use crate::{Fid, Mask};

/// See the module's documentation. Nothing is held unless OPEN is watched for.
#[derive(Debug, Default)]
pub struct Hold {
    /// In the order in which they came, one of an entry.
    held: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    entry: HostEntry,
    mask: Mask,
    object: Option<Fid>,
}

/// What says how a file was opened, or that it does not matter any more.
const TELLS: Mask = Mask::MODIFY.union(Mask::CLOSE_WRITE).union(Mask::CLOSE_NOWRITE);
/// What may wait beside OPEN.
const WAITS: Mask = Mask::OPEN.union(Mask::ACCESS).union(Mask::ATTRIB).union(Mask::ISDIR);

impl Hold {
    /// How long an OPEN waits.
    pub const WAIT_MAX: Duration = Duration::from_millis(100);
    /// The most that wait. For one more the oldest goes on.
    pub const LEN_MAX: usize = 256;

    /// Takes in what was observed, in order. Returns what goes on.
    pub fn handle(
        &mut self,
        now: Instant,
        changes: impl IntoIterator<Item = HostChange>,
    ) -> Vec<HostChange> {
        let mut out = Vec::new();
        for change in changes {
            match change {
                HostChange::Entry { entry, mask, object }
                    if !mask.intersects(Mask::CREATE | Mask::DELETE) =>
                {
                    self.content(now, entry, mask, object, &mut out);
                }
                HostChange::Entry { entry, mask, object }
                    if mask.contains(Mask::OPEN) && !mask.intersects(TELLS | Mask::DELETE) =>
                {
                    self.let_go(&mut out);
                    let rest = mask.difference(Mask::OPEN | Mask::ACCESS);
                    let opened = mask.difference(Mask::CREATE | Mask::ATTRIB);
                    let (entry2, object2) = (entry.clone(), object.clone());
                    out.push(HostChange::Entry { entry, mask: rest, object });
                    self.content(now, entry2, opened, object2, &mut out);
                }
                HostChange::Object { .. } => out.push(change),
                HostChange::Entry { .. } | HostChange::Move { .. } | HostChange::Overflow => {
                    self.let_go(&mut out);
                    out.push(change);
                }
            }
        }
        out
    }

    /// What has waited long enough.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<HostChange> {
        let late = self.held.iter().take_while(|held| held.until <= now).count();
        self.held.drain(..late).map(Held::into_change).collect()
    }

    /// When to call [`Hold::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.held.front().map(|held| held.until)
    }

    fn content(
        &mut self,
        now: Instant,
        entry: HostEntry,
        mask: Mask,
        object: Option<Fid>,
        out: &mut Vec<HostChange>,
    ) {
        let at = self.held.iter().position(|held| held.entry == entry);
        if let Some(mut held) = at.and_then(|at| self.held.remove(at)) {
            if held.object == object && in_order(held.mask, mask) {
                held.mask |= mask;
                if WAITS.contains(mask) {
                    self.held.insert(at.unwrap_or_default(), held);
                } else {
                    out.push(held.into_change());
                }
                return;
            }
            out.push(held.into_change());
        }
        if !mask.contains(Mask::OPEN) || !WAITS.contains(mask) {
            out.push(HostChange::Entry { entry, mask, object });
            return;
        }
        if self.held.len() >= Self::LEN_MAX {
            out.extend(self.held.pop_front().map(Held::into_change));
        }
        let until = now + Self::WAIT_MAX;
        self.held.push_back(Held { until, entry, mask, object });
    }

    fn let_go(&mut self, out: &mut Vec<HostChange>) {
        out.extend(self.held.drain(..).map(Held::into_change));
    }
}

impl Held {
    fn into_change(self) -> HostChange {
        let Self { entry, mask, object, .. } = self;
        HostChange::Entry { entry, mask, object }
    }
}
