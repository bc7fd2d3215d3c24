// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Local`]: a watcher on the host's side, where the kernel's own inotify reports everything. [`Twin`]:
//! a local directory in which the operations of one process were done too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::case::Case;
use super::op::Actor;
use super::queue::{Queue, Received};
use super::state::{State, read_all};
use super::stream::Stream;
use super::worker::{Done, Worker};
use crate::event::Event;
use crate::recorder::Recorder;

/// Makes the directories and what is in them when a trial begins.
pub(super) fn set_up(base: &Path, case: &Case) -> Result<()> {
    for dir in &case.dirs {
        fs::create_dir(base.join(dir)).with_context(|| dir.clone())?;
    }
    let host = Actor::new(base)?;
    case.setup.iter().try_for_each(|op| {
        host.apply(op).with_context(|| format!("an operation of the setup, {op}"))
    })
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Local {
    queue: Queue,
    dirs: BTreeMap<i32, String>,
    objects: BTreeMap<i32, String>,
    events: Vec<Received>,
}

impl Local {
    /// A watcher of the directories of a case, and of the objects that a client would watch.
    pub(super) fn new(base: &Path, case: &Case) -> Result<Self> {
        let mut queue = Queue::new()?;
        let mut watch = |names: &[String]| {
            let watches = names.iter().map(|name| {
                let watch = queue.watch(&base.join(name), Recorder::CHANGES);
                Ok((watch.with_context(|| format!("cannot watch {name}"))?, name.clone()))
            });
            watches.collect::<Result<BTreeMap<_, _>>>()
        };
        let (dirs, objects) = (watch(&case.dirs)?, watch(&case.watched)?);
        Ok(Self { queue, dirs, objects, events: Vec::new() })
    }

    /// Takes the events that are there.
    pub(super) fn take(&mut self) -> Result<()> {
        self.events.extend(self.queue.read()?);
        Ok(())
    }

    /// The events so far, to be compared.
    pub(super) fn stream(&self) -> Stream {
        Stream::new(&self.events, &self.dirs, &self.objects)
    }

    /// The last `len_max` events about names of a directory, as lines of text. Times count from
    /// `begin`.
    pub(super) fn last_events(&self, dir: &str, begin: Duration, len_max: usize) -> Vec<String> {
        let is_of_dir =
            |event: &&Received| self.dirs.get(&event.watch).is_some_and(|name| name == dir);
        let events: Vec<&Received> = self.events.iter().filter(is_of_dir).collect();
        let last = events.iter().skip(events.len().saturating_sub(len_max));
        let render = |event: &&Received| {
            let name = event.name.as_ref().map(AsRef::as_ref);
            event.render(Event::object_of(dir.as_ref(), name), begin)
        };
        last.map(render).collect()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Twin {
    /// What a local directory reports.
    pub(super) stream: Stream,
    /// What became of the operations.
    pub(super) results: Vec<Done>,
    /// What is there in the end.
    pub(super) tree: BTreeMap<String, State>,
}

impl Twin {
    /// Does all operations of a case below `base`, which is empty.
    pub(super) fn run(base: &Path, case: &Case) -> Result<Self> {
        set_up(base, case)?;
        let mut local = Local::new(base, case)?;
        let mut results = Vec::new();
        for (_, ops) in &case.scripts {
            let mut worker = Worker::start(base, ops)?;
            worker.release();
            while !worker.has_ended() {
                worker.read()?;
                local.take()?;
            }
            results.extend(worker.results()?);
        }
        local.take()?;
        let tree = read_all(base, &case.dirs)?;
        Ok(Self { stream: local.stream(), results, tree })
    }
}
