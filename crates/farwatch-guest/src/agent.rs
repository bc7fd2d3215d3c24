// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program `farwatch-agent`: runs in a guest with a stock kernel, and raises there the events of what happens
//! on the host.
//!
//! The process that is started supervises (`supervisor`), a child of it for each target replays
//! (`worker`): when a server dies, a thread that waits for it cannot be ended by anything, and a
//! process with such a thread cannot tell anybody that it has failed.

mod answer;
mod everywhere;
mod mounts;
mod state;
mod status;
mod supervisor;
mod worker;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::{SyncArgs, Target};

/// Raise events in the shares of a virtual machine for changes made on the host
///
/// Run it as root in a virtual machine whose share is served by `farwatch serve`. Programs that watch
/// the mount with inotify or fanotify then receive the kernel's own events for changes made on the host.
/// Stays in the foreground; exits on Ctrl-C or SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "farwatch-agent", version)]
#[command(after_help = "Examples:\n  \
    farwatch-agent /srv/src       the virtiofs that is mounted there\n  \
    farwatch-agent src            the one with this tag, mounted or not\n  \
    farwatch-agent /srv/src data  both\n  \
    farwatch-agent --all          every virtiofs, as it is mounted\n  \
    farwatch-agent status         what it is attached to, and what it has done\n  \
    farwatch-agent sync /srv/src  wait until everything has been delivered there; does not need root")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(disable_help_subcommand = true)]
struct Cli {
    /// A directory of a mounted share, or the tag of a share, which need not be mounted
    #[arg(value_name = "DIRECTORY|TAG", required_unless_present = "all", conflicts_with = "all")]
    targets: Vec<OsString>,
    /// Serve every virtiofs that is mounted, now or later, until it is unmounted. Shares without a farwatch server are
    /// left alone
    #[arg(long)]
    all: bool,
    /// The type of the mounts that --all serves
    #[arg(long, value_name = "TYPE", default_value = "virtiofs", hide = true)]
    fs_type: String,
    /// Take the server for dead after this time without an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(2..=86_400))]
    server_timeout: u64,
    /// What to log, to standard error: error, warn, info, debug, trace, or a filter such as
    /// `warn,farwatch_guest=debug`
    #[arg(long, value_name = "FILTER", env = "FARWATCH_LOG", default_value = "warn")]
    log: Targets,
    /// Work on one target, as the child of an agent
    #[arg(long, hide = true)]
    worker: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Block until every change made on the host so far has been delivered in the mount
    ///
    /// Any user may run it; an agent must be running. Exits with 3 on timeout, and with 4 if there are directories that
    /// the host cannot watch. To name a tag `sync`, put it after `--`.
    Sync(SyncArgs),
    /// Show the shares that agents on this machine serve, since when, and what they have replayed
    ///
    /// Needs root. Exit codes: 0 no problem, 3 a problem, 4 no agent runs. To name a tag `status`, put it after `--`.
    Status,
}

/// Runs the command that the process was given. An error is one sentence on standard error, and exit
/// code 1; wrong usage is 2.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Sync(args)) = &cli.command {
        return match args.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let code = error.exit_code();
                fail(&error.into());
                ExitCode::from(code)
            }
        };
    }
    if let Some(Command::Status) = &cli.command {
        return status::run().unwrap_or_else(|error| fail(&error));
    }
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    // Of a line that cannot be written it would say so on standard error, and panic where that is what failed.
    let format = format.log_internal_errors(false);
    tracing_subscriber::registry().with(cli.log.clone()).with(format).init();
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!(%error, "prctl(PR_SET_NO_NEW_PRIVS)");
    }
    let timeout = Duration::from_secs(cli.server_timeout);
    let result = match (cli.worker, &*cli.targets) {
        (true, [target]) => {
            worker::run(&Target::parse(target), timeout).map(|()| ExitCode::SUCCESS)
        }
        (false, _) if cli.all => everywhere::run(&cli.fs_type, &cli.log.to_string(), timeout),
        _ => supervisor::run(&cli.targets, &cli.log.to_string(), timeout),
    };
    result.unwrap_or_else(|error| fail(&error))
}

/// The definition of the command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let mut text = format!("farwatch-agent: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    // There is nobody left to tell when standard error is closed.
    drop(writeln!(io::stderr(), "{text}"));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
