// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A behaviour as a text file: what is done on the host side, and what a watching program is told.
//!
//! The format is described in CONTRIBUTING.md; `e2e/scenarios` is full of examples.
//!
//! A scenario runs in a fresh directory: `setup:` on the host side, then the watches are set in
//! the mount, then each `run:` on the host side is followed by a barrier and compared with its
//! `expect:`, and at last every line of `check:` must succeed in the mount.

mod parse;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::event::{Event, render};
use crate::merge::merge_allowed;
use crate::place::{Place, Record};
use crate::recorder::Recorder;
use crate::share::Share;

/// One scenario file.
#[derive(Debug)]
pub struct Scenario {
    /// The file's name without `.txt`.
    pub name: String,
    /// Programs that must be installed, and `root` for what only root may do.
    pub needs: Vec<String>,
    /// Whether it wants a mount of its own.
    pub fresh_mount: bool,
    /// Commands before anything is watched.
    pub setup: String,
    /// What is watched, relative to the mount.
    pub watches: Vec<Watch>,
    /// Patterns of names that tools make up: `?` stands for any letter or digit. Such a name is
    /// written in the stream as its pattern.
    pub random_names: Vec<String>,
    /// At least one.
    pub steps: Vec<Step>,
    /// Commands of which each must succeed in the mount after the last step.
    pub checks: Vec<String>,
}

/// A watched file or directory.
#[derive(Debug)]
pub struct Watch {
    /// Relative to the mount; `.` is the scenario's own directory.
    pub path: PathBuf,
    /// Whether all below it is watched as well.
    pub recursive: bool,
}

/// Commands that run without a pause, and the events that they give.
#[derive(Debug)]
pub struct Step {
    /// A shell script.
    pub script: String,
    /// The stream that the watching program must receive.
    pub expectation: Expectation,
    /// The stream on a local directory, where a mount is known to give another one.
    pub locally: Option<Vec<Event>>,
}

/// Where the expected stream of a step comes from.
#[derive(Debug)]
pub enum Expectation {
    /// It is written in the file.
    Stream(Vec<Event>),
    /// A local directory gives it while the test runs: the tool's own doings vary by version.
    AsLocal,
    /// The same, for a tool that takes the files of a directory in an order that changes from one
    /// directory to the next: the order between objects is not compared.
    AsLocalInAnyOrder,
}

impl Expectation {
    fn stream(&self) -> Option<Vec<Event>> {
        match self {
            Self::Stream(events) => Some(events.clone()),
            Self::AsLocal | Self::AsLocalInAnyOrder => None,
        }
    }

    /// On a local directory, a written stream must be the recorded one as it is.
    fn is_met(&self, is_local: bool, wanted: &[Event], recorded: &[Event]) -> bool {
        match self {
            Self::Stream(_) if is_local => without_repeats(wanted) == without_repeats(recorded),
            Self::Stream(_) | Self::AsLocal => is_same_on_a_mount(wanted, recorded),
            Self::AsLocalInAnyOrder => by_object(wanted) == by_object(recorded),
        }
    }
}

impl Scenario {
    /// Runs the scenario in a place that has not run one of this name before.
    ///
    /// On a local directory expected and recorded streams must be equal as they are, on a mount
    /// after [`merge_allowed`].
    /// A failure is told with what everything that took part has said.
    pub fn run(&self, place: &impl Place) -> Result<()> {
        self.compare(place).map_err(|error| anyhow!("{error:#}\n{}", place.log()))
    }

    fn compare(&self, place: &impl Place) -> Result<()> {
        let share = place.share(&self.name)?;
        let is_local = share.host() == share.mount();
        let mut wanted = self.expected_streams(place)?;
        for (wanted, step) in wanted.iter_mut().zip(&self.steps) {
            if let Some(locally) = step.locally.as_ref().filter(|_| is_local) {
                wanted.clone_from(locally);
            }
        }
        let recorded =
            self.record(&share, |share| place.recorder(share)).context("in the mount")?;
        let mut differences = String::new();
        for ((step, wanted), recorded) in self.steps.iter().zip(&wanted).zip(&recorded) {
            if !step.expectation.is_met(is_local, wanted, recorded) {
                let (wanted, recorded) = (render(wanted), render(recorded));
                differences +=
                    &format!("{}\n  expected:\n{wanted}  recorded:\n{recorded}", step.script);
            }
        }
        ensure!(differences.is_empty(), "{differences}");
        for check in &self.checks {
            place.run_in_mount(&share, check).context("a check failed")?;
        }
        Ok(())
    }

