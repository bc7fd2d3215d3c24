// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which object a rename moves. That is what was under the old name, but for an exchange
//! (`RENAME_EXCHANGE`), which is reported as two renames, there and back: after the first the old name of the
//! second has what came, and the second moves what was there before.

use std::collections::VecDeque;

use super::super::change::{HostChange, HostEntry};
use super::super::tree::Tree;
use super::objects::Traced;
use super::{Came, Observer};
use crate::{Cookie, Fid};

/// Something has come to the old name of a rename and stays there; `None` if it is not known what.
#[derive(Debug)]
pub(super) struct Stays(Option<Fid>);

/// Objects that were told to have left view, because the other half of their rename did not come in time. It may come
/// yet, and then its cookie says what comes, though the object may have gone on by the time of the look.
#[derive(Debug, Default)]
pub(super) struct Departed(VecDeque<(Cookie, Fid)>);

impl Departed {
    /// The most that are kept; the oldest goes.
    const LEN_MAX: usize = 64;

    pub(super) fn leaves(&mut self, cookie: Cookie, change: Option<&HostChange>) {
        if let Some(HostChange::Move { object: Some(object), .. }) = change {
            if self.0.len() >= Self::LEN_MAX {
                self.0.pop_front();
            }
            self.0.push_back((cookie, object.clone()));
        }
    }

    pub(super) fn comes_back(&mut self, cookie: Cookie) -> Option<Fid> {
        let at = self.0.iter().position(|(left, _)| *left == cookie)?;
        self.0.remove(at).map(|(_, object)| object)
    }
}

impl Observer {
    /// What a rename moves, as far as is known, and what has come to its old name and stays there. If the
    /// `reverse` of it follows, that may be the second of an exchange; if it has followed, this is the second. `traced`
    /// says what is under the names after it.
    pub(super) fn mover(
        &mut self,
        from: &HostEntry,
        to: &HostEntry,
        directory: bool,
        reverse: Option<&Traced>,
        traced: &Traced,
        tree: &Tree,
    ) -> (Option<Fid>, Option<Stays>) {
        let mut mover = self.second.take();
        if mover.is_none()
            && let Some(reverse) = reverse
        {
            (mover, self.second) = self.exchange(from, to, reverse, tree).unzip();
            self.second = self.second.take().or_else(|| self.cannot_be_replaced(from, to, tree));
        } else if mover.is_none() {
            mover = self.exchanged(from, to, traced, tree);
        }
        // What was under the old name: the new one may have been given away since.
        let (was, other) = self.leaving(from, directory, tree);
        // The second of an exchange leaves there what the first has brought.
        let there = || mover.as_ref().map(|_| Stays(self.names.at(from, tree).flatten()));
        let other = other.map(|other| Stays(Some(other)));
        let stays = if self.second.is_none() { there().or(other) } else { None };
        (mover.or(was), stays)
    }

    /// What has come to the old name of a rename that was told is there again.
    pub(super) fn stayed(&mut self, from: &HostEntry, stays: Option<Stays>, tree: &Tree) {
        if let Some(Stays(stays)) = stays {
            self.names.arrived(from, stays, tree);
        }
    }

    /// The directory under the new name, if something is in it: a rename of another exchanges the two.
    fn cannot_be_replaced(&self, from: &HostEntry, to: &HostEntry, tree: &Tree) -> Option<Fid> {
        let (was_from, was_to) =
            (self.names.at(from, tree).flatten(), self.names.at(to, tree).flatten());
        // The guest may have found what is moved under its new name before that was reported.
        was_to.filter(|dir| was_from.as_ref() != Some(dir) && self.names.is_filled(dir, tree))
    }

    /// What leaves a name. If what is there is not of that kind, it has come in an exchange and stays,
    /// which is the second of the two; then it is what was there before.
    fn leaving(
        &self,
        from: &HostEntry,
        directory: bool,
        tree: &Tree,
    ) -> (Option<Fid>, Option<Fid>) {
        let at = self.names.at(from, tree).flatten();
        let fits = |object: &Fid| self.is_directory(object, tree) == directory;
        let before = || self.names.past(from).iter().rev().find(|object| fits(object)).cloned();
        match at {
            Some(at) if !fits(&at) => match before() {
                Some(before) => (Some(before), Some(at)),
                None => (Some(at), None),
            },
            at => (at, None),
        }
    }

    /// What was there, or what was before something came from out of view and is there still.
    pub(super) fn left_view(
        &mut self,
        from: &HostEntry,
        directory: bool,
        traced: &Traced,
        tree: &Tree,
    ) -> Option<HostChange> {
        let at = self.names.at(from, tree).flatten();
        let came = self.came.take_if(|came| came.to == *from);
        let there = at.is_some() && traced.at_from == at;
        let (object, stays) = match came {
            Some(Came { was, was_filled, .. }) if there || (was_filled && directory) => {
                (was, Some(Stays(at)))
            }
            Some(_) | None => {
                let (object, other) = self.leaving(from, directory, tree);
                (object, other.map(|other| Stays(Some(other))))
            }
        };
        let change = self.moved(Some(from), None, object.clone(), directory, tree);
        if stays.is_some() {
            object.iter().for_each(|object| self.links.linked(object));
        }
        self.stayed(from, stays, tree);
        change
    }

    /// Two renames, there and back, may be an exchange (`RENAME_EXCHANGE`): then the second moves
    /// another object, as the directories show. Returns what the first moves, and what the second.
    fn exchange(
        &self,
        from: &HostEntry,
        to: &HostEntry,
        reverse: &Traced,
        tree: &Tree,
    ) -> Option<(Fid, Fid)> {
        let was = |entry: &HostEntry| self.names.at(entry, tree).flatten();
        let (at_from, at_to) = (reverse.at_to.as_ref()?, reverse.at_from.as_ref()?);
        let (was_from, was_to) = (was(from), was(to));
        let fits =
            was_from.is_none_or(|was| was == *at_to) && was_to.is_none_or(|was| was == *at_from);
        (fits && at_from != at_to).then(|| (at_to.clone(), at_from.clone()))
    }

    /// Whether a rename may bring back what came from there last. Then it may as well be the second of
    /// an exchange, of which the first was read before.
    pub(super) fn goes_back(&self, from: &HostEntry, to: &HostEntry, tree: &Tree) -> bool {
        let before = self.names.before(to);
        before.is_some() && self.names.at(from, tree).flatten().as_ref() == before
    }

    /// What the second of an exchange moves: what came with the first is still there.
    fn exchanged(
        &self,
        from: &HostEntry,
        to: &HostEntry,
        traced: &Traced,
        tree: &Tree,
    ) -> Option<Fid> {
        let (at_from, at_to) = (traced.at_from.as_ref()?, traced.at_to.as_ref()?);
        let stays = self.goes_back(from, to, tree) && self.names.before(to) == Some(at_from);
        (stays && at_from != at_to).then(|| at_to.clone())
    }
}
