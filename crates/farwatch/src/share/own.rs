// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls that the file system room makes for the guest. Where the backend does not say who caused what
//! it reports, each is announced before it is made, and its end is reported after it.
//!
//! What a call is reported as is a table in `fs::reported`. Here its names and nodes become what the
//! backend knows them as.

use std::time::SystemTime;

use farwatch_proto::host::HostEntry;
use farwatch_proto::host::inotify::{CallId, Expected, Observer};
use farwatch_proto::{FileKind, Mask, Name, NodeId};

use super::{Share, State};
use crate::watch::{Inotify, Watch};

/// What a report is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    /// An entry of a directory.
    Entry(NodeId, Name),
    /// A node.
    Node(NodeId),
    /// The node that the guest has under a name now.
    NodeAt(NodeId, Name),
    /// The same, if it is a directory.
    DirectoryAt(NodeId, Name),
}

/// A call that is about to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct OwnCall {
    /// What it will be reported as. Of an entry each event is a report of its own. An empty mask on a
    /// node is no report: the call only changes the node's `ctime`.
    pub(crate) reports: Vec<(Subject, Mask)>,
    /// The node whose `ctime` tells whether somebody else changed it at the same time.
    pub(crate) object: Option<Subject>,
}

/// A call that has been announced.
#[derive(Debug)]
pub(crate) struct Announced {
    id: CallId,
    /// The node whose `ctime` [`Share::end`] asks for.
    pub(crate) object: Option<NodeId>,
}

impl Share {
    /// A call for the guest is about to be made. `None` where nothing of it is reported, or the reports
    /// say who it was; only then `call` is not asked for.
    pub(crate) fn announce(&self, call: impl FnOnce() -> OwnCall) -> Option<Announced> {
        let Some(Watch::Inotify(_)) = &self.watch else { return None };
        let call = call();
        if call.reports.is_empty() {
            return None;
        }
        let state = &mut *self.lock();
        let expected: Vec<_> =
            call.reports.iter().flat_map(|(about, mask)| state.expected(about, *mask)).collect();
        if expected.is_empty() {
            return None;
        }
        let object = call.object.and_then(|object| state.node_of(&object));
        let id = state.observer.as_mut()?.expect(expected, &state.engine.tree);
        Some(Announced { id, object })
    }

    /// The call has returned. `changed` asks for the `ctime` of its object, if that matters.
    pub(crate) fn end(
        &self,
        call: &Announced,
        succeeded: bool,
        changed: impl FnOnce() -> Option<SystemTime>,
    ) {
        let Some(Watch::Inotify(inotify)) = &self.watch else { return };
        if self.end_if_quiet(inotify, call.id, succeeded) {
            return;
        }
        let changed = changed();
        self.end_with(&mut self.lock(), call.id, succeeded, changed);
    }

    /// Most often the watch thread has read the call's reports when it returns, or there were none.
    fn end_if_quiet(&self, inotify: &Inotify, call: CallId, succeeded: bool) -> bool {
        let mut state = self.lock();
        let idle = state.observer.as_ref().is_some_and(Observer::is_idle);
        if !idle || !inotify.is_empty() {
            return false;
        }
        self.end_with(&mut state, call, succeeded, None);
        if let Some(observer) = &mut state.observer {
            observer.found_empty();
        }
        true
    }

    fn end_with(
        &self,
        state: &mut State,
        call: CallId,
        succeeded: bool,
        changed: Option<SystemTime>,
    ) {
        let Some(observer) = &mut state.observer else { return };
        let lost = observer.end(call, succeeded, changed);
        for dir in &lost {
            state.engine.handle_lost(dir);
        }
        if !lost.is_empty() {
            self.wake_for_rescan(state);
        }
    }
}

impl State {
    fn expected(&self, about: &Subject, mask: Mask) -> Vec<(Expected, Mask)> {
        let tree = &self.engine.tree;
        match about {
            Subject::Entry(dir, name) => {
                let Some(dir) = tree.fid(*dir) else { return Vec::new() };
                let entry = HostEntry { dir: dir.clone(), name: name.clone() };
                mask.iter().map(|event| (Expected::Entry(entry.clone()), event)).collect()
            }
            Subject::Node(_) | Subject::NodeAt(..) | Subject::DirectoryAt(..) => {
                let fid = self.node_of(about).and_then(|id| tree.fid(id));
                fid.map(|fid| (Expected::Object(fid.clone()), mask)).into_iter().collect()
            }
        }
    }

    fn node_of(&self, about: &Subject) -> Option<NodeId> {
        let tree = &self.engine.tree;
        match about {
            Subject::Entry(..) => None,
            Subject::Node(id) => Some(*id),
            Subject::NodeAt(dir, name) => tree.current(*dir, name),
            Subject::DirectoryAt(dir, name) => {
                tree.current(*dir, name).filter(|id| tree.kind(*id) == Some(FileKind::Directory))
            }
        }
    }
}
