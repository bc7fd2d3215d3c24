// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What came of a run: a table with a row for each kind of trial, and the text of a failure.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::case::Case;
use super::judge::{Judge, Wrong};
use super::worker::Done;

/// What came of one trial.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) wrong: Vec<Wrong>,
    /// Events in the mount.
    pub(super) told: usize,
    /// Events on the host.
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
    failed: u64,
    wrong: BTreeMap<Judge, u64>,
    told: usize,
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

impl Row {
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// Trials in which any judge found something wrong.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Trials in which this judge did.
    #[must_use]
    pub fn wrong(&self, judge: Judge) -> u64 {
        self.wrong.get(&judge).copied().unwrap_or(0)
    }

    /// Adds a trial; returns the text of its failure.
    pub(super) fn add(&mut self, outcome: &Outcome) -> Option<String> {
        self.trials += 1;
        self.told += outcome.told;
        self.made += outcome.made;
        self.ops += outcome.ops;
        self.left_out += outcome.left_out;
        for (error, times) in &outcome.errors {
            *self.errors.entry(error.clone()).or_default() += times;
        }
        for judge in Judge::ALL {
            if outcome.wrong.iter().any(|wrong| wrong.judge == judge) {
                *self.wrong.entry(judge).or_default() += 1;
            }
        }
        if outcome.wrong.is_empty() {
            self.settled.push(outcome.settled);
        } else {
            self.failed += 1;
        }
        outcome.text.as_ref().map(|text| format!("{}: {text}", self.name))
    }

    /// The longest and the median time until a trial's model was true, of those that became so.
    fn settle_times(&self) -> String {
        let mut times = self.settled.clone();
        times.sort_unstable();
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
        match (times.get(times.len() / 2), times.last()) {
            (Some(median), Some(longest)) => format!("{}/{}", ms(*median), ms(*longest)),
            _ => "-".to_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<27} {:>6} {:>6}", "kind", "trials", "wrong")?;
        for judge in Judge::ALL {
            write!(f, " {:>7}", judge.to_string())?;
        }
        writeln!(
            f,
            " {:>15} {:>15} {:>15} {:>8}",
            "told/made", "ms median/max", "ops/failed", "left out"
        )?;
        for row in &self.rows {
            write!(f, "{:<27} {:>6} {:>6}", row.name, row.trials, row.failed)?;
            for judge in Judge::ALL {
                write!(f, " {:>7}", row.wrong(judge))?;
            }
            let failed: u64 = row.errors.values().sum();
            let told = format!("{}/{}", row.told, row.made);
            let ops = format!("{}/{failed}", row.ops);
            writeln!(f, " {told:>15} {:>15} {ops:>15} {:>8}", row.settle_times(), row.left_out)?;
        }
        writeln!(f)?;
        for row in self.rows.iter().filter(|row| !row.errors.is_empty()) {
            let errors: Vec<String> =
                row.errors.iter().map(|(error, times)| format!("{error} {times}")).collect();
            writeln!(f, "failed operations, {}: {}", row.name, errors.join(", "))?;
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

/// The text of a failure.
pub(super) fn describe(
    wrong: &[Wrong],
    told: &[String],
    case: &Case,
    results: &[Vec<Done>],
) -> String {
    let mut text = String::new();
    for Wrong { judge, sentence } in wrong {
        writeln!(text, "{judge}: {sentence}").expect("writing to a string cannot fail");
    }
    text.push_str("  the last events in the mount:\n");
    text.extend(told.iter().map(|event| format!("    {event}\n")));
    text.push_str("  the setup:\n");
    text.extend(case.setup.iter().map(|op| format!("    {op}\n")));
    let begin = results.iter().flatten().map(|done| done.at).min().unwrap_or_default();
    for (process, ((side, ops), results)) in case.scripts.iter().zip(results).enumerate() {
        writeln!(text, "  process {process}, {side:?}:").expect("writing to a string cannot fail");
        for (op, done) in ops.iter().zip(results) {
            let at = done.at.saturating_sub(begin).as_micros();
            writeln!(text, "    {at:>8} us  {op} {}", done.error())
                .expect("writing to a string cannot fail");
        }
    }
    text
}
