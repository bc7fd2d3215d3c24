// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Changes that the host's watcher observed: which events they are to the guest.

use super::super::backlog::{Moves, Pending};
use super::super::change::{HostChange, HostEntry};
use super::Engine;
use crate::{Entry, Fid, FileKind, GuestEvent, Mask, Name, NodeId};

impl Engine {
    /// Takes in one change on the host.
    pub(super) fn handle_change(&mut self, change: HostChange) {
        if !self.is_listening() {
            return;
        }
        self.observed(&change);
        match change {
            HostChange::Entry { entry, mask, object } => {
                self.entry_changed(&entry, mask, object.as_ref());
            }
            HostChange::Object { object, mask } => self.object_changed(&object, mask),
            HostChange::Move { from, to, object, directory } => {
                self.moved(from.as_ref(), to.as_ref(), object.as_ref(), directory);
            }
            HostChange::Overflow => {
                self.backlog.overflowed();
                self.has_news = true;
                self.nets.lost_track(self.nets.drained_at(), &self.tree);
            }
        }
    }

    /// A change in a directory went untold, and it is not known which.
    pub(super) fn handle_lost(&mut self, dir: &Fid) {
        if self.is_listening() {
            for dir in self.tree.nodes_of(dir).to_vec() {
                self.backlog.give_up();
                self.nets.gave_up(dir, Mask::empty(), &self.tree);
            }
        }
    }

    /// Notes which names a change of the host concerns.
    fn observed(&mut self, change: &HostChange) {
        let (names, merged): (Vec<&HostEntry>, bool) = match change {
            HostChange::Entry { entry, mask, .. } => {
                let names = mask.intersection(Mask::CREATE | Mask::DELETE);
                if names.is_empty() {
                    return;
                }
                (vec![entry], names == Mask::CREATE | Mask::DELETE)
            }
            HostChange::Move { from, to, .. } => (from.iter().chain(to).collect(), true),
            HostChange::Object { .. } | HostChange::Overflow => return,
        };
        let merged = merged && self.merges;
        if !merged && self.contested.is_empty() {
            return;
        }
        for HostEntry { dir, name } in names {
            for dir in self.tree.nodes_of(dir).to_vec() {
                if merged {
                    self.doubt(dir, name);
                } else {
                    self.contested.host_changed(dir, name);
                    self.contested.held(dir, name, self.tree.told(dir, name));
                }
            }
        }
    }

    fn entry_changed(&mut self, entry: &HostEntry, mask: Mask, object: Option<&Fid>) {
        let kind = self.kind_of_object(object, mask.contains(Mask::ISDIR));
        let isdir = mask.intersection(Mask::ISDIR);
        let wanted = mask.intersection(self.wanted);
        let deleted = wanted.intersection(Mask::DELETE);
        let rest = wanted.difference(Mask::DELETE.union(Mask::MOVE));
        for dir in self.tree.nodes_of(&entry.dir).to_vec() {
            if self.nets.is_stale(dir, &entry.name) {
                self.backlog.give_up();
                continue;
            }
            let child = object.and_then(|fid| self.tree.node_at(fid, kind, dir, &entry.name));
            // Merged by the kernel, the order is lost: an object that was there has been deleted and
            // linked again, one that was not has been created and deleted.
            let was_there = child.is_some_and(|id| self.tree.told(dir, &entry.name).contains(&id));
            let delete_first = rest.contains(Mask::CREATE) && was_there;
            for bits in if delete_first { [deleted, rest] } else { [rest, deleted] } {
                if bits.is_empty() {
                    continue;
                }
                let link = bits.contains(Mask::CREATE)
                    && isdir.is_empty()
                    && child.is_some_and(|id| self.tree.has_other_name(id, dir, &entry.name));
                let (closed, others) = closed(bits, kind);
                if !others.is_empty() {
                    self.push_entry(dir, &entry.name, others | isdir, object, kind, link);
                }
                if !closed.is_empty() {
                    self.push_entry(dir, &entry.name, closed, object, FileKind::Regular, link);
                }
            }
        }
    }

    fn object_changed(&mut self, object: &Fid, mask: Mask) {
        let told = Mask::CONTENT.union(Mask::READS).intersection(self.wanted);
        let bits = mask.intersection(told);
        if bits.is_empty() {
            return;
        }
        if self.tree.nodes_of(object).is_empty()
            && let Some((dir, name)) = self.place_of(object)
        {
            let bits = bits | Mask::ISDIR;
            if self.nets.is_stale(dir, &name) {
                self.backlog.give_up();
            } else {
                self.push_entry(dir, &name, bits, Some(object), FileKind::Directory, false);
            }
            return;
        }
        for id in self.tree.nodes_of(object).to_vec() {
            let mask = bits | mask.intersection(Mask::ISDIR);
            if self.nets.takes(id, mask.difference(Mask::READS)) {
                self.backlog.give_up();
                continue;
            }
            let event = GuestEvent::Object { node: self.tree.node(id), mask };
            self.push(Pending::new(event, Some(object.clone())));
        }
    }

