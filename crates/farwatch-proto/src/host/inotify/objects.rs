// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`objects`]: which object each of several reports is about, as far as the directories tell after the last
//! of them.

use std::collections::BTreeMap;

use super::super::change::HostEntry;
use super::{Found, Seen};
use crate::{Fid, Mask};

/// The object of each report as far as the directories tell, in which the names of `found` were
/// looked up after the last of them. What came to a name is what is there, unless it has left it
/// since; what was moved on is where it was moved to.
pub(super) fn objects(batch: &[Seen], found: &Found) -> Vec<Option<Fid>> {
    let mut later: BTreeMap<&HostEntry, Option<Fid>> = BTreeMap::new();
    let mut objects = Vec::with_capacity(batch.len());
    for (i, seen) in batch.iter().enumerate().rev() {
        let there = |later: &BTreeMap<&HostEntry, Option<Fid>>, entry| {
            later.get(entry).cloned().unwrap_or_else(|| found.names.get(entry).cloned())
        };
        // What has come there since, and was not reported yet, may be of the other kind.
        let fits = |object: &Fid| found.directories.contains(object) == seen.is_directory();
        objects.push(match seen {
            Seen::Entry { entry, mask } => {
                let deleted = mask.contains(Mask::DELETE);
                let object = if deleted { None } else { there(&later, entry).filter(fits) };
                if mask.intersects(Mask::CREATE | Mask::DELETE) {
                    later.insert(entry, None);
                }
                object
            }
            Seen::To { to, .. } => {
                let object = there(&later, to).filter(fits);
                later.insert(to, None);
                object
            }
            Seen::From { from, .. } => {
                let before = i.checked_sub(1).and_then(|before| batch.get(before));
                if !before.is_some_and(|before| is_exchange(before, Some(seen), found)) {
                    later.insert(from, None);
                }
                None
            }
            Seen::Move { from, to, .. } => {
                let object = there(&later, to).filter(fits);
                later.insert(to, None);
                later.insert(from, object.clone());
                object
            }
            Seen::Itself { .. } | Seen::Overflow => None,
        });
    }
    objects.reverse();
    objects
}

/// Whether a name gets something from out of view and gives something away to there, both at once
/// (`RENAME_EXCHANGE`): then what came is still there.
fn is_exchange(seen: &Seen, next: Option<&Seen>, found: &Found) -> bool {
    let (Seen::To { to, directory, .. }, Some(Seen::From { from, .. })) = (seen, next) else {
        return false;
    };
    let there = || found.names.get(to).map(|object| found.directories.contains(object));
    from == to && there() == Some(*directory)
}

/// Whether `next` moves back what `seen` moved.
pub(super) fn is_reverse(seen: &Seen, next: Option<&Seen>) -> bool {
    let (Seen::Move { from, to, .. }, Some(Seen::Move { from: from2, to: to2, .. })) = (seen, next)
    else {
        return false;
    };
    from == to2 && to == from2
}
