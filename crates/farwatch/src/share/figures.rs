// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the share has to say of itself, for `monitor`; and where it is counted. Nothing here decides anything.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use farwatch_guest::seconds;
use farwatch_proto::host::{Figures, HandedOut, HostChange, HostEntry, Tree};
use farwatch_proto::wire::control::Delivery;
use farwatch_proto::{Entry, GuestEvent, Mask, Name, NodeId};

use super::{Share, State};
use crate::meter::{Kind, Part, Ranking, Reading, Record};

/// Directories above an entry that a path shows, at most.
const DEPTH_MAX: usize = 64;

/// The most directories that are named which could not be marked.
const UNWATCHED_PATHS_MAX: usize = 5;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) figures: Figures,
    pub(crate) reading: Reading,
    /// Since when the guest has the share mounted.
    pub(crate) session_since: Option<SystemTime>,
    pub(crate) client: Option<Client>,
    /// Known directories that could not be marked, and are polled.
    pub(crate) unwatched: usize,
    /// Some of them.
    pub(crate) unwatched_paths: Vec<String>,
    /// Why there are any.
    pub(crate) unwatched_why: Option<String>,
    /// How often they are compared.
    pub(crate) poll_interval: Duration,
    /// The shared directory has been deleted.
    pub(crate) has_lost_root: bool,
    /// The watch thread runs.
    pub(crate) is_watched: bool,
}

/// What takes notifications.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) kind: ClientKind,
    pub(crate) delivery: Delivery,
    pub(crate) since: SystemTime,
}

/// Which it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClientKind {
    /// An agent that replays.
    Agent,
    /// An agent whose kernel has a module that raises the events.
    Module,
    /// The guest's kernel.
    Kernel,
}

/// How a path in the share is known to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// The directory is known: it is watched, unless it could not be marked.
    Watched,
    /// It is known and not watched.
    Unwatched,
    /// Nothing in the guest has looked there, so nothing that happens there is reported.
    Unknown,
}

impl Share {
    /// What it has to say now.
    pub(crate) fn shown(&self) -> Shown {
        let has_lost_root = self.has_lost_root();
        let state = self.lock();
        Shown {
            has_lost_root,
            figures: state.engine.figures(),
            reading: state.meter.read(Instant::now()),
            session_since: state.session_since,
            client: state.client(),
            unwatched: state.engine.figures().polled,
            unwatched_paths: state
                .unmarked
                .iter()
                .take(UNWATCHED_PATHS_MAX)
                .map(|dir| path(state.engine.tree(), dir, None))
                .collect(),
            unwatched_why: state.unmarked.why().map(ToOwned::to_owned),
            poll_interval: state.poll_interval,
            is_watched: state.looks,
        }
    }

    /// Records from number `from` on.
    pub(crate) fn journal(&self, from: Option<u64>) -> Part {
        self.lock().meter.journal.read(Instant::now(), from)
    }

    /// The `len` busiest paths.
    pub(crate) fn ranking(&self, len: usize) -> Ranking {
        self.lock().meter.ranking(Instant::now(), len)
    }

    /// Whether the directory of these names, from the root of the share on, is watched.
    pub(crate) fn known<'a>(&self, names: impl IntoIterator<Item = &'a [u8]>) -> Known {
        let state = self.lock();
        let tree = state.engine.tree();
        let found = names
            .into_iter()
            .try_fold(NodeId::ROOT, |dir, name| tree.current(dir, &Name::parse(name).ok()?));
        match found.filter(|id| tree.knows(*id)) {
            Some(id) if state.unmarked.contains(id) => Known::Unwatched,
            Some(_) => Known::Watched,
            None => Known::Unknown,
        }
    }
}

impl State {
    fn client(&self) -> Option<Client> {
        let (delivery, since) = self.delivery.zip(self.client_since)?;
        let kind = match (self.engine.is_kernel(), self.engine.is_native()) {
            (true, _) => ClientKind::Kernel,
            (false, true) => ClientKind::Module,
            (false, false) => ClientKind::Agent,
        };
        Some(Client { kind, delivery, since })
    }

    /// A report of the host's is about to be taken in, which was read at `read_at`.
    pub(super) fn count_observed(&mut self, read_at: Instant, change: &HostChange) {
        if *change == HostChange::Overflow {
            self.meter.overflowed();
        } else {
            self.meter.observed(read_at);
        }
        if self.meter.wants_paths(read_at) {
            let record = recorded(change, self.engine.tree());
            self.meter.record(read_at, record);
        }
    }

