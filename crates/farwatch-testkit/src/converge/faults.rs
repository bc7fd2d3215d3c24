// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Faults: whether anything is lost when a part dies, stops or runs out of something while both sides change
//! files. `cargo xtask faults` calls it.
//!
//! A *round* is a load on both sides of a mount, a fault at a random moment of it, and a judgement. A fault that the
//! mount survives (`survivable`) is taken back within the round, `farwatch sync` returns, and the judges of
//! [convergence](super) compare. After one that ends it (`ending`), another mount takes its place, and what it shows
//! and reports is judged. In both cases the tree of the host is judged by the operations alone: a replay must
//! not have changed it, and what a program in the mount was told to be written must be there.

mod audit;
mod ending;
mod host;
mod injection;
mod machine;
mod processes;
pub mod soak;
mod survivable;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

pub(super) use audit::{audit, same_tree};

use super::Settle;
use super::case::{self, Knobs};
use super::judge::Judge;
use super::{Failure, Plan};

/// So many rounds in a row that cannot be run end the rounds of a kind.
const BROKEN_MAX: u64 = 3;
/// Operations of a load.
const OPS: usize = 400;
/// Operations after a mount has taken the place of another.
const OPS_AFTERWARDS: usize = 60;
/// A fault comes within so long from the beginning of a load.
const DELAY_MAX: Duration = Duration::from_millis(60);

/// What happens in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `farwatch mount` is killed, and started again on its dead mount
    KillDriver,
    /// The device of `farwatch mount` is killed, and the mount made again
    KillDevice,
    /// `farwatch serve` is killed under `farwatch mount --socket`, and both are started again
    KillServe,
    /// The worker of `farwatch-agent` is killed, and replaced by its supervisor
    KillWorker,
    /// The supervisor of `farwatch-agent` is killed, and started again
    KillSupervisor,
    /// `farwatch mount` is stopped for a while
    StopDriver,
    /// The device of `farwatch mount` is stopped for a while
    StopDevice,
    /// `farwatch serve` is stopped for a while
    StopServe,
    /// The worker of `farwatch-agent` is stopped for a while
    StopWorker,
    /// The supervisor of `farwatch-agent` is stopped for a while
    StopSupervisor,
    /// The host's file system is full for a while
    DiskFull,
    /// The device may open no further file for a while (EMFILE)
    Descriptors,
    /// The device gets no further memory, which ends it
    Memory,
    /// The host's file system is read-only for a while
    ReadOnly,
    /// The shared directory is deleted and made again
    RootReplaced,
    /// File systems come and go below the shared directory
    Submount,
    /// The host's file system does not answer for a while: it is another mount, whose device is stopped
    SlowHost,
    /// A virtual machine with the share is stopped by QEMU for a while, and goes on
    MachineStop,
    /// A virtual machine with the share moves to another QEMU and another server
    Migration,
    /// A virtual machine with the share is saved in a file, and restored after a while
    Snapshot,
}

impl Kind {
    /// All of them.
    #[must_use]
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Whether it needs a virtual machine, with a kernel in `FARWATCH_KERNELS` and the programs of `cargo xtask guest`.
    #[must_use]
    pub fn needs_machine(self) -> bool {
        matches!(self, Self::MachineStop | Self::Migration | Self::Snapshot)
    }

    /// As it is given on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn ends(self) -> bool {
        match self {
            Self::KillDriver | Self::KillDevice | Self::KillServe | Self::Memory => true,
            Self::RootReplaced => true,
            Self::KillWorker | Self::KillSupervisor | Self::StopDriver | Self::StopDevice => false,
            Self::StopServe | Self::StopWorker | Self::StopSupervisor | Self::DiskFull => false,
            Self::Descriptors | Self::ReadOnly | Self::Submount | Self::SlowHost => false,
            Self::MachineStop | Self::Migration | Self::Snapshot => false,
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// Each is a row of the table.
    pub kinds: Vec<Kind>,
    /// Rounds of each kind.
    pub rounds: u64,
    /// Round number n has the operations and the fault of round number 0 of seed + n.
    pub seed: u64,
    /// Whether the first failure ends the run.
    pub stop: bool,
    /// The kinds that have begun end after this time.
    pub time_max: Option<Duration>,
}

/// What came of the rounds of one kind.
#[derive(Clone, Debug, Default)]
pub struct Row {
    name: String,
    rounds: u64,
    wrong: u64,
    /// Rounds in which nothing was wrong but watches on objects.
    watches: u64,
    broken: u64,
    /// Operations of the loads.
    ops: u64,
    took: Duration,
}

/// All rows. `Display` prints a table in Markdown.
#[derive(Clone, Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// Rounds in which something was wrong, or that could not be run.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.iter().map(|row| row.wrong + row.broken).sum()
    }

    /// Rounds that were judged.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.0.iter().map(|row| row.rounds - row.broken).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| fault | rounds | wrong | watches | not run | operations | s |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for row in &self.0 {
            let Row { name, rounds, wrong, watches, broken, ops, took } = row;
            let took = took.as_secs();
            write!(f, "| `{name}` | {rounds} | {wrong} | {watches} | {broken} ")?;
            writeln!(f, "| {ops} | {took} |")?;
        }
        Ok(())
    }
}

