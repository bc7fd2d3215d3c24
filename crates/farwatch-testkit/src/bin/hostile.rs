// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-hostile`: a FUSE server that lies, in a virtual machine whose kernel raises events itself.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use farwatch_testkit::hostile::{self, Plan, Stop, Way};
use inotify::{Inotify, WatchMask};

/// Where it mounts itself.
const MOUNT_POINT: &str = "/tmp/hostile";

/// Serves a mount of its own, and lies
#[derive(Debug, Parser)]
struct Cli {
    /// How it tells of changes
    #[arg(long, value_enum, default_value = "device")]
    way: WayArg,
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
        at: StopArg,
    },
    /// Watch a directory
    #[command(hide = true)]
    Watch {
        /// Which
        dir: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WayArg {
    /// By what it writes to `/dev/fuse`
    Device,
    /// By what it answers to reads of the control node
    Reads,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StopArg {
    Find,
    Open,
    Hello,
    Welcome,
    Read,
    Lookup,
    Attributes,
    Watch,
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
    let way = match cli.way {
        WayArg::Device => Way::Device,
        WayArg::Reads => Way::Reads,
    };
    let (at, mut out) = (Path::new(MOUNT_POINT), std::io::stdout());
    match cli.command {
        Task::Cases => hostile::cases(way, at, &mut out),
        Task::Random { seed, messages } => {
            hostile::random(way, at, &Plan { seed, messages }, &mut out)
        }
        Task::Stop { at: stop } => hostile::stop(way, at, stop.stop(), &mut out),
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

impl StopArg {
    fn stop(self) -> Stop {
        match self {
            Self::Find => Stop::Find,
            Self::Open => Stop::Open,
            Self::Hello => Stop::Hello,
            Self::Welcome => Stop::Welcome,
            Self::Read => Stop::Read,
            Self::Lookup => Stop::Lookup,
            Self::Attributes => Stop::Attributes,
            Self::Watch => Stop::Watch,
        }
    }
}
