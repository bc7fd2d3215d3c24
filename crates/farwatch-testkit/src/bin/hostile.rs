// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-hostile`: a FUSE server that lies, in a virtual machine whose kernel raises events itself.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use farwatch_testkit::hostile::{self, Plan, Stop, Way};
use inotify::{Inotify, WatchMask};

/// Serves a mount of its own, and lies
#[derive(Debug, Parser)]
struct Cli {
    /// How it tells of changes
    #[arg(long, value_enum, default_value = "device")]
    way: Way,
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Say what the table has
    Cases,
    /// Say what is made up
    Random {
        /// Where the random numbers begin
        #[arg(long)]
        seed: u64,
        /// Messages
        #[arg(long)]
        messages: u64,
    },
    /// Never answer something, nor anything after it
    Stop {
        /// What
        #[arg(value_enum)]
        at: Stop,
    },
    /// Watch a directory
    #[command(hide = true)]
    Watch {
        /// Which
        dir: PathBuf,
    },
}

fn main() -> Result<()> {
    let done = run(Cli::parse());
    if done.is_err() {
        // The kernel's log then has what waits, and where. Not every kernel can do that.
        std::fs::write("/proc/sysrq-trigger", "w").unwrap_or_default();
    }
    done
}

fn run(cli: Cli) -> Result<()> {
    let (way, at, mut out) = (cli.way, Path::new(hostile::MOUNT_POINT), std::io::stdout());
    match cli.command {
        Task::Cases => hostile::cases(way, at, &mut out),
        Task::Random { seed, messages } => {
            hostile::random(way, at, &Plan { seed, messages }, &mut out)
        }
        Task::Stop { at: stop } => hostile::stop(way, at, stop, &mut out),
        Task::Watch { dir } => {
            let inotify = Inotify::init().context("inotify_init")?;
            inotify
                .watches()
                .add(&dir, WatchMask::CREATE)
                .with_context(|| dir.display().to_string())?;
            writeln!(out, "watching {}", dir.display())?;
            Ok(())
        }
    }
}
