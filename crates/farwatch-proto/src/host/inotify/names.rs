// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Names`]: which object is under which name, at the point up to which the kernel's reports have
//! been taken in.
//!
//! inotify names no objects. What the guest was told of a name is in the tree, and is behind by what
//! it has not replayed yet; what the directory says now is ahead by what has not been read yet. This
//! is between the two: the tree's word, unless a report about the name has come since.

use std::collections::BTreeMap;

use super::super::change::HostEntry;
use super::super::tree::Tree;
use crate::{Fid, Name};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Names {
    dirs: BTreeMap<Fid, BTreeMap<Name, Slot>>,
    len: usize,
}

/// What is known of a name about which something was reported.
#[derive(Debug, Default)]
struct Slot {
    now: Option<Fid>,
    /// Something is there, and it is not known what.
    unseen: bool,
    /// What left the name last, if nothing has come to it since: who has it open still writes to it
    /// under this name.
    before: Option<Fid>,
    /// What was under the name earlier, oldest first: whose last name it was, the kernel reports
    /// under it for as long as it is open.
    past: Vec<Fid>,
}

impl Names {
    /// The most earlier objects of a name that are kept; the oldest goes. Where the guest then
    /// writes to that, it is told of it once more.
    const PAST_MAX: usize = 8;
    /// The most names that are kept. Past it all go, and for a moment the tree's word, which is
    /// behind, must do.
    const LEN_MAX: usize = 1 << 16;

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The directory is not watched any more.
    pub(super) fn forget(&mut self, dir: &Fid) {
        self.len -= self.dirs.remove(dir).map_or(0, |names| names.len());
    }

    /// The object under a name: `None` when nobody knows, `Some(None)` when none that could be told.
    pub(super) fn at(&self, entry: &HostEntry, tree: &Tree) -> Option<Option<Fid>> {
        if let Some(slot) = self.dirs.get(&entry.dir).and_then(|names| names.get(&entry.name)) {
            // What has come there had gone when it was looked for; the guest may have found it before.
            let found = || {
                let mut held = tree
                    .nodes_of(&entry.dir)
                    .iter()
                    .flat_map(|dir| tree.held(*dir, &entry.name).filter_map(|id| tree.fid(id)));
                held.find(|object| !slot.past.contains(object))
            };
            return Some(slot.now.clone().or_else(|| if slot.unseen { found() } else { None }));
        }
        // The oldest: the others are there because the guest has looked ahead of the reports.
        let told = |dir: &_| tree.held(*dir, &entry.name).next();
        let id = tree.nodes_of(&entry.dir).iter().find_map(told)?;
        tree.fid(id).map(Some)
    }

    /// Whether something is known to be in a directory: another cannot replace it.
    pub(super) fn is_filled(&self, dir: &Fid, tree: &Tree) -> bool {
        let names = self.dirs.get(dir);
        let has = |slot: &Slot| slot.now.is_some() || slot.unseen;
        if names.is_some_and(|names| names.values().any(has)) {
            return true;
        }
        // What the guest was told of, where nothing was reported since.
        let is_new = |name: &Name| names.is_none_or(|names| !names.contains_key(name));
        let mut nodes = tree.nodes_of(dir).iter();
        nodes.any(|id| {
            tree.told_after(*id, None).any(|(name, nodes, _)| !nodes.is_empty() && is_new(name))
        })
    }

    /// The object that left a name under which nothing has been since.
    pub(super) fn before(&self, entry: &HostEntry) -> Option<&Fid> {
        self.dirs.get(&entry.dir)?.get(&entry.name)?.before.as_ref()
    }

    /// The objects that were under a name before the one that is.
    pub(super) fn past(&self, entry: &HostEntry) -> &[Fid] {
        let slot = self.dirs.get(&entry.dir).and_then(|names| names.get(&entry.name));
        slot.map_or(&[], |slot| slot.past.as_slice())
    }

    /// Keeps the tree's word of a name. The guest is about to change what is there, and hears of it
    /// before it is reported.
    pub(super) fn hold(&mut self, entry: &HostEntry, tree: &Tree) {
        let known = self.dirs.get(&entry.dir).is_some_and(|names| names.contains_key(&entry.name));
        if !known && let Some(now) = self.at(entry, tree) {
            self.set(entry, Slot { now, ..Slot::default() });
        }
    }

    /// An object has come to a name.
    pub(super) fn arrived(&mut self, entry: &HostEntry, object: Option<Fid>, tree: &Tree) {
        let past = self.take_past(entry, &object, tree);
        let unseen = object.is_none();
        self.set(entry, Slot { now: object, unseen, before: None, past });
    }

    /// An object was created under a name, which was free. If it had gone when it was looked for, and nothing
    /// was reported about the name before, then what the guest holds under it was found after the creation: it
    /// is no earlier object.
    pub(super) fn created(&mut self, entry: &HostEntry, object: Option<Fid>, tree: &Tree) {
        let reported =
            self.dirs.get(&entry.dir).is_some_and(|names| names.contains_key(&entry.name));
        if object.is_none() && !reported {
            self.set(entry, Slot { unseen: true, ..Slot::default() });
        } else {
            self.arrived(entry, object, tree);
        }
    }

    /// An object has left a name.
    pub(super) fn left(&mut self, entry: &HostEntry, object: Option<Fid>, tree: &Tree) {
        let past = self.take_past(entry, &None, tree);
        self.set(entry, Slot { now: None, unseen: false, before: object, past });
    }

    /// What was under a name to which `new` comes.
    fn take_past(&mut self, entry: &HostEntry, new: &Option<Fid>, tree: &Tree) -> Vec<Fid> {
        let was = self.at(entry, tree).flatten();
        let slot = self.dirs.get_mut(&entry.dir).and_then(|names| names.get_mut(&entry.name));
        let mut past = slot.map_or_else(Vec::new, |slot| std::mem::take(&mut slot.past));
        if let Some(was) = was.filter(|was| Some(was) != new.as_ref()) {
            past.retain(|object| *object != was);
            past.push(was);
        }
        if past.len() > Self::PAST_MAX {
            past.remove(0);
        }
        past
    }

    fn set(&mut self, entry: &HostEntry, slot: Slot) {
        if self.len >= Self::LEN_MAX {
            self.clear();
        }
        let names = self.dirs.entry(entry.dir.clone()).or_default();
        if names.insert(entry.name.clone(), slot).is_none() {
            self.len += 1;
        }
    }
}
