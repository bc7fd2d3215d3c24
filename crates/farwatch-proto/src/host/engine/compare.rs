// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Comparisons with the host: the directories of which events were dropped, and contested entries. What
//! watchers were told and is not so becomes events.

use std::time::{Duration, Instant};

use super::super::backlog::Pending;
use super::super::contested::{Check, Checked, Difference, Reported};
use super::super::net::{Change, Listed, Listing, Net, Rescan};
use super::super::tree::Shown;
use super::Engine;
use crate::{Entry, FileKind, GuestEvent, Mask, Name, NodeId};

impl Engine {
    /// Whether a directory is to be listed, as soon as it may be tried.
    pub(super) fn wants_rescan(&self) -> bool {
        self.may_rescan() && !self.nets.is_empty()
    }

    /// Whether the watch thread has to find out when a directory is to be polled.
    pub(super) fn wants_poll(&self) -> bool {
        self.polls_unseen && self.nets.polls.len() > 0 && self.may_rescan()
    }

    pub(super) fn may_rescan(&self) -> bool {
        self.is_listening() && self.backlog.is_empty()
    }

    /// When to call [`Engine::next_rescan`] again, after it gave nothing.
    pub(super) fn rescan_timeout(&self, now: Instant) -> Option<Instant> {
        if self.may_rescan() { self.nets.retry_at(now) } else { None }
    }

    /// See [`Input::Watched`](super::Input::Watched).
    pub(super) fn handle_watched(&mut self, dir: NodeId) {
        self.nets.watched(dir);
    }

    /// Has each directory that cannot be watched compared with the host so often, instead of each second.
    pub fn poll_every(&mut self, interval: Duration) {
        self.nets.polls.every(interval);
    }

    /// Directories that are not watched, of which it cannot be said that all has been told: they could not be listed, or
    /// have not been compared since the last barrier was asked for. `is_reached` leaves the latter out.
    pub fn uncompared_len(&self, is_reached: bool) -> usize {
        let polls = &self.nets.polls;
        polls.unlisted_len() + if is_reached { 0 } else { polls.demanded_len() }
    }

    /// The directory to list now. There is none while events wait: the client is told of the overflow first.
    pub(super) fn next_rescan(&mut self, now: Instant) -> Option<Rescan> {
        if !self.may_rescan() {
            return None;
        }
        let rescan = self.nets.ask(now, self.backlog.piece_len(), &self.tree, &self.ledger)?;
        self.tree.look_out(rescan.dir, rescan.after.clone());
        Some(rescan)
    }

    /// What is in the directory that was asked for: the difference to what the guest was told goes to
    /// the backlog. A directory that is gone has an empty listing.
    pub(super) fn handle_listing(&mut self, now: Instant, listing: Listing) {
        let touched = self.tree.seen();
        let compared = self.nets.compare(now, listing, touched.as_ref(), &self.tree, &self.ledger);
        let Some((dir, Net { itself, changes })) = compared else { return };
        if !itself.is_empty() {
            let object = self.tree.fid(dir);
            let event = GuestEvent::Object { node: self.tree.node(dir), mask: itself };
            self.push(Pending::new(event, object));
        }
        for change in changes {
            self.push_change(dir, change);
        }
    }

    /// The directory that was asked for could not be listed. It is asked for again, later.
    pub(super) fn handle_unlisted(&mut self, now: Instant) {
        self.tree.seen();
        self.nets.postpone(now);
    }

    /// The next entry that is to be looked at on the host.
    pub(super) fn next_check(&mut self, now: Instant) -> Option<Check> {
        let tree = &self.tree;
        self.contested.poll_check(now, |dir, name| {
            let directory = |id: &NodeId| tree.kind(*id) == Some(FileKind::Directory);
            tree.told(dir, name).iter().copied().filter(directory).collect()
        })
    }

    /// What was found where an entry was looked at.
    pub(super) fn handle_checked(&mut self, now: Instant, check: Check, checked: Checked) {
        let found = checked.found.as_ref().and_then(|found| found.object.clone());
        for id in self.contested.handle_checked(now, check, checked) {
            if found.is_none() || self.tree.fid(id) != found {
                self.push_end(id);
            }
        }
    }

    /// An entry could not be looked at.
    pub(super) fn handle_unchecked(&mut self, now: Instant, check: Check) {
        let known = self.tree.knows(check.dir);
        for id in self.contested.handle_unchecked(now, check, known) {
            self.push_end(id);
        }
    }

    /// Names were given up without a look. Of what the guest has held there a node may be gone for which its kernel was
    /// given a count that was too high when the guest itself has taken the last name.
    pub(super) fn end_given_up(&mut self) {
        for id in self.contested.take_given_up() {
            if self.tree.has_more_links(id) {
                self.push_end(id);
            }
        }
    }

