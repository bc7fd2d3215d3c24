// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What came of a run: a table with a row for each kind of trial, and the text of a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::case::{Case, Side};
use super::judge::Judge;
use super::worker::Done;

/// Errors that a local directory never gives for these operations.
const FOREIGN: [&str; 3] = ["EIO", "ESTALE", "EBUSY"];

/// Operations of a process that are printed.
const OPS_SHOWN_MAX: usize = 100;

/// What came of one trial.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The judges that found something wrong.
    pub(super) wrong: BTreeSet<Judge>,
    /// Events about names in the mount, without identical neighbours.
    pub(super) received: usize,
    /// The same on the host.
    pub(super) made: usize,
    /// How long after the last change the judges agreed.
    pub(super) settled: Duration,
    /// How often an operation failed with an error.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) ops: usize,
    pub(super) left_out: u64,
    /// What a developer needs, where something was wrong.
    pub(super) text: Option<String>,
}

/// The trials of one kind.
#[derive(Clone, Debug, Default)]
pub struct Row {
    name: String,
    trials: u64,
    broken: u64,
    failed: u64,
    wrong: BTreeMap<Judge, u64>,
    received: usize,
    made: usize,
    settled: Vec<Duration>,
    errors: BTreeMap<String, u64>,
    ops: usize,
    left_out: u64,
}

/// See the module's documentation. `Display` prints the table.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of the plan.
    pub rows: Vec<Row>,
}

impl Report {
    /// Trials in which anything was wrong.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.rows.iter().map(|row| row.failed).sum()
    }

    /// Trials in which this judge found something wrong.
    #[must_use]
    pub fn wrong(&self, judge: Judge) -> u64 {
        self.rows.iter().map(|row| row.wrong(judge)).sum()
    }
}

impl Row {
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// The kind of trial.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Trials in which this judge found something wrong.
    #[must_use]
    pub fn wrong(&self, judge: Judge) -> u64 {
        self.wrong.get(&judge).copied().unwrap_or(0)
    }

    /// Adds a trial.
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.trials += 1;
        self.received += outcome.received;
        self.made += outcome.made;
        self.ops += outcome.ops;
        self.left_out += outcome.left_out;
        for (error, times) in &outcome.errors {
            *self.errors.entry(error.clone()).or_default() += times;
        }
        for judge in &outcome.wrong {
            *self.wrong.entry(*judge).or_default() += 1;
        }
        if outcome.text.is_none() {
            self.settled.push(outcome.settled);
        } else {
            self.failed += 1;
        }
    }

    /// Adds a trial that could not be run.
    pub(super) fn add_broken(&mut self) {
        self.trials += 1;
        self.broken += 1;
        self.failed += 1;
    }

    /// The median and the longest time until a trial's model was true, of those that became so.
    fn settle_times(&self) -> String {
        let mut times = self.settled.clone();
        times.sort_unstable();
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
        match (times.get(times.len() / 2), times.last()) {
            (Some(median), Some(longest)) => format!("{}/{}", ms(*median), ms(*longest)),
            _ => "-".to_owned(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.name.clone()];
        cells.extend([self.trials, self.failed].map(|number| number.to_string()));
        cells.extend(Judge::ALL.map(|judge| self.wrong(judge).to_string()));
        cells.push(format!("{}/{}", self.received, self.made));
        cells.push(self.settle_times());
        let failed: u64 = self.errors.values().sum();
        cells.push(format!("{}/{failed}/{}", self.ops, self.left_out));
        cells
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head: Vec<String> = ["kind", "trials", "wrong"].map(str::to_owned).to_vec();
        head.extend(Judge::ALL.map(|judge| judge.to_string()));
        head.extend(["received/made", "ms median/max", "ops/failed/left out"].map(str::to_owned));
        let mut lines = vec![head];
        lines.extend(self.rows.iter().map(Row::cells));
        let widths: Vec<usize> = (0..lines[0].len())
            .map(|column| lines.iter().map(|cells| cells[column].len()).max().unwrap_or(0))
            .collect();
        for cells in &lines {
            write!(f, "{:<1$}", cells[0], widths[0])?;
            for (cell, width) in cells.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for row in &self.rows {
            if row.broken > 0 {
                writeln!(f, "{}: {} trials cannot be run", row.name, row.broken)?;
            }
            let list = |foreign: bool| {
                let is_foreign = |error: &str| FOREIGN.iter().any(|name| error.ends_with(name));
                let errors = row.errors.iter().filter(|(error, _)| is_foreign(error) == foreign);
                errors
                    .map(|(error, times)| format!("{error} {times}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let (usual, foreign) = (list(false), list(true));
            if !usual.is_empty() {
                writeln!(f, "{}: failed operations: {usual}", row.name)?;
            }
            if !foreign.is_empty() {
                writeln!(f, "{}: errors that are not a local directory's: {foreign}", row.name)?;
            }
        }
        Ok(())
    }
}

/// How often which operation failed with which error.
pub(super) fn errors(case: &Case, results: &[Vec<Done>]) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for ((_, ops), results) in case.scripts.iter().zip(results) {
        for (op, done) in ops.iter().zip(results).filter(|(_, done)| done.errno != 0) {
            *errors.entry(format!("{} {}", op.verb(), done.error())).or_default() += 1;
        }
    }
    errors
}

/// All operations of a trial with what became of them, as lines of text. Times count from `begin`.
pub(super) fn operations(case: &Case, results: &[Vec<Done>], begin: Duration) -> String {
    let mut text = "  before the changes, on the host:\n".to_owned();
    text.extend(case.setup.iter().map(|op| format!("    {op}\n")));
    text.push_str(&format!("  watched themselves: {}\n", case.watched.join(", ")));
    for (process, ((side, ops), results)) in case.scripts.iter().zip(results).enumerate() {
        let place = match side {
            Side::Host => "on the host",
            Side::Mount => "in the mount",
        };
        text.push_str(&format!("  process {process}, {place}, when done:\n"));
        let before = ops.len().saturating_sub(OPS_SHOWN_MAX);
        if before > 0 {
            text.push_str(&format!("    ({before} operations before these)\n"));
        }
        for (op, done) in ops.iter().zip(results).skip(before) {
            let at = done.at.saturating_sub(begin).as_micros();
            text.push_str(&format!("    {at:>8} us  {op}  {}\n", done.error()));
        }
    }
    text
}
