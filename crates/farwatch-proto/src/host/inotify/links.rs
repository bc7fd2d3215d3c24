// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Links`]: which known object has lost a name that the guest never looked up.
//!
//! Who watches a file with several names is told when it loses one, whichever it is. inotify reports
//! the name and not the object. So the link counts of known objects with several names are kept, and
//! compared when a name goes of which nobody knows what it stood for.

use std::collections::BTreeMap;

use super::super::tree::Tree;
use crate::Fid;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Links {
    counts: BTreeMap<Fid, u32>,
    /// How many more are not kept before those that the guest has forgotten are looked for again.
    full_for: usize,
}

impl Links {
    /// The most objects that are kept. One more is not, and is told of names alone that are known.
    pub(super) const LEN_MAX: usize = 1024;
    /// How many are not kept between one look at all and the next. The guest may know a million.
    const FULL_FOR: usize = Self::LEN_MAX / 4;

    /// The guest gets to know an object with so many names.
    pub(super) fn learn(&mut self, object: Fid, nlink: u32, tree: &Tree) {
        if nlink < 2 {
            return;
        }
        if self.counts.len() >= Self::LEN_MAX {
            if self.full_for > 0 {
                self.full_for -= 1;
                return;
            }
            self.counts.retain(|object, _| !tree.nodes_of(object).is_empty());
            self.full_for = Self::FULL_FOR;
        }
        if self.counts.len() < Self::LEN_MAX {
            self.counts.insert(object, nlink);
        }
    }

    /// The object was reported to have got a name.
    pub(super) fn linked(&mut self, object: &Fid) {
        if let Some(nlink) = self.counts.get_mut(object) {
            *nlink = nlink.saturating_add(1);
        }
    }

    /// It was reported to have lost one.
    pub(super) fn unlinked(&mut self, object: &Fid) {
        if let Some(nlink) = self.counts.get_mut(object) {
            *nlink = nlink.saturating_sub(1);
        }
    }

    /// The objects whose link counts are to be looked up.
    pub(super) fn looks(&self, tree: &Tree) -> Vec<Fid> {
        self.counts.keys().filter(|object| !tree.nodes_of(object).is_empty()).cloned().collect()
    }

    /// One that has lost a name of which nothing was reported.
    pub(super) fn lost(&mut self, found: &BTreeMap<Fid, u32>) -> Option<Fid> {
        let lost = |(object, nlink): &(&Fid, &mut u32)| {
            found.get(*object).is_some_and(|found| *found < **nlink)
        };
        let (object, nlink) = self.counts.iter_mut().find(lost)?;
        *nlink -= 1;
        Some(object.clone())
    }
}