    fn expected_streams(&self, place: &impl Place) -> Result<Vec<Vec<Event>>> {
        let written: Option<Vec<_>> = self.steps.iter().map(|s| s.expectation.stream()).collect();
        match written {
            Some(streams) => Ok(streams),
            None => {
                let twin = place.local_twin(&self.name)?;
                let streams = self.record(&twin, here).context("in the local twin")?;
                ensure!(!streams.iter().any(Vec::is_empty), "a step that shows nothing");
                Ok(streams)
            }
        }
    }

    /// Whether some step must give another stream on a local directory than on a mount, also after
    /// [`merge_allowed`].
    #[must_use]
    pub fn differs_locally(&self) -> bool {
        self.steps.iter().any(|step| match (&step.expectation, &step.locally) {
            (Expectation::Stream(mount), Some(local)) => !is_same_on_a_mount(mount, local),
            _ => false,
        })
    }

    /// The events of every step.
    fn record(
        &self,
        share: &Share,
        recorder: impl FnOnce(&Share) -> Result<Box<dyn Record>>,
    ) -> Result<Vec<Vec<Event>>> {
        share.run_on_host(&self.setup).context("in setup")?;
        let mut recorder = recorder(share)?;
        // What is reported with delay must not fall into the first step.
        recorder.barrier().context("after setup")?;
        for watch in &self.watches {
            if watch.recursive {
                recorder.watch_recursively(&watch.path)?;
            } else {
                recorder.watch(&watch.path)?;
            }
        }
        self.steps
            .iter()
            .map(|step| {
                share.run_on_host(&step.script)?;
                recorder.barrier().with_context(|| step.script.clone())?;
                let mut events = recorder.take_events()?;
                for event in &mut events {
                    event.object = self.without_random_names(&event.object);
                }
                Ok(events)
            })
            .collect()
    }

    fn without_random_names(&self, object: &str) -> String {
        let (open, path, close) = match object.strip_prefix('[').and_then(|o| o.strip_suffix(']')) {
            Some(path) => ("[", path, "]"),
            None => ("", object, ""),
        };
        let parts = path.split('/').map(|part| {
            let pattern = self.random_names.iter().find(|pattern| matches(pattern, part));
            pattern.map_or(part, String::as_str)
        });
        format!("{open}{}{close}", parts.collect::<Vec<_>>().join("/"))
    }

    /// The first need that this machine does not meet.
    #[must_use]
    pub fn missing_need(&self) -> Option<&str> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_met = |need: &str| match need {
            "root" => rustix::process::geteuid().is_root(),
            program => std::env::split_paths(&path).any(|dir| dir.join(program).is_file()),
        };
        self.needs.iter().map(String::as_str).find(|need| !is_met(need))
    }

    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a file name")?;
        text.map_err(Into::into)
            .and_then(|text| parse::scenario(name, &text))
            .with_context(|| path.display().to_string())
    }

    /// Reads all scenarios of a directory, in the order of their names.
    pub fn load_all(dir: &Path) -> Result<Vec<Self>> {
        let mut paths = std::fs::read_dir(dir)
            .with_context(|| dir.display().to_string())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
        paths.sort();
        paths.iter().map(|path| Self::load(path)).collect()
    }
}

fn here(share: &Share) -> Result<Box<dyn Record>> {
    Ok(Box::new(Recorder::new(share, Recorder::CHANGES)?))
}

fn is_same_on_a_mount(wanted: &[Event], recorded: &[Event]) -> bool {
    merge_allowed(wanted) == merge_allowed(recorded)
}

/// Rule 1 of [`merge_allowed`] alone.
fn without_repeats(events: &[Event]) -> Vec<Event> {
    let mut events = events.to_vec();
    events.dedup();
    events
}

/// The normal form without the order between objects; cookies are numbered anew in the new order.
fn by_object(events: &[Event]) -> Vec<Event> {
    let mut events = merge_allowed(events);
    events.sort_by(|a, b| a.object.cmp(&b.object));
    let mut cookies = Vec::new();
    for cookie in events.iter_mut().filter_map(|event| event.cookie.as_mut()) {
        if !cookies.contains(cookie) {
            cookies.push(*cookie);
        }
        *cookie = cookies.iter().position(|known| known == cookie).map_or(0, |index| index + 1);
    }
    events
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.len() == name.len()
        && pattern.bytes().zip(name.bytes()).all(|(wanted, byte)| match wanted {
            b'?' => byte.is_ascii_alphanumeric(),
            _ => wanted == byte,
        })
}
