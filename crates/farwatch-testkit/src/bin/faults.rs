// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-faults`: measures whether anything is lost when parts die, stop or run out of something. `cargo xtask
//! faults` builds what it needs and calls it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use farwatch_testkit::converge::faults::soak::{self, Soak, Soaked};
use farwatch_testkit::converge::faults::{self, Kind, Rounds};

/// Lets parts of a mount die, stop or run out of something while both sides change files, and judges what is left
#[derive(Debug, Parser)]
struct Cli {
    /// One mount for the whole time, and whether anything grows: writes soak.csv and soak.svg into this directory
    #[arg(long, value_name = "DIR", requires = "minutes", conflicts_with = "kinds")]
    soak: Option<PathBuf>,
    /// What happens; all kinds if none is named
    #[arg(value_enum)]
    kinds: Vec<Kind>,
    /// Rounds of each kind
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after so many minutes, whatever was run by then
    #[arg(long)]
    minutes: Option<u64>,
    /// End with the first failure
    #[arg(long)]
    stop: bool,
    /// Print so many failures
    #[arg(long, default_value_t = 3, value_name = "N")]
    show: u64,
}

fn main() -> Result<ExitCode> {
    let Cli { soak, kinds, rounds, seed, minutes, stop, show } = Cli::parse();
    let kinds = if kinds.is_empty() { Kind::all().to_vec() } else { kinds };
    let time_max = minutes.map(|minutes| Duration::from_secs(minutes * 60));
    if let (Some(dir), Some(time)) = (soak, time_max) {
        return run_soak(&dir, time, seed);
    }
    let mut failures = 0;
    let rounds = Rounds { kinds, rounds, seed, stop, time_max };
    let table = faults::run(&rounds, |failure| {
        failures += 1;
        if failures <= show {
            println!("seed {}, {}", failure.seed, failure.text);
        }
    })?;
    print!("{table}");
    Ok(if table.failed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A sample is taken so often at least, and a run has about so many.
const SAMPLES: u32 = 240;
const EVERY_MIN: Duration = Duration::from_secs(2);

fn run_soak(dir: &Path, time: Duration, seed: u64) -> Result<ExitCode> {
    let soak = Soak { time, every: EVERY_MIN.max(time / SAMPLES), seed };
    let soaked = soak::run(&soak, |failure| println!("seed {}, {}", failure.seed, failure.text))?;
    soaked.write(dir)?;
    print!("{}", soaked.table());
    let Soaked { rounds, wrong, watches, .. } = soaked;
    println!("{rounds} rounds, {wrong} wrong, {watches} with watches alone; {}", dir.display());
    let is_well = wrong == 0 && soaked.growing().is_empty();
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
