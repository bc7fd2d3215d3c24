// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`objects`]: which object each of several reports is about, as far as the directories tell after the last
//! of them.

use std::collections::BTreeMap;

use super::super::change::HostEntry;
use super::{Found, Seen};
use crate::{Fid, Mask};

/// What the directories tell of a report.
#[derive(Debug, Default)]
pub(super) struct Traced {
    /// The object that it is about.
    pub(super) object: Option<Fid>,
    /// What is under the old name of a rename after it.
    pub(super) at_from: Option<Fid>,
    /// What is under the new name.
    pub(super) at_to: Option<Fid>,
}

/// The object of each report of `batch` as far as the directories tell, in which the names of `found` were looked up
/// after the last of them. `before` the look more was read, and `after` it what may have happened before or after it.
/// What came to a name is what is there, unless it has left it since; what was moved on is where it was moved to.
pub(super) fn objects<'a>(
    batch: &'a [Seen],
    before: &[&'a Seen],
    after: &[&'a Seen],
    found: &'a Found,
) -> Vec<Traced> {
    let all: Vec<&Seen> = batch.iter().chain(before.iter().copied()).collect();
    let previous = |i: usize| i.checked_sub(1).and_then(|i| all.get(i)).copied();
    // What was found under another name was there before, since nothing has come to that.
    let arrived = after.iter().filter_map(|seen| seen.arrives_at());
    let mut later = Later { found, names: arrived.map(|name| (name, None)).collect() };
    let traced = all.iter().enumerate().rev().map(|(i, seen)| later.undo(seen, previous(i)));
    let mut objects: Vec<_> = traced.collect();
    objects.reverse();
    objects
}

/// What is under names after a report, on the way back from the look.
struct Later<'a> {
    found: &'a Found,
    names: BTreeMap<&'a HostEntry, Option<Fid>>,
}

impl<'a> Later<'a> {
    fn at(&self, entry: &HostEntry) -> Option<Fid> {
        self.names.get(entry).cloned().unwrap_or_else(|| self.found.names.get(entry).cloned())
    }

    /// Goes back over a report, behind the one `before` it.
    fn undo(&mut self, seen: &'a Seen, before: Option<&Seen>) -> Traced {
        // What has come there since, and was not reported yet, may be of the other kind.
        let fits = |object: &Fid| self.found.directories.contains(object) == seen.is_directory();
        match seen {
            Seen::Entry { entry, mask } => {
                let deleted = mask.contains(Mask::DELETE);
                let object = if deleted { None } else { self.at(entry).filter(fits) };
                if mask.intersects(Mask::CREATE | Mask::DELETE) {
                    self.names.insert(entry, None);
                }
                Traced { object, ..Traced::default() }
            }
            Seen::To { to, .. } => {
                let at_to = self.at(to);
                self.names.insert(to, None);
                Traced { object: at_to.clone().filter(fits), at_from: None, at_to }
            }
            Seen::From { from, .. } => {
                let at_from = self.at(from);
                if !before.is_some_and(|before| self.is_exchange(before, seen)) {
                    self.names.insert(from, None);
                }
                Traced { at_from, ..Traced::default() }
            }
            Seen::Move { from, to, .. } => {
                let (at_from, at_to) = (self.at(from), self.at(to));
                let object = at_to.clone().filter(fits);
                self.names.insert(to, None);
                self.names.insert(from, object.clone());
                Traced { object, at_from, at_to }
            }
            Seen::Itself { .. } | Seen::Overflow => Traced::default(),
        }
    }

    /// Whether a name gets something from out of view and gives something away to there, both at once
    /// (`RENAME_EXCHANGE`): then what came is still there.
    fn is_exchange(&self, seen: &Seen, next: &Seen) -> bool {
        let (Seen::To { to, directory, .. }, Seen::From { from, .. }) = (seen, next) else {
            return false;
        };
        let there = || self.at(to).map(|object| self.found.directories.contains(&object));
        from == to && there() == Some(*directory)
    }
}

/// Whether `next` moves back what `seen` moved.
pub(super) fn is_reverse(seen: &Seen, next: Option<&Seen>) -> bool {
    let (Seen::Move { from, to, .. }, Some(Seen::Move { from: from2, to: to2, .. })) = (seen, next)
    else {
        return false;
    };
    from == to2 && to == from2
}
