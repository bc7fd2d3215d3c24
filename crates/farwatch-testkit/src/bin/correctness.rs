// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-correctness`: runs tests of file systems in a local directory, in mounts, and in those of stock virtiofsd.
//! `cargo xtask correctness` builds and installs what it needs and calls it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use farwatch_testkit::correctness::{self, Length, Plan, Suite};

/// Runs tests of file systems in a local directory, in mounts of ours and in those of stock virtiofsd, and compares
#[derive(Debug, Parser)]
struct Cli {
    /// What is run; everything if nothing is named
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Seconds for each, instead of minutes
    #[arg(long)]
    quick: bool,
    /// Print differences that stock virtiofsd has too
    #[arg(long)]
    all: bool,
    /// Stock virtiofsd 1.14
    #[arg(long, value_name = "PROGRAM", env = "FARWATCH_STOCK_VIRTIOFSD")]
    stock: PathBuf,
    /// Where pjdfstest and fsx are, if not in the path
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let Cli { suites, quick, all, stock, programs } = Cli::parse();
    let suites = if suites.is_empty() { Suite::all().to_vec() } else { suites };
    let length = if quick { Length::Short } else { Length::Long };
    let plan = Plan { suites, length, stock, programs };
    let table = correctness::run(&plan, |what| eprintln!("{what}"))?;
    let mut failed = false;
    for row in table.rows() {
        for difference in &row.own {
            failed = true;
            println!("{}, {}, unlike both: {difference}", row.suite, row.server);
        }
        for (difference, why) in &row.known {
            println!("{}, {}, known: {difference}  {why}", row.suite, row.server);
        }
        for difference in row.shared.iter().filter(|_| all) {
            println!("{}, {}, as stock virtiofsd: {difference}", row.suite, row.server);
        }
    }
    print!("{table}");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
