// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Fault`]: something that goes wrong on purpose, so that it is seen that a check notices.

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
    /// What is missing after an overflow is not found out.
    SkipRepair,
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

    pub(crate) fn spoil_changes(&self, changes: &mut Vec<HostChange>) {
        if self.config.fault == Some(Fault::SkipRepair) {
            changes.retain(|change| *change != HostChange::Overflow);
        }
    }
}

/// As fanotify would, where there is no second event in between to tell them apart.
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
