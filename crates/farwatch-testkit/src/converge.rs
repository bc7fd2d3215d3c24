// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Convergence: whether what a program in a mount believes is true once the changes have ended.
//!
//! A *trial* has fresh directories in one long-lived mount. Processes on the host, and in some kinds
//! of trial in the mount too, change the same few names without a pause. In the meantime a client in
//! the mount keeps a model from its events. Then the changes end, and [judges](Judge) compare the model
//! with the host. A run goes through all trials and counts what was wrong.
//!
//! The [oracle](crate::oracle) asks whether each event is the one that a local directory would report.
//! This asks what the events add up to. A local directory in place of a mount shows that the judges
//! ask for nothing that inotify does not give.

mod case;
mod client;
mod fault;
pub mod faults;
mod judge;
mod local;
mod op;
mod queue;
mod report;
mod state;
mod stream;
mod trial;
mod worker;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

pub use case::{Kind, Knobs};
pub use fault::Fault;
pub use judge::Judge;
pub use report::{Report, Row};
pub use worker::process;

use case::Case;
use report::Outcome;
use trial::Trial;

use crate::place::Place;

/// So many trials in a row that cannot be run end the run.
const BROKEN_MAX: u32 = 3;

/// When a model must be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Settle {
    /// Within one second after the last change
    #[value(name = "1s")]
    Within,
    /// When `farwatch sync` has returned and the events that are there have been read
    Sync,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each is a row of the table.
    pub kinds: Vec<Kind>,
    /// What is otherwise than the kinds have it.
    pub knobs: Knobs,
    /// Trials of each kind.
    pub trials: u64,
    /// Trial number n of a run has the operations of trial number 0 of seed + n.
    pub seed: u64,
    /// Whether all trials have the operations of the first: they differ in time alone.
    pub repeat: bool,
    /// Whether the first failure ends the run.
    pub stop: bool,
    /// When a model must be true.
    pub settle: Settle,
    /// The judges that are asked.
    pub judges: BTreeSet<Judge>,
    /// Whether the client reads nothing while changes are made. Then its reads are not judged, and
    /// names must not be exchanged.
    pub blind: bool,
    /// A rule to break on purpose.
    pub fault: Option<Fault>,
    /// Whether the place is a local directory, which `farwatch sync` knows nothing about.
    pub local: bool,
}

/// A trial in which something was wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of the operations.
    pub seed: u64,
    /// What a developer needs to look into it.
    pub text: String,
}

/// Runs all trials of a plan. `progress` is called with each trial that failed.
///
/// # Errors
/// When several trials in a row cannot be run at all.
pub fn run<P: Place>(place: &P, plan: &Plan, progress: impl FnMut(&Failure)) -> Result<Report> {
    let report = Report { rows: plan.kinds.iter().map(|kind| Row::new(kind.name())).collect() };
    let mut run = Run { place, plan, progress, report, last: None, broken: 0, made: 0 };
    for (row, kind) in plan.kinds.iter().enumerate() {
        for nth in 0..plan.trials {
            let seed = if plan.repeat { plan.seed } else { plan.seed + nth };
            run.trial(row, *kind, seed)?;
            if plan.stop && run.report.failed() > 0 {
                return Ok(run.report);
            }
        }
    }
    run.finish_last()?;
    Ok(run.report)
}

/// A trial that is judged a second time after the next one.
struct Ended<'a, P> {
    row: usize,
    trial: Trial<'a, P>,
    outcome: Outcome,
}

struct Run<'a, P, F> {
    place: &'a P,
    plan: &'a Plan,
    progress: F,
    report: Report,
    last: Option<Ended<'a, P>>,
    /// Trials in a row that could not be run.
    broken: u32,
    /// Directories so far, for their names.
    made: u64,
}

impl<P: Place, F: FnMut(&Failure)> Run<'_, P, F> {
    fn trial(&mut self, row: usize, kind: Kind, seed: u64) -> Result<()> {
        self.made += 1;
        let case = Case::generate(kind, self.plan.knobs, seed);
        let ended = Trial::new(self.place, self.plan, case, &format!("trial{}", self.made))
            .and_then(|mut trial| trial.run().map(|outcome| (trial, outcome)));
        self.finish_last()?;
        match ended {
            Ok((trial, outcome)) => {
                self.broken = 0;
                self.last = Some(Ended { row, trial, outcome });
                if self.plan.stop {
                    self.finish_last()?;
                }
            }
            Err(error) => {
                self.broken += 1;
                let text = format!("{}: cannot be run: {error:#}\n", kind.name());
                (self.progress)(&Failure { seed, text });
                self.report.rows[row].add_broken();
                if self.broken == BROKEN_MAX {
                    return Err(error).context(format!("{BROKEN_MAX} trials in a row"));
                }
            }
        }
        Ok(())
    }

    fn finish_last(&mut self) -> Result<()> {
        let Some(Ended { row, mut trial, mut outcome }) = self.last.take() else { return Ok(()) };
        trial.judge_later(&mut outcome)?;
        let row = &mut self.report.rows[row];
        row.add(&outcome);
        if let Some(text) = &outcome.text {
            let text = format!("{} {text}", row.name());
            (self.progress)(&Failure { seed: trial.seed(), text });
        }
        trial.remove()
    }
}