    fn moved(
        &mut self,
        from: Option<&HostEntry>,
        to: Option<&HostEntry>,
        object: Option<&Fid>,
        directory: bool,
    ) {
        let dirs =
            |side: Option<&HostEntry>| side.map_or(&[][..], |entry| self.tree.nodes_of(&entry.dir));
        let kind = self.kind_of_object(object, directory);
        let isdir = if directory { Mask::ISDIR } else { Mask::empty() };
        let moves = Moves { object, directory };
        let mut stays = None;
        if let Some(HostEntry { dir, name }) = from {
            for dir in self.tree.nodes_of(dir) {
                // What has been handed out is earlier than what waits.
                let queued = self.backlog.exchanged((*dir, name), &moves);
                let last = queued.or_else(|| self.ledger.exchanged((*dir, name), &moves));
                stays = stays.or_else(|| last.and_then(|last| last.stays));
            }
        }
        for (from_dir, to_dir) in self.tree.pairs(dirs(from), dirs(to)) {
            // A side that is stale is out of view until its net: what is left is a plain half.
            let in_step =
                |(entry, dir): &(&HostEntry, NodeId)| !self.nets.is_stale(*dir, &entry.name);
            let (old, new) = (from.zip(from_dir), to.zip(to_dir));
            let sides = old.iter().chain(&new).count();
            let (old, new) = (old.filter(in_step), new.filter(in_step));
            if old.iter().chain(&new).count() < sides {
                self.backlog.give_up();
            }
            match (old, new) {
                (Some((from, from_dir)), Some((to, to_dir))) => {
                    let entry = |dir: NodeId, name: &Name| Entry {
                        dir: self.tree.node(dir),
                        name: name.clone(),
                    };
                    let child =
                        object.and_then(|fid| self.tree.node_at(fid, kind, from_dir, &from.name));
                    let event = GuestEvent::Rename {
                        from: entry(from_dir, &from.name),
                        to: entry(to_dir, &to.name),
                        child: child.map(|id| self.tree.node(id)),
                        kind,
                    };
                    self.push(Pending {
                        stays: stays.clone(),
                        ..Pending::new(event, object.cloned())
                    });
                }
                (Some((from, dir)), None) => {
                    let mask = Mask::MOVED_FROM | isdir;
                    let half = self.pending_entry(dir, &from.name, mask, object, kind, false);
                    self.push(Pending { stays: stays.clone(), ..half });
                }
                (None, Some((to, dir))) => {
                    let mask = Mask::MOVED_TO | isdir;
                    self.push_entry(dir, &to.name, mask, object, kind, false);
                }
                (None, None) => {}
            }
        }
    }

    /// The type of what a change is about, as far as it is known.
    fn kind_of_object(&self, object: Option<&Fid>, directory: bool) -> FileKind {
        let kind = if directory { FileKind::Directory } else { FileKind::Unknown };
        let known = object.and_then(|fid| self.tree.node_of(fid, kind));
        known.and_then(|id| self.tree.kind(id)).unwrap_or(kind)
    }

    /// Where a directory is, or will be for the guest, whose kernel does not hold it. The watcher
    /// names a directory that has changed by itself alone; the event that brought it to its place
    /// has named that.
    fn place_of(&self, directory: &Fid) -> Option<(NodeId, Name)> {
        let coming =
            self.backlog.place(directory).map(|Entry { dir, name }| (dir.id, name.clone()));
        coming.or_else(|| self.tree.shown_at(directory).cloned())
    }

    fn push_entry(
        &mut self,
        dir: NodeId,
        name: &Name,
        mask: Mask,
        object: Option<&Fid>,
        kind: FileKind,
        link: bool,
    ) {
        let pending = self.pending_entry(dir, name, mask, object, kind, link);
        self.push(pending);
    }

    fn pending_entry(
        &self,
        dir: NodeId,
        name: &Name,
        mask: Mask,
        object: Option<&Fid>,
        kind: FileKind,
        link: bool,
    ) -> Pending {
        let child = object.and_then(|fid| self.tree.node_at(fid, kind, dir, name));
        let event = GuestEvent::Entry {
            entry: Entry { dir: self.tree.node(dir), name: name.clone() },
            mask,
            child: child.map(|id| self.tree.node(id)),
            kind,
            link,
        };
        Pending::new(event, object.cloned())
    }
}

/// What is to be told of a regular file, since the agent opens and closes nothing else for writing, and
/// what of an object of type `kind`. The first has a FIFO's CLOSE_WRITE, which so comes to who watches
/// the directory; and all of a file whose name a FIFO may have by the time of the replay.
fn closed(mask: Mask, kind: FileKind) -> (Mask, Mask) {
    let closed = mask.intersection(Mask::CLOSE_WRITE);
    if closed.is_empty() || kind == FileKind::Directory {
        (Mask::empty(), mask)
    } else if matches!(kind, FileKind::Regular | FileKind::Unknown) {
        (mask, Mask::empty())
    } else {
        (closed, mask.difference(closed))
    }
}
