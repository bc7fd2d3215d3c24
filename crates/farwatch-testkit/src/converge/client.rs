// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Client`]: a program that keeps a model of some directories from its events, as an editor's file
//! tree or a bundler does.
//!
//! It watches, lists, and from then on believes its events: CREATE and MOVED_TO add a name, DELETE
//! and MOVED_FROM remove it. After each event about a name it reads that name again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use inotify::WatchMask;

use super::queue::{Queue, Told};
use super::state::{State, list};
use crate::event::Kind;
use crate::recorder::Recorder;
use crate::share::Share;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Client {
    queue: Queue,
    barrier: i32,
    /// Sentinels that were seen.
    passed: BTreeSet<String>,
    base: PathBuf,
    /// Watch descriptor → the directory's name.
    dirs: BTreeMap<i32, String>,
    names: BTreeSet<String>,
    states: BTreeMap<String, Option<State>>,
    events: Vec<Told>,
}

impl Client {
    /// A client that watches and has listed the directories `dirs` of a share.
    pub(super) fn new(share: &Share, dirs: &[String]) -> Result<Self> {
        let base = share.mount();
        let mut queue = Queue::new()?;
        let barrier = queue.watch(&share.barrier_in_mount(), WatchMask::CREATE)?;
        let mut client = Self {
            queue,
            barrier,
            passed: BTreeSet::new(),
            base: base.to_owned(),
            dirs: BTreeMap::new(),
            names: BTreeSet::new(),
            states: BTreeMap::new(),
            events: Vec::new(),
        };
        for dir in dirs {
            let watch = client.queue.watch(&base.join(dir), Recorder::CHANGES);
            client.dirs.insert(watch.with_context(|| format!("cannot watch {dir}"))?, dir.clone());
        }
        client.names = list(base, dirs)?.into_iter().collect();
        for name in client.names.clone() {
            client.look(name);
        }
        Ok(client)
    }

    /// Reads and believes the events that are there. Returns whether there were any.
    pub(super) fn read(&mut self) -> Result<bool> {
        let told = self.queue.read()?;
        let any = !told.is_empty();
        let mut touched = BTreeSet::new();
        for event in told {
            if event.watch == self.barrier {
                self.passed.extend(event.name);
                continue;
            }
            touched.extend(self.believe(&event));
            self.events.push(event);
        }
        for name in touched {
            self.look(name);
        }
        Ok(any)
    }

    /// Whether the sentinel `name` was seen.
    pub(super) fn has_passed(&self, name: &str) -> bool {
        self.passed.contains(name)
    }

    /// The names that the events add up to.
    pub(super) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// All events since the client began, or since [`forget_events`](Self::forget_events).
    pub(super) fn events(&self) -> &[Told] {
        &self.events
    }

    /// Forgets the events so far; the model stays.
    pub(super) fn forget_events(&mut self) {
        self.events.clear();
    }

    /// An event as a line of text, with the name that the watched directory had.
    pub(super) fn render(&self, event: &Told) -> String {
        let dir = self.dirs.get(&event.watch).map_or("?", String::as_str);
        let object = match &event.name {
            Some(name) => format!("{dir}/{name}"),
            None => format!("[{dir}]"),
        };
        let cookie = if event.cookie == 0 { None } else { Some(event.cookie as usize) };
        let Told { kind, is_dir, .. } = *event;
        crate::event::Event { kind, is_dir, object, cookie }.to_string()
    }

    /// Returns the name that the event is about.
    fn believe(&mut self, event: &Told) -> Option<String> {
        let dir = self.dirs.get(&event.watch)?;
        let name = format!("{dir}/{}", event.name.as_ref()?);
        if matches!(event.kind, Kind::Create | Kind::MovedTo) {
            self.names.insert(name.clone());
        } else if matches!(event.kind, Kind::Delete | Kind::MovedFrom) {
            self.names.remove(&name);
        }
        Some(name)
    }

    fn look(&mut self, name: String) {
        let state = State::read(&self.base.join(&name));
        self.states.insert(name, state);
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
