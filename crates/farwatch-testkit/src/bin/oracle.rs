// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-oracle`: runs the oracle for as long as one likes. `cargo xtask oracle` builds what it
//! needs and calls it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use farwatch_testkit::oracle::{self, Case, Fault, Oracle, Plan, Report};
use farwatch_testkit::vm::{Kernel, Uml, Vm};
use farwatch_testkit::{Mount, Place};

/// Does random operations on a shared directory and compares what programs are told of them in its
/// mount with what the kernel's own inotify tells
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run random cases, to the first that fails
    Run(RunArgs),
    /// Run a case that was written down
    Case {
        /// The file
        file: PathBuf,
        /// Run it until it fails, but so many times at most: among processes it also takes luck
        #[arg(long, default_value_t = 1, value_name = "N")]
        times: u32,
        /// When it fails, write here what the server has logged: FARWATCH_LOG says how much
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        #[command(flatten)]
        at: PathArgs,
    },
    /// One of the processes of an unpaced case: reads its operations from standard input
    #[command(hide = true)]
    Process {
        /// Where to do them
        base: PathBuf,
        /// A directory that is not shared
        outside: PathBuf,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// How many operations
    #[arg(long, default_value_t = 100_000)]
    ops: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Several processes at once, and nobody waits
    #[arg(long)]
    unpaced: bool,
    /// Four names in two directories, so that operations meet
    #[arg(long)]
    few: bool,
    /// Break a rule on purpose, to see that it is noticed
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Leave a case that fails as long as it is
    #[arg(long)]
    whole: bool,
    /// Write a case that fails into this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// When a case fails, write here what the server has logged: FARWATCH_LOG says how much
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[command(flatten)]
    at: PathArgs,
}

#[derive(Debug, Args)]
struct PathArgs {
    /// How events are delivered: by `farwatch mount` itself, by farwatch-agent on its mount, by
    /// farwatch-agent in a virtual machine with that kernel, or by the kernel of a User-mode Linux
    #[arg(long, value_enum, default_value = "mount")]
    path: Delivered,
    /// How the host is watched: inotify, which is the default, or fanotify
    #[arg(long, value_name = "BACKEND")]
    watch: Option<String>,
}

impl PathArgs {
    fn is_by_fanotify(&self) -> bool {
        self.watch.as_deref() == Some("fanotify")
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Delivered {
    Mount,
    Agent,
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    Uml,
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Task::Run(args) => match args.at.path {
            Delivered::Mount => run(&mount(&args.at, false)?, &args, true),
            Delivered::Agent => run(&mount(&args.at, true)?, &args, true),
            Delivered::V6_1 | Delivered::V6_12 | Delivered::Uml => {
                run(&vm(&args.at)?, &args, false)
            }
        },
        Task::Case { file, times, log, at } => {
            let text =
                std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let (case, log) = (Case::parse(&text)?, log.as_deref());
            let merges = at.is_by_fanotify();
            match at.path {
                Delivered::Mount => repeat(&mount(&at, false)?, &case, (times, merges), log),
                Delivered::Agent => repeat(&mount(&at, true)?, &case, (times, merges), log),
                Delivered::V6_1 | Delivered::V6_12 | Delivered::Uml => {
                    repeat(&vm(&at)?, &case, (times, merges), log)
                }
            }
        }
        Task::Process { base, outside } => {
            let mut script = String::new();
            std::io::stdin().read_to_string(&mut script)?;
            println!("{}", oracle::process(&script, &base, &outside)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn mount(at: &PathArgs, agent: bool) -> Result<Mount> {
    let mut options = Vec::new();
    if let Some(watch) = &at.watch {
        options.extend(["--watch", watch]);
    }
    if agent { Mount::start_with_agent_and(&options) } else { Mount::start_with(&options) }
}

fn vm(at: &PathArgs) -> Result<Vm> {
    let version = if matches!(at.path, Delivered::V6_1) { "6.1" } else { "6.12" };
    let options: Vec<&str> = at.watch.iter().flat_map(|watch| ["--watch", watch]).collect();
    if matches!(at.path, Delivered::Uml) {
        let kernel = Uml::find(version).context("it is not built: cargo xtask kernel")?;
        return Vm::start_uml(&kernel, &options);
    }
    let kernel = Kernel::find(version).context("no such kernel: ./test fetches them")?;
    let vm = Vm::start_without_agent(&kernel, &options)?;
    vm.start_agent()?;
    Ok(vm)
}

fn run<P: Place>(place: &P, args: &RunArgs, here: bool) -> Result<ExitCode> {
    let plan = Plan {
        ops: args.ops,
        seed: args.seed,
        paced: !args.unpaced,
        in_mount: here && !args.unpaced,
        by_name: !args.at.is_by_fanotify(),
        few: args.few,
        fault: args.fault,
        shrink: !args.whole,
    };
    let begin = Instant::now();
    let mut next = 10;
    let report = Oracle::new(place).run(plan, |report| {
        if begin.elapsed().as_secs() >= next {
            next += 10;
            println!("{}", line(report));
        }
    })?;
    println!("{}, {:.1} s", line(&report), begin.elapsed().as_secs_f64());
    let Some(failure) = report.failure else { return Ok(ExitCode::SUCCESS) };
    println!("seed {} fails:\n{}\n{}", failure.seed, failure.difference, failure.case);
    if let Some(file) = &args.log {
        std::fs::write(file, place.log()).with_context(|| file.display().to_string())?;
    }
    if let Some(dir) = &args.keep {
        let kind = if args.unpaced { "unpaced" } else { "paced" };
        let few = if args.few { "-few" } else { "" };
        let file = dir.join(format!("{kind}{few}-{}.txt", failure.seed));
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&file, failure.case.to_string()))
            .with_context(|| file.display().to_string())?;
        println!("kept in {}", file.display());
    }
    Ok(ExitCode::FAILURE)
}

fn line(report: &Report) -> String {
    let Report { cases, ops, failed, left_out, events, .. } = report;
    format!(
        "{cases} cases, {ops} operations ({failed} failed, {left_out} left out), {events} events"
    )
}

fn repeat<P: Place>(
    place: &P,
    case: &Case,
    (times, merges): (u32, bool),
    log: Option<&Path>,
) -> Result<ExitCode> {
    let mut oracle = Oracle::new(place);
    if merges {
        oracle.expect_merges();
    }
    for time in 1..=times {
        if let Some(difference) = oracle.run_case(case)? {
            println!("different, the {time}. time:\n{difference}");
            if let Some(file) = log {
                std::fs::write(file, place.log()).with_context(|| file.display().to_string())?;
            }
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("equal");
    Ok(ExitCode::SUCCESS)
}
