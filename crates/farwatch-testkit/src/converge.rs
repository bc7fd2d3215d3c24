// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Convergence: whether what a program in a mount believes is true once the changes have ended.
//!
//! A *trial* has fresh directories in one long-lived mount. Processes on the host, and in some kinds
//! of trial in the mount too, change the same few names without a pause. A [`Client`] in the mount
//! keeps a model from its events meanwhile. Then the changes end, and judges compare the model with
//! the host, each one thing. A run goes through all trials and counts what was wrong.
//!
//! The [oracle](crate::oracle) asks whether each event is the one that a local directory would
//! report. This asks what the events add up to.

mod case;
mod client;
mod judge;
mod op;
mod queue;
mod report;
mod state;
mod worker;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use case::{Kind, Knobs};
pub use judge::Judge;
pub use report::{Report, Row};
pub use worker::process;

use case::{Case, Side};
use client::Client;
use judge::Wrong;
use op::Actor;
use queue::{Queue, Told};
use report::Outcome;
use state::{Tree, list};
use worker::{Done, Worker, now};

use crate::PATIENCE;
use crate::place::Place;
use crate::recorder::Recorder;
use crate::share::Share;

/// The longest that a model may be wrong after the last change.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// How often a model that is still wrong is judged again when no event comes.
const JUDGE_EVERY: Duration = Duration::from_millis(20);
/// Events of a trial that failed which are printed.
const SHOWN_MAX: usize = 30;

/// When a model must be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Within one second after the last change.
    Within,
    /// When `farwatch sync` has returned and the events that are there have been read.
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
    /// When a model must be true.
    pub settle: Settle,
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
/// When a trial cannot be run at all.
pub fn run<P: Place>(place: &P, plan: &Plan, mut progress: impl FnMut(&Failure)) -> Result<Report> {
    let mut report = Report::default();
    let mut made = 0;
    for kind in &plan.kinds {
        let mut row = Row::new(kind.name());
        for nth in 0..plan.trials {
            let seed = plan.seed + nth;
            made += 1;
            let case = Case::generate(*kind, plan.knobs, seed);
            let trial = Trial::new(place, plan, &case, made);
            let outcome = trial.and_then(Trial::run);
            let outcome = outcome.with_context(|| format!("{}, seed {seed}", kind.name()))?;
            if let Some(text) = row.add(&outcome) {
                progress(&Failure { seed, text });
            }
        }
        report.rows.push(row);
    }
    Ok(report)
}

/// One trial, from its setup to its judgement.
struct Trial<'a, P> {
    place: &'a P,
    plan: &'a Plan,
    case: &'a Case,
    share: Share,
    client: Client,
    local: Queue,
    made: Vec<Told>,
    barriers: u32,
}

impl<'a, P: Place> Trial<'a, P> {
    fn new(place: &'a P, plan: &'a Plan, case: &'a Case, nth: u64) -> Result<Self> {
        let share = place.share(&format!("trial{nth}"))?;
        let host = Actor::new(share.host())?;
        for dir in &case.dirs {
            fs::create_dir(share.host().join(dir)).with_context(|| dir.clone())?;
        }
        for op in &case.setup {
            host.apply(op).with_context(|| format!("the setup's {op}"))?;
        }
        let client = Client::new(&share, &case.dirs)?;
        let mut local = Queue::new()?;
        for dir in &case.dirs {
            local.watch(&share.host().join(dir), Recorder::CHANGES)?;
        }
        let mut trial =
            Self { place, plan, case, share, client, local, made: Vec::new(), barriers: 0 };
        trial.sync()?;
        trial.client.read()?;
        trial.client.forget_events();
        trial.local.read()?;
        Ok(trial)
    }

