// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-coherence`: measures how old what is read in a mount is, and how often an effect is seen before its cause.
//! `cargo xtask coherence` builds what it needs and calls it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use farwatch_testkit::Mount;
use farwatch_testkit::coherence::{Plan, Report, run};

/// Changes a few objects on the host, reads them in the mount, and prints how old what was read is
#[derive(Debug, Parser)]
struct Cli {
    /// How events are delivered: by `farwatch mount` itself, by farwatch-agent on its mount, or not at all, for a
    /// local directory in place of a mount
    #[arg(long, value_enum, default_value = "mount")]
    path: Delivered,
    /// What the mount caches
    #[arg(long, value_name = "POLICY", default_value = "events")]
    cache: String,
    /// How the host is watched
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    watch: String,
    /// Changes on the host
    #[arg(long, default_value_t = 5000)]
    changes: u64,
    /// The longest pause between two changes, in microseconds
    #[arg(long, default_value_t = 1500)]
    pause_max: u64,
    /// Threads that read at random moments
    #[arg(long, default_value_t = 1)]
    readers: usize,
    /// Read nothing after events
    #[arg(long)]
    no_watcher: bool,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Delivered {
    Mount,
    Agent,
    Local,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let options = ["--cache", &cli.cache, "--watch", &cli.watch];
    let mount = match cli.path {
        Delivered::Mount => Mount::start_with(&options)?,
        Delivered::Agent => Mount::start_with_agent_and(&options)?,
        Delivered::Local => Mount::local()?,
    };
    let plan = Plan {
        seed: cli.seed,
        changes: cli.changes,
        pause_max: Duration::from_micros(cli.pause_max),
        readers: cli.readers,
        watches: !cli.no_watcher,
    };
    print(&run(&mount.host(), &mount.mount_point(), &plan)?);
    Ok(())
}

fn print(report: &Report) {
    println!("way          reads      old   p50 us   p99 us   max us  before its cause");
    for (way, found) in &report.0 {
        let mut old = found.old.clone();
        old.sort_unstable();
        let at = |percent: usize| {
            let nth = (old.len() * percent / 100).min(old.len().saturating_sub(1));
            old.get(nth).map_or(0, Duration::as_micros)
        };
        println!(
            "{:9} {:8} {:8} {:8} {:8} {:8}  {:8}",
            format!("{way:?}"),
            found.reads,
            old.len(),
            at(50),
            at(99),
            at(100),
            found.before_cause,
        );
    }
}
