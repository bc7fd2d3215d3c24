// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-converge`: measures whether what a program in a mount believes becomes true. `cargo xtask
//! converge` builds what it needs and calls it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use farwatch_testkit::converge::{self, Fault, Judge, Kind, Knobs, Plan, Settle};
use farwatch_testkit::{Here, Mount, Place};

/// Renames of a trial of the kind `renames`.
const RENAMES: [usize; 5] = [3, 7, 51, 301, 1200];

/// Changes few names at full speed, on the host and in the mount, and compares what a program in the
/// mount believes afterwards with what is on the host
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run trials, and print a table of what was wrong
    Run(Box<RunArgs>),
    /// One of the processes of a trial: reads its operations from standard input
    #[command(hide = true)]
    Process {
        /// Where to do them
        base: PathBuf,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The kinds of trial
    #[arg(value_enum, default_values = ["renames", "solo", "both", "many"])]
    kinds: Vec<KindArg>,
    /// How events are delivered: by `farwatch mount` itself, by farwatch-agent on its mount, or not at
    /// all, for a local directory in place of a mount
    #[arg(long, value_enum, default_value = "mount")]
    path: Delivered,
    /// The shared directory and its mount, which are both here: instead of a mount that is made
    #[arg(long, num_args = 2, value_names = ["HOST", "MOUNT"], conflicts_with = "path")]
    at: Vec<PathBuf>,
    /// How the host is watched
    #[arg(long, value_name = "BACKEND")]
    watch: Option<String>,
    /// What the mount caches
    #[arg(long, value_name = "POLICY")]
    cache: Option<String>,
    /// Trials of each kind, and of each number of renames
    #[arg(long, default_value_t = 40)]
    trials: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// When the model must be true: within a second after the last change, or when `farwatch sync`
    /// returns
    #[arg(long, value_enum, default_value = "1s")]
    settle: Settle,
    /// Names in each directory
    #[arg(long)]
    names: Option<usize>,
    /// Directories
    #[arg(long)]
    dirs: Option<usize>,
    /// Operations of a trial
    #[arg(long)]
    ops: Option<usize>,
    /// Exchange names, too
    #[arg(long, conflicts_with = "blind")]
    exchange: bool,
    /// Read nothing in the mount until the changes have ended, and judge no content
    #[arg(long)]
    blind: bool,
    /// Renames of the trials of the kind `renames`
    #[arg(long, value_delimiter = ',', default_values_t = RENAMES, value_name = "N,…")]
    renames: Vec<usize>,
    /// The judges to ask
    #[arg(long, value_enum, value_delimiter = ',', value_name = "JUDGE,…")]
    judge: Vec<Judge>,
    /// Break a rule on purpose in what the program's queue gives, to see that a judge notices it
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Give all trials the operations of the first
    #[arg(long)]
    repeat: bool,
    /// End with the first trial that fails
    #[arg(long)]
    stop: bool,
    /// Print so many failures of the run
    #[arg(long, default_value_t = 3, value_name = "N")]
    show: u64,
    /// When a trial fails for the first time, write here what the server has logged: FARWATCH_LOG says
    /// how much
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindArg {
    Renames,
    Solo,
    Both,
    Many,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Delivered {
    Mount,
    Agent,
    Local,
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Task::Run(args) => run(&args),
        Task::Process { base } => {
            let mut input = BufReader::new(std::io::stdin().lock());
            converge::process(&base, &mut input, &mut std::io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run(args: &RunArgs) -> Result<ExitCode> {
    match &args.at[..] {
        [host, mount] => run_in(&Here::new(host, mount)?, args),
        _ => run_in(&mount(args)?, args),
    }
}

fn run_in<P: Place>(mount: &P, args: &RunArgs) -> Result<ExitCode> {
    let plan = plan(args);
    let begin = Instant::now();
    let mut failures = 0;
    let report = converge::run(mount, &plan, |failure| {
        failures += 1;
        if failures <= args.show {
            println!("seed {}, {}", failure.seed, failure.text);
        }
        if let (1, Some(file)) = (failures, &args.log) {
            let written = std::fs::write(file, mount.log());
            written.unwrap_or_else(|error| println!("{}: {error}", file.display()));
        }
    })
    .with_context(|| mount.log())?;
    print!("{report}");
    println!("{:.1} s", begin.elapsed().as_secs_f64());
    Ok(if report.failed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn plan(args: &RunArgs) -> Plan {
    let mut kinds = Vec::new();
    for kind in &args.kinds {
        match kind {
            KindArg::Renames => {
                for inside in [false, true] {
                    kinds.extend(args.renames.iter().map(|&len| Kind::Renames { len, inside }));
                }
            }
            KindArg::Solo => kinds.push(Kind::Solo),
            KindArg::Both => kinds.push(Kind::Both),
            KindArg::Many => kinds.push(Kind::Many),
        }
    }
    Plan {
        kinds,
        knobs: Knobs { dirs: args.dirs, names: args.names, ops: args.ops, exchange: args.exchange },
        trials: args.trials,
        seed: args.seed,
        repeat: args.repeat,
        stop: args.stop,
        judges: if args.judge.is_empty() {
            Judge::ALL.into()
        } else {
            args.judge.iter().copied().collect()
        },
        blind: args.blind,
        fault: args.fault,
        settle: args.settle,
        local: args.path == Delivered::Local,
    }
}

fn mount(args: &RunArgs) -> Result<Mount> {
    let mut options = Vec::new();
    for (option, value) in [("--watch", &args.watch), ("--cache", &args.cache)] {
        options.extend(value.iter().flat_map(|value| [option, value]));
    }
    match args.path {
        Delivered::Mount => Mount::start_with(&options),
        Delivered::Agent => Mount::start_with_agent_and(&options),
        Delivered::Local => Mount::local(),
    }
}
