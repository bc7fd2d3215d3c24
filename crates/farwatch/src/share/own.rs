// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls that the file system room makes for the guest. Where the backend does not say who caused what
//! it reports, each is announced before it is made, and its end is reported after it.
//!
//! What a call is reported as is a table in `fs::reported`. Here its names and nodes become what the
//! backend knows them as.

use std::time::{Instant, SystemTime};

use farwatch_proto::host::inotify::{CallId, Expected};
use farwatch_proto::host::{HostEntry, Input};
use farwatch_proto::{Fid, FileKind, Mask, Name, NodeId};

use super::{Share, State};
use crate::watch::Backend;

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
        let calls = self.backend()?.own_calls()?;
        let call = call();
        if call.reports.is_empty() {
            return None;
        }
        let state = self.lock();
        let expected: Vec<_> =
            call.reports.iter().flat_map(|(about, mask)| state.expected(about, *mask)).collect();
        if expected.is_empty() {
            return None;
        }
        let object = call.object.and_then(|object| state.node_of(&object));
        let id = calls.expect(expected, state.engine.tree());
        Some(Announced { id, object })
    }

    /// The call has returned. `changed` asks for the `ctime` of its object, if that matters.
    pub(crate) fn end(
        &self,
        call: &Announced,
        succeeded: bool,
        changed: impl FnOnce() -> Option<SystemTime>,
    ) {
        self.moments.own_call();
        let Some(calls) = self.backend().and_then(Backend::own_calls) else { return };
        {
            let mut state = self.lock();
            if let Some(lost) = calls.end_if_quiet(call.id, succeeded) {
                self.lost(&mut state, &lost);
                return;
            }
        }
        let changed = changed();
        let mut state = self.lock();
        let lost = calls.end(call.id, succeeded, changed);
        self.lost(&mut state, &lost);
    }

    fn lost(&self, state: &mut State, dirs: &[Fid]) {
        for dir in dirs {
            state.engine.input(Instant::now(), Input::Lost(dir.clone()));
        }
        if !dirs.is_empty() {
            self.wake_for_work(state);
        }
    }
}

impl State {
    fn expected(&self, about: &Subject, mask: Mask) -> Vec<(Expected, Mask)> {
        let tree = self.engine.tree();
        match about {
            Subject::Entry(dir, name) => {
                let Some(dir) = tree.fid(*dir) else { return Vec::new() };
                let entry = HostEntry { dir, name: name.clone() };
                mask.iter().map(|event| (Expected::Entry(entry.clone()), event)).collect()
            }
            Subject::Node(_) | Subject::NodeAt(..) | Subject::DirectoryAt(..) => {
                let fid = self.node_of(about).and_then(|id| tree.fid(id));
                fid.map(|fid| (Expected::Object(fid), mask)).into_iter().collect()
            }
        }
    }

    fn node_of(&self, about: &Subject) -> Option<NodeId> {
        let tree = self.engine.tree();
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