    fn run(mut self) -> Result<Outcome> {
        let mut workers = Vec::new();
        for (side, ops) in &self.case.scripts {
            let base = match side {
                Side::Host => self.share.host(),
                Side::Mount => self.share.mount(),
            };
            workers.push(Worker::start(base, ops)?);
        }
        workers.iter_mut().for_each(Worker::release);
        while !workers.iter().all(Worker::has_ended) {
            self.wait(&mut workers, PATIENCE)?;
        }
        let results = workers.iter().map(Worker::results).collect::<Result<Vec<_>>>()?;
        drop(workers);
        let (wrong, settled) = self.settle(last_change(&results))?;
        let text = (!wrong.is_empty()).then(|| self.describe(&wrong, &results));
        let outcome = Outcome {
            wrong,
            told: self.client.events().len(),
            made: self.made.len(),
            settled,
            errors: report::errors(self.case, &results),
            ops: results.iter().map(Vec::len).sum(),
            left_out: self.case.left_out,
            text,
        };
        self.remove()?;
        Ok(outcome)
    }

    /// Waits for events or results, and takes them.
    fn wait(&mut self, workers: &mut [Worker], patience: Duration) -> Result<()> {
        let running: Vec<&Worker> = workers.iter().filter(|worker| !worker.has_ended()).collect();
        let mut fds = vec![PollFd::new(&self.client, PollFlags::IN)];
        fds.extend(running.iter().map(|worker| PollFd::new(*worker, PollFlags::IN)));
        let ready = poll(&mut fds, Some(&Timespec::try_from(patience)?));
        let ready = match ready {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            ready => ready.context("poll")?,
        };
        ensure!(ready > 0 || patience < PATIENCE, "nothing happened for {patience:?}");
        let ready: Vec<bool> = fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let running = workers.iter_mut().filter(|worker| !worker.has_ended());
        for (worker, _) in running.zip(ready).filter(|(_, ready)| *ready) {
            worker.read()?;
        }
        self.take()
    }

    /// Takes the events that are there, on both sides.
    fn take(&mut self) -> Result<()> {
        self.client.read()?;
        self.made.extend(self.local.read()?);
        Ok(())
    }

    /// Waits until the model must be true. Returns what is wrong with it then, and for how long after
    /// `end` something was.
    fn settle(&mut self, end: Duration) -> Result<(Vec<Wrong>, Duration)> {
        if self.plan.settle == Settle::Sync {
            self.sync()?;
            self.take()?;
            return Ok((self.judge()?, now().saturating_sub(end)));
        }
        loop {
            self.take()?;
            let since = now().saturating_sub(end);
            let mut wrong = self.judge()?;
            if wrong.is_empty() {
                // It may be so by chance, before the events have come.
                self.barrier()?;
                wrong = self.judge()?;
            }
            if wrong.is_empty() || now().saturating_sub(end) >= SETTLE_MAX {
                return Ok((wrong, since));
            }
            self.wait(&mut [], (SETTLE_MAX - since).min(JUDGE_EVERY))?;
        }
    }

    fn judge(&self) -> Result<Vec<Wrong>> {
        let truth = Tree::read(self.share.host(), &self.case.dirs)?;
        let exist: BTreeSet<String> = truth.0.into_keys().collect();
        let listed = list(self.share.mount(), &self.case.dirs)?.into_iter().collect();
        let mut wrong = judge::names(Judge::Names, self.client.names(), &exist);
        wrong.extend(judge::names(Judge::Listing, &listed, &exist));
        Ok(wrong)
    }

    /// Takes events until all that was changed on the host before this call has been reported.
    fn barrier(&mut self) -> Result<()> {
        let name = format!("sentinel-{}", self.barriers);
        self.barriers += 1;
        self.share.make_sentinel(OsStr::new(&name))?;
        while !self.client.has_passed(&name) {
            self.wait(&mut [], PATIENCE)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.plan.local { Ok(()) } else { self.place.sync() }
    }

    fn describe(&self, wrong: &[Wrong], results: &[Vec<Done>]) -> String {
        let told: Vec<String> =
            self.client.events().iter().map(|event| self.client.render(event)).collect();
        report::describe(wrong, &told[told.len().saturating_sub(SHOWN_MAX)..], self.case, results)
    }

    fn remove(self) -> Result<()> {
        drop(self.client);
        for dir in [self.share.host(), &self.share.barrier_on_host(), self.share.outside()] {
            remove(dir)?;
        }
        Ok(())
    }
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).with_context(|| dir.display().to_string())
}

fn last_change(results: &[Vec<Done>]) -> Duration {
    results.iter().flatten().map(|done| done.at).max().unwrap_or_else(now)
}
