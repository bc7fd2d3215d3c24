// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-faults`: measures whether anything is lost when parts die, stop or run out of something. `cargo xtask
//! faults` builds what it needs and calls it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use farwatch_testkit::converge::faults::{self, Kind, Rounds};

/// Lets parts of a mount die, stop or run out of something while both sides change files, and judges what is left
#[derive(Debug, Parser)]
struct Cli {
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
    let Cli { kinds, rounds, seed, minutes, stop, show } = Cli::parse();
    let kinds = if kinds.is_empty() { Kind::all().to_vec() } else { kinds };
    let time_max = minutes.map(|minutes| Duration::from_secs(minutes * 60));
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
