// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Fault`]: an injected fault. Each must make a check fail, or the check is worth nothing.

use farwatch_proto::Mask;
use farwatch_proto::host::HostChange;
use farwatch_proto::host::inotify::Report;

use crate::sim::World;

/// See the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A report gets lost.
    Drop,
    /// Two reports change places.
    Swap,
    /// A half of a rename has no cookie.
    LoseCookie,
    /// Of two equal renames in one read the second gets lost.
    MergeRenames,
    /// An overflow is not handed in, so no directory is rescanned.
    SkipRescan,
    /// Contested entries are not compared.
    SkipCompare,
}

impl World {
    /// One step of four, so that most things go right.
    fn is_due(&self, fault: Fault) -> bool {
        self.config.fault == Some(fault) && self.steps().is_multiple_of(4)
    }

    pub(crate) fn spoil_reports(&self, reports: &mut Vec<Report>) {
        if self.is_due(Fault::Drop) {
            reports.pop();
        }
        if self.is_due(Fault::Swap) && reports.len() > 1 {
            reports.swap(0, 1);
        }
        if self.is_due(Fault::LoseCookie)
            && let Some(Report::Entry { cookie, .. }) = reports.first_mut()
        {
            *cookie = None;
        }
        if self.config.fault == Some(Fault::MergeRenames) {
            merge_renames(reports);
        }
    }

    pub(crate) fn skips_compare(&self) -> bool {
        self.config.fault == Some(Fault::SkipCompare)
    }

    pub(crate) fn spoil_changes(&self, changes: &mut Vec<HostChange>) {
        if self.config.fault == Some(Fault::SkipRescan) {
            changes.retain(|change| *change != HostChange::Overflow);
        }
    }
}

/// As fanotify merges them.
fn merge_renames(reports: &mut Vec<Report>) {
    let mut seen = Vec::new();
    reports.retain(|report| {
        let Report::Entry { watch, name, mask, .. } = report else { return true };
        if !mask.intersects(Mask::MOVE) {
            return true;
        }
        let key = (*watch, name.clone(), *mask);
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
}
