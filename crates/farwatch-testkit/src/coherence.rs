// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Coherence: how old what a program in a mount reads is, and whether it ever sees an effect before its cause.
//!
//! One thread changes a few objects on the host, one after the other (`writer`), and each change has a number. Others
//! read the objects in the mount, at random moments and after each event, in all ways that the guest's kernel can
//! answer from a cache (`reader`). What was read shows the number of a change, and the `history` tells since when that was
//! old, and whether the reader had seen the effects of a later change by then.

mod history;
mod reader;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

pub use self::history::Verdict;
use self::history::{History, Object};
pub use self::reader::Way;
use self::reader::{Reader, Watcher};
use self::writer::Writer;

/// How much is done, and how fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where the random numbers begin.
    pub seed: u64,
    /// Changes on the host.
    pub changes: u64,
    /// The longest pause between two of them; each is at random.
    pub pause_max: Duration,
    /// Threads that read at random moments.
    pub readers: usize,
    /// Whether another one reads after each event.
    pub watches: bool,
}

impl Default for Plan {
    fn default() -> Self {
        let pause_max = Duration::from_micros(1500);
        Self { seed: 1, changes: 2000, pause_max, readers: 1, watches: true }
    }
}

/// What was found of one way to read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Reads.
    pub reads: u64,
    /// How old each read was that was not of the last change.
    pub old: Vec<Duration>,
    /// Reads that showed less than what the reader had seen the effects of.
    pub before_cause: u64,
}

/// By way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report(pub BTreeMap<Way, Found>);

impl Report {
    /// The oldest that was read.
    pub fn oldest(&self) -> Duration {
        self.0.values().flat_map(|found| &found.old).max().copied().unwrap_or_default()
    }

    /// How often an effect was seen before its cause.
    pub fn before_cause(&self) -> u64 {
        self.0.values().map(|found| found.before_cause).sum()
    }

    /// All reads.
    pub fn reads(&self) -> u64 {
        self.0.values().map(|found| found.reads).sum()
    }

    fn add(&mut self, way: Way, verdict: Verdict) {
        let found = self.0.entry(way).or_default();
        found.reads += 1;
        found.old.extend((!verdict.old.is_zero()).then_some(verdict.old));
        found.before_cause += u64::from(verdict.before_cause);
    }

    fn join(&mut self, other: Self) {
        for (way, found) in other.0 {
            let all = self.0.entry(way).or_default();
            all.reads += found.reads;
            all.old.extend(found.old);
            all.before_cause += found.before_cause;
        }
    }
}

/// Changes `host` and reads `mount`, which are the same directory.
///
/// # Errors
/// When something cannot be changed, or not be read for another reason than that it is not there.
pub fn run(host: &Path, mount: &Path, plan: &Plan) -> Result<Report> {
    let history = History::default();
    let ended = AtomicBool::new(false);
    let mut writer = Writer::new(host, &history, plan.seed)?;
    let mut readers = (0..plan.readers)
        .map(|nth| Reader::new(mount, &history, plan.seed ^ (nth as u64 + 1)))
        .collect::<Result<Vec<_>>>()?;
    let watcher = plan.watches.then(|| Watcher::new(mount, &history, plan.seed)).transpose()?;
    thread::scope(|scope| {
        let ended = &ended;
        let reading: Vec<_> = readers
            .iter_mut()
            .map(|reader| scope.spawn(move || reader.read_until(ended)))
            .collect();
        let watching = watcher.map(|mut watcher| scope.spawn(move || watcher.watch_until(ended)));
        let written = writer.write(plan.changes, plan.pause_max);
        ended.store(true, Ordering::Relaxed);
        written?;
        let mut report = Report::default();
        for thread in reading.into_iter().chain(watching) {
            report.join(thread.join().map_err(|_| anyhow!("a reader has panicked"))??);
        }
        Ok(report)
    })
}

/// Changes an object, waits until `settled` says so, and reads it in each way: how old what was read is.
///
/// # Errors
/// Those of [`run`], and of `settled`.
pub fn run_paced(
    host: &Path,
    mount: &Path,
    plan: &Plan,
    mut settled: impl FnMut() -> Result<()>,
) -> Result<Report> {
    let history = History::default();
    let mut writer = Writer::new(host, &history, plan.seed)?;
    let mut reader = Reader::new(mount, &history, plan.seed)?;
    for _ in 0..plan.changes {
        let object: Object = writer.change()?;
        settled()?;
        reader.read_each_way(object)?;
    }
    Ok(reader.take_report())
}
