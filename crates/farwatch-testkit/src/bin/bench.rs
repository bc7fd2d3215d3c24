// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-bench`: what an event costs in a guest. `cargo xtask bench native` builds what it needs and calls it; all
//! commands but `native` and `stock` are what it runs in the guest.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use farwatch_testkit::bench::{self, Change, Part, Scale, Tree};

/// Measures what events cost in a guest whose kernel raises them
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boot a User-mode Linux, measure in it, and print tables
    Native {
        /// Do a tenth, to see that it runs
        #[arg(long)]
        quick: bool,
        /// Measure this alone
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<Part>,
    },
    /// Boot a stock kernel in QEMU, measure in it beside this virtiofsd, and print tables
    Stock {
        /// Do a tenth, to see that it runs
        #[arg(long)]
        quick: bool,
        /// Of version 1.14
        virtiofsd: PathBuf,
    },
    /// Print how long each change took, and how long its event, in ns
    #[command(hide = true)]
    Latency {
        #[arg(value_enum)]
        change: Change,
        turn: usize,
        count: usize,
        changed: PathBuf,
        watched: PathBuf,
    },
    /// Print how long files were created, and until the last event was read; without CHANGED, somebody else creates
    /// them
    #[command(hide = true)]
    Burst { files: usize, watched: PathBuf, changed: Option<PathBuf> },
    /// Make a tree of so many directories
    #[command(hide = true)]
    Make { dirs: usize, at: PathBuf },
    /// Print how long a walk through a tree of so many files took
    #[command(hide = true)]
    Walk { files: usize, at: PathBuf },
    /// Print how long it took to watch so many directories, and to end that
    #[command(hide = true)]
    Watch { dirs: usize, at: PathBuf },
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Native { quick, only } => {
            bench::run(if quick { Scale::QUICK } else { Scale::FULL }, &only)?;
        }
        Task::Stock { quick, virtiofsd } => {
            bench::run_stock(if quick { Scale::QUICK } else { Scale::FULL }, &virtiofsd)?;
        }
        Task::Latency { change, turn, count, changed, watched } => {
            let latencies = bench::latencies(change, &changed, &watched, turn, count)?;
            done(latencies.into_iter().flat_map(|latency| [latency.call, latency.event]));
        }
        Task::Burst { files, watched, changed: Some(changed) } => {
            done(<[Duration; 2]>::from(bench::burst(&changed, &watched, files, progress)?));
        }
        Task::Burst { files, watched, changed: None } => {
            bench::read_burst(&watched, files, || println!("{}", bench::READY), progress)?;
            done([]);
        }
        Task::Make { dirs, at } => {
            Tree::of_dirs(dirs).make(&at)?;
            done([]);
        }
        Task::Walk { files, at } => done([bench::walk(&at, Tree::of_files(files), progress)?]),
        Task::Watch { dirs, at } => {
            done(<[Duration; 2]>::from(bench::watch_all(&at, Tree::of_dirs(dirs), progress)?));
        }
    }
    Ok(())
}

fn progress(len: usize) {
    println!("{} {len}", bench::PROGRESS);
}

fn done(durations: impl IntoIterator<Item = Duration>) {
    let durations = durations.into_iter().map(|duration| format!(" {}", duration.as_nanos()));
    println!("{}{}", bench::DONE, durations.collect::<String>());
}