    /// A notification was handed out. To a kernel that raises the event this is the last that is seen of it.
    pub(super) fn count_sent(&mut self) {
        let Some(HandedOut { event, observed, .. }) = self.engine.just_sent() else { return };
        let now = Instant::now();
        self.meter.sent(now, observed.is_some());
        let is_last = self.engine.is_native();
        if let Some(observed) = observed.filter(|_| is_last) {
            self.meter.took(now, observed);
        }
        if self.meter.wants_paths(now) {
            let latency = observed.filter(|_| is_last).map(|observed| now - observed);
            let record = delivered(event, Kind::Sent, latency, self.engine.tree());
            self.meter.record(now, record);
        }
    }

    /// A request was answered, which may be the last of a replay.
    pub(super) fn count_finished(&mut self) {
        let Some(HandedOut { event, observed, .. }) = self.engine.take_finished() else { return };
        let now = Instant::now();
        self.meter.replayed();
        if let Some(observed) = observed {
            self.meter.took(now, observed);
        }
        if self.meter.wants_paths(now) {
            let latency = observed.map(|observed| now.saturating_duration_since(observed));
            let event = event.clone();
            let record = delivered(&event, Kind::Replayed, latency, self.engine.tree());
            self.meter.record(now, record);
        }
    }
}

fn recorded(change: &HostChange, tree: &Tree) -> Record {
    let at = |entry: &HostEntry| match tree.nodes_of(&entry.dir).first() {
        Some(dir) => path(tree, *dir, Some(&entry.name)),
        None => unknown(Some(&entry.name)),
    };
    let none = String::new;
    let (kind, events, path, to) = match change {
        HostChange::Entry { entry, mask, .. } => (Kind::Reported, names(*mask), at(entry), None),
        HostChange::Object { object, mask } => {
            let node = tree.nodes_of(object).first();
            let path = node.map_or_else(|| unknown(None), |node| path(tree, *node, None));
            (Kind::Reported, names(*mask), path, None)
        }
        HostChange::Move { from, to, .. } => {
            let (from, to) = (from.as_ref().map(at), to.as_ref().map(at));
            match (from, to) {
                (Some(from), None) => (Kind::Reported, names(Mask::MOVED_FROM), from, None),
                (None, to) => {
                    (Kind::Reported, names(Mask::MOVED_TO), to.unwrap_or_else(none), None)
                }
                (Some(from), to) => (Kind::Reported, names(Mask::MOVE), from, to),
            }
        }
        HostChange::Overflow => (Kind::Overflow, names(Mask::Q_OVERFLOW), none(), None),
    };
    Record { time: seconds(SystemTime::now()), kind, events, path, to, latency_us: None }
}

fn delivered(event: &GuestEvent, kind: Kind, latency: Option<Duration>, tree: &Tree) -> Record {
    let at = |entry: &Entry| path(tree, entry.dir.id, Some(&entry.name));
    let (events, path, to) = match event {
        GuestEvent::Entry { entry, mask, .. } => (names(*mask), at(entry), None),
        GuestEvent::Object { node, mask } => (names(*mask), path(tree, node.id, None), None),
        GuestEvent::Rename { from, to, .. } => (names(Mask::MOVE), at(from), Some(at(to))),
        GuestEvent::Overflow => (names(Mask::Q_OVERFLOW), String::new(), None),
    };
    let latency_us = latency.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    Record { time: seconds(SystemTime::now()), kind, events, path, to, latency_us }
}

/// In the order in which programs cause them.
fn names(mask: Mask) -> String {
    let ordered = Mask::ORDER.into_iter().filter(|event| mask.contains(*event));
    let others = Mask::ORDER.into_iter().fold(mask, Mask::difference);
    let names = ordered.chain([others]).flat_map(|events| events.iter_names());
    names.map(|(name, _)| name).collect::<Vec<_>>().join(",")
}

/// An object that the guest does not know, or not any more.
fn unknown(name: Option<&Name>) -> String {
    let mut path = "?".to_owned();
    if let Some(name) = name {
        // Writing to a string does not fail.
        let _written = write!(path, "/{}", String::from_utf8_lossy(name.as_bytes()));
    }
    path
}

/// Where the guest knows an entry of `dir`, or the directory itself, relative to the root; `.` for that.
fn path(tree: &Tree, dir: NodeId, name: Option<&Name>) -> String {
    let lossy = |name: &Name| String::from_utf8_lossy(name.as_bytes()).into_owned();
    let mut parts: Vec<String> = name.into_iter().map(lossy).collect();
    let mut dir = dir;
    while dir != NodeId::ROOT {
        let above = tree.entry(dir).filter(|_| parts.len() < DEPTH_MAX);
        let Some((parent, name)) = above else {
            parts.push("?".to_owned());
            break;
        };
        parts.push(lossy(name));
        dir = parent;
    }
    parts.reverse();
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}