/// What came of one round.
#[derive(Debug, Default)]
struct Judged {
    /// What was wrong, for a developer.
    text: Option<String>,
    /// Whether watches on objects have ended early or not, and nothing else was wrong.
    watches: bool,
    ops: u64,
}

/// Runs all rounds. `progress` is called with each that failed.
///
/// # Errors
/// When nothing can be mounted.
pub fn run(rounds: &Rounds, mut progress: impl FnMut(&Failure)) -> Result<Table> {
    let begin = Instant::now();
    let mut table = Table::default();
    for kind in &rounds.kinds {
        let is_over = || rounds.time_max.is_some_and(|max| begin.elapsed() >= max);
        let row = run_kind(*kind, rounds, is_over, &mut progress)
            .with_context(|| format!("rounds of {}", kind.name()))?;
        table.0.push(row);
        if is_over() || rounds.stop && table.failed() > 0 {
            break;
        }
    }
    Ok(table)
}

fn run_kind(
    kind: Kind,
    rounds: &Rounds,
    is_over: impl Fn() -> bool,
    progress: &mut impl FnMut(&Failure),
) -> Result<Row> {
    let begin = Instant::now();
    let mut row = Row { name: kind.name(), ..Row::default() };
    let (mut stand, mut in_a_row) = (None, 0);
    for nth in 0..rounds.rounds {
        if is_over() || in_a_row == BROKEN_MAX || rounds.stop && row.wrong + row.broken > 0 {
            break;
        }
        let seed = rounds.seed + nth;
        let judged = match stand.take() {
            Some(stand) => Ok(stand),
            None => Stand::new(kind),
        }
        .and_then(|stand| stand.round(&format!("round{nth}"), seed));
        row.rounds += 1;
        let text = match judged {
            Ok((next, judged)) => {
                (stand, in_a_row) = (Some(next), 0);
                row.ops += judged.ops;
                row.watches += u64::from(judged.watches);
                row.wrong += u64::from(judged.text.is_some());
                judged.text
            }
            Err(error) => {
                (row.broken, in_a_row) = (row.broken + 1, in_a_row + 1);
                Some(format!("cannot be run: {error:#}\n"))
            }
        };
        if let Some(text) = text {
            progress(&Failure { seed, text: format!("{} {text}", kind.name()) });
        }
    }
    row.took = begin.elapsed();
    Ok(row)
}

/// What rounds of a kind are run in, one after the other.
#[derive(Debug)]
enum Stand {
    GoesOn(survivable::Stand),
    Ends(ending::Stand),
    Machine(machine::Stand),
}

impl Stand {
    fn new(kind: Kind) -> Result<Self> {
        Ok(if kind.needs_machine() {
            Self::Machine(machine::Stand::new(kind)?)
        } else if kind.ends() {
            Self::Ends(ending::Stand::new(kind)?)
        } else {
            Self::GoesOn(survivable::Stand::new(kind)?)
        })
    }

    /// Runs a round. Where it cannot be run, everything is started anew for the next.
    fn round(self, name: &str, seed: u64) -> Result<(Self, Judged)> {
        Ok(match self {
            Self::GoesOn(mut stand) => {
                let judged = stand.round(name, seed).with_context(|| stand.log())?;
                (Self::GoesOn(stand), judged)
            }
            Self::Machine(mut stand) => {
                let judged = stand.round(name, seed).with_context(|| stand.log())?;
                (Self::Machine(stand), judged)
            }
            Self::Ends(stand) => {
                let (stand, judged) = stand.round(name, seed)?;
                (Self::Ends(stand), judged)
            }
        })
    }
}

/// How a model is judged after a fault. Events may have been dropped and found again by a resync: they need not be
/// those of a local directory one by one.
fn plan(ops: usize, judges: &[Judge]) -> Plan {
    Plan {
        kinds: Vec::new(),
        knobs: Knobs { ops: Some(ops), ..Knobs::default() },
        trials: 1,
        seed: 0,
        repeat: false,
        stop: false,
        settle: Settle::Sync,
        judges: judges.iter().copied().collect(),
        blind: false,
        fault: None,
        local: false,
    }
}

/// Whether nothing but the end of watches is wrong, where both sides change the same names: docs/SEMANTICS.md has that
/// among the known faults, and a part that is away makes it more frequent. It is counted, and no failure.
fn only_watches(case: &case::Case, wrong: &std::collections::BTreeSet<Judge>) -> bool {
    let known = |judge: &Judge| matches!(judge, Judge::Objects | Judge::NewObjects);
    !case.is_of_one_process() && !wrong.is_empty() && wrong.iter().all(known)
}

/// What must be true in spite of a fault.
const JUDGES: [Judge; 5] =
    [Judge::Names, Judge::Listing, Judge::Objects, Judge::NewObjects, Judge::Content];
