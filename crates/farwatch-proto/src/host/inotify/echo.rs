// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Echo`]: what this daemon does for its guest, so that it can be told from what others do.
//!
//! fanotify says who did it, inotify does not. So every call that will be reported is announced
//! before it is made, and a report that was announced is the call's own. What a report names decides:
//! for what happens to a name, directory and name; for what happens to an object, the object, since
//! the kernel reports it under any of its names.
//!
//! ```text
//!   expect          the call          end                 the queue as it was then has been read
//!   ───────▶ open ─────────────▶ open ───▶ ended ──────────────────────────────────────▶ forgotten
//! ```
//!
//! A call's reports are in the kernel's queue when it returns. When the queue has been found empty
//! after that, or as much has been read as was in it then, all have been seen, and an announcement that is left over
//! announces nothing: the kernel has merged two reports, or the call had no effect. No clock is looked at.
//!
//! What another process does at the same moment can be taken for the call's own, or be merged with
//! it by the kernel. For a name that cannot be: each report is announced once, and two that are equal
//! have another between them. If the call then fails, the report was somebody else's, and the
//! directory is compared. For an object it can: a report that is taken after the
//! call has ended is a [`Doubt`], which the object's `ctime` settles. What another does between two calls
//! about an object cannot be told from the second by that: only what is reported besides is told.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::super::change::HostEntry;
use crate::{Fid, Mask};

/// A report that a call will cause.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Expected {
    /// About an entry of a directory.
    Entry(HostEntry),
    /// About an object, under whatever name. With an empty mask nothing is reported of it, but its
    /// `ctime` is changed.
    Object(Fid),
}

/// Stands for one call until it has ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CallId(u64);

/// A point in the order of calls: those that had ended before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mark(u64);

/// A report was taken for that of a call that had ended: whether it was is seen by the object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubt {
    /// Where it was reported.
    pub entry: HostEntry,
    /// The object.
    pub object: Fid,
    /// What was reported.
    pub mask: Mask,
    /// The object's `ctime` after the last call. If it has another now, somebody else has changed it.
    pub changed: SystemTime,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Echo {
    calls: BTreeMap<CallId, Call>,
    by_expected: BTreeMap<Expected, Vec<CallId>>,
    doubts: BTreeMap<Fid, Doubt>,
    /// Counts calls, and ends of calls.
    count: u64,
}

#[derive(Debug)]
struct Call {
    /// What has not been reported yet.
    expected: Vec<(Expected, Mask)>,
    /// What it is filed under.
    about: Vec<Expected>,
    /// Entries of which a report was taken.
    taken: Vec<HostEntry>,
    /// It changes the `ctime` of its objects, as everything does but a close.
    changes: bool,
    ended: Option<u64>,
    changed: Option<SystemTime>,
}

impl Echo {
    /// The most calls that are kept. When there are more, the oldest that have ended go, and the
    /// guest may be told of what it did itself.
    const LEN_MAX: usize = 1 << 14;

    pub(super) fn expect(&mut self, expected: Vec<(Expected, Mask)>) -> CallId {
        self.count += 1;
        let id = CallId(self.count);
        if self.calls.len() >= Self::LEN_MAX {
            let ended = |(id, call): (&CallId, &Call)| call.ended.map(|_| *id);
            if let Some(oldest) = self.calls.iter().find_map(ended) {
                self.forget(oldest);
            }
        }
        for (what, _) in &expected {
            let ids = self.by_expected.entry(what.clone()).or_default();
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let about = expected.iter().map(|(what, _)| what.clone()).collect();
        let changes = expected.iter().any(|(_, event)| *event != Mask::CLOSE_WRITE);
        let taken = Vec::new();
        let call = Call { expected, about, taken, changes, ended: None, changed: None };
        self.calls.insert(id, call);
        id
    }

    /// The call has returned. `changed` is the object's `ctime` since. Returns the directories whose
    /// reports were taken for those of a call that had none.
    pub(super) fn end(
        &mut self,
        id: CallId,
        succeeded: bool,
        changed: Option<SystemTime>,
    ) -> Vec<Fid> {
        self.count += 1;
        let Some(call) = self.calls.get_mut(&id) else { return Vec::new() };
        call.ended = Some(self.count);
        // A call that changes nothing, like a close, says nothing of when a change of the guest's own was made.
        call.changed = changed.filter(|_| call.changes);
        for what in call.about.iter().filter(|_| call.changes) {
            if let Expected::Object(object) = what
                && let Some(doubt) = self.doubts.get_mut(object)
            {
                // It was the guest that has changed it since.
                doubt.changed = changed.unwrap_or(doubt.changed);
            }
        }
        if succeeded {
            return Vec::new();
        }
        let taken = call.taken.iter().map(|entry| entry.dir.clone()).collect();
        // What it did to objects it may have done before it failed.
        call.expected.retain(|(what, _)| matches!(what, Expected::Object(_)));
        taken
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.count)
    }