    /// What the guest holds under no name is in no directory that is compared: its last name may have gone on the host while
    /// no agent listened, or its replay ended half done. A kernel that raises events itself asks for the link count.
    pub(super) fn end_nameless(&mut self) {
        if self.is_native() {
            return;
        }
        for id in self.tree.nameless() {
            self.push_end(id);
        }
    }

    /// Has the watches on a node end, if it is gone by the time of the replay: its last name may have been taken
    /// from another node in the guest (`docs/PROTOCOL.md`, 6.5). The server looks whether it is gone when the
    /// agent's kernel asks for it.
    pub(super) fn push_end(&mut self, id: NodeId) {
        if let Some(end) = self.end(id) {
            self.push(end);
        }
    }

    /// The same before everything that waits: it belongs to what has just been handed out.
    pub(super) fn push_end_first(&mut self, id: NodeId) {
        if let Some(end) = self.end(id) {
            self.has_news = true;
            self.backlog.push_first(end);
        }
    }

    fn end(&mut self, id: NodeId) -> Option<Pending> {
        let kind = self.tree.kind(id).filter(|_| id != NodeId::ROOT)?;
        if !self.wanted.contains(Mask::DELETE) {
            return None;
        }
        if !self.backlog.has_room() {
            // It has no directory that a net could make up for it in: the watch stays until the guest forgets the node.
            self.backlog.give_up();
            return None;
        }
        let isdir = if kind == FileKind::Directory { Mask::ISDIR } else { Mask::empty() };
        // A number alone may be where the agent has moved something.
        let name = format!("end-{}", id.get());
        let name = Name::parse(name.as_bytes()).expect("letters and digits make a name");
        let event = GuestEvent::Entry {
            entry: Entry { dir: self.tree.node(NodeId::LIMBO), name },
            mask: Mask::DELETE | isdir,
            child: Some(self.tree.node(id)),
            kind,
            link: false,
        };
        Some(Pending::new(event, None))
    }

    pub(super) fn doubt(&mut self, dir: NodeId, name: &Name) {
        if !self.is_listening() || dir.is_reserved() {
            return;
        }
        if self.contested.doubt(dir, name) {
            self.contested.held(dir, name, self.tree.told(dir, name));
        } else {
            self.nets.gave_up(dir, Mask::empty(), &self.tree);
        }
    }

    pub(super) fn push_difference(&mut self, difference: Difference) {
        let Difference { dir, name, reported, checked: Checked { found, removed } } = difference;
        self.nets.polls.note(dir, &name, found.as_ref());
        let gone = match reported {
            Reported::Absent => Vec::new(),
            Reported::Present(shown) => {
                let node = shown
                    .object
                    .as_ref()
                    .and_then(|object| self.tree.node_at(object, shown.kind, dir, &name));
                vec![(node, shown)]
            }
            Reported::Unknown => {
                let shown = |id: &NodeId| {
                    let kind = self.tree.kind(*id).unwrap_or_default();
                    (Some(*id), Shown { object: self.tree.fid(*id), kind })
                };
                let mut gone: Vec<_> = self.tree.told(dir, &name).iter().map(shown).collect();
                if gone.is_empty() {
                    gone.push((None, Shown { object: None, kind: FileKind::Regular }));
                }
                gone
            }
        };
        let is_found = |shown: &Shown| found.as_ref().is_some_and(|found| shown.is(found));
        for (node, shown) in gone.into_iter().filter(|(_, shown)| !is_found(shown)) {
            let Shown { object, kind } = shown;
            // A replayed rmdir(2) leaves a dead directory behind, wherever it was moved.
            let moved =
                kind == FileKind::Directory && node.is_some_and(|id| !removed.contains(&id));
            let mask = if moved { Mask::MOVED_FROM } else { Mask::DELETE };
            self.push_change(dir, Change { name: name.clone(), mask, object, node, kind });
        }
        if let Some(Listed { object, kind, .. }) = found {
            let mask = if kind == FileKind::Regular {
                Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE
            } else {
                Mask::CREATE
            };
            self.push_change(dir, Change { name, mask, object, node: None, kind });
        }
    }

    /// An event of a net. A further name of a known object is created like a first one: to link it
    /// the guest would have to hold the object until then, and not to have heard that the name that
    /// it knows has gone.
    fn push_change(&mut self, dir: NodeId, change: Change) {
        let Change { name, mask, object, node, kind } = change;
        let mask = mask.intersection(self.wanted);
        if mask.is_empty() {
            return;
        }
        let isdir = if kind == FileKind::Directory { Mask::ISDIR } else { Mask::empty() };
        let known = || self.tree.node_at(object.as_ref()?, kind, dir, &name);
        let node = node.or_else(known);
        let event = GuestEvent::Entry {
            entry: Entry { dir: self.tree.node(dir), name },
            mask: mask | isdir,
            child: node.map(|id| self.tree.node(id)),
            kind,
            link: false,
        };
        self.push(Pending::new(event, object));
    }
}