    /// All that was in the kernel's queue at `mark` has been taken in. Returns the doubts that can be settled, and whether
    /// calls have ended since the mark.
    pub(super) fn drained(&mut self, mark: Mark) -> (Vec<Doubt>, bool) {
        let over = |call: &Call| call.ended.is_some_and(|ended| ended <= mark.0);
        let ended: Vec<_> =
            self.calls.iter().filter(|(_, call)| over(call)).map(|(id, _)| *id).collect();
        for id in ended {
            self.forget(id);
        }
        let again = self.calls.values().any(|call| call.ended.is_some());
        let (calls, by_expected) = (&self.calls, &self.by_expected);
        let open = |object: &Fid| {
            let ids = by_expected.get(&Expected::Object(object.clone()));
            ids.into_iter().flatten().any(|id| calls.contains_key(id))
        };
        let settled: Vec<_> = self.doubts.keys().filter(|object| !open(object)).cloned().collect();
        (settled.iter().filter_map(|object| self.doubts.remove(object)).collect(), again)
    }

    /// What is in doubt. If the object has not been changed since, it was the call: who changes it from
    /// now on is reported for himself.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        self.doubts.values().cloned().collect()
    }

    /// It was the call.
    pub(super) fn settled(&mut self, object: &Fid) {
        self.doubts.remove(object);
    }

    /// Whether one event of an entry was announced, by the entry or by one of the objects that it
    /// may stand for.
    pub(super) fn takes(&mut self, entry: &HostEntry, objects: &[&Fid], event: Mask) -> bool {
        if let Some(id) = self.take(&Expected::Entry(entry.clone()), event) {
            if let Some(call) = self.calls.get_mut(&id) {
                call.taken.push(entry.clone());
            }
            return true;
        }
        for object in objects {
            let what = Expected::Object((*object).clone());
            if let Some(id) = self.take(&what, event) {
                if self.calls.get(&id).is_some_and(|call| call.ended.is_some())
                    && let Some(changed) = self.changed_last(&what)
                {
                    let (entry, object) = (entry.clone(), (*object).clone());
                    let new = Doubt { entry, object: object.clone(), mask: event, changed };
                    self.doubts.entry(object).or_insert(new).mask |= event;
                }
                return true;
            }
        }
        false
    }

    /// When an object was changed, after the last call about it that has ended.
    fn changed_last(&self, what: &Expected) -> Option<SystemTime> {
        let calls = self.by_expected.get(what)?.iter().filter_map(|id| self.calls.get(id));
        calls.filter_map(|call| call.ended.zip(call.changed)).max().map(|(_, changed)| changed)
    }

    /// The same for an event of a directory itself.
    pub(super) fn takes_itself(&mut self, object: &Fid, event: Mask) -> bool {
        self.take(&Expected::Object(object.clone()), event).is_some()
    }

    /// Takes one announcement of `event`, the oldest.
    fn take(&mut self, what: &Expected, event: Mask) -> Option<CallId> {
        for id in self.by_expected.get(what)? {
            let Some(call) = self.calls.get_mut(id) else { continue };
            let found = call.expected.iter().position(|(w, mask)| w == what && *mask == event);
            if let Some(at) = found {
                call.expected.remove(at);
                return Some(*id);
            }
        }
        None
    }

    fn forget(&mut self, id: CallId) {
        let Some(call) = self.calls.remove(&id) else { return };
        for what in call.about {
            if let Some(ids) = self.by_expected.get_mut(&what) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_expected.remove(&what);
                }
            }
        }
    }
}
