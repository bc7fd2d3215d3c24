// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line: parses it, runs the command, and reports an error.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use farwatch_guest::SyncArgs;

use crate::logging::Log;
use crate::options::{
    Defaults, LogArgs, LogFormat, LogLevel, MountArgs, MountHelperArgs, ServeArgs, StatusArgs,
    WatchArgs, apply_compat,
};
use crate::{doctor, logging, mount, mount_helper, serve, status};

/// File-change notification that works across a shared-directory mount.
///
/// When anything changes a file in the shared directory, programs that watch the mount with inotify
/// or fanotify get the kernel's own event: editors, dev servers, `inotifywait`, unchanged.
#[derive(Debug, Parser)]
#[command(name = "farwatch", version, propagate_version = true)]
#[command(after_help = "Examples:\n  \
    farwatch mount ~/src /srv/src      changes in ~/src raise events in /srv/src\n  \
    farwatch serve --socket /run/src.sock --shared-dir ~/src\n                                     \
    the same for a virtual machine, in place of virtiofsd\n  \
    farwatch sync /srv/src             wait until all changes so far are delivered there\n  \
    farwatch status                    show what is shared, and its problems\n  \
    farwatch watch /srv/src            print reports and deliveries there, as they happen\n  \
    farwatch top                       show the busiest shares and paths, updated\n  \
    farwatch doctor ~/src              check what this machine and directory support\n  \
    farwatch doctor /srv/src           check that changes on the host raise events there")]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Share a directory and mount it on this machine, with events
    ///
    /// Runs in the foreground. Unmounts and exits on Ctrl-C, SIGTERM or `umount MOUNT_POINT`.
    Mount(MountArgs),
    /// Share a directory with a virtual machine: a vhost-user-fs device, in place of virtiofsd
    #[command(override_usage = "farwatch serve --shared-dir PATH --socket PATH [OPTIONS]")]
    Serve(Box<ServeArgs>),
    /// Block until every change made on the host so far has been delivered in the mount
    ///
    /// Any user may run it. Exits with 3 on timeout, and with 4 if there are directories that the host cannot watch. In a
    /// virtual machine, use `farwatch-agent sync`.
    Sync(SyncArgs),
    /// Show every mount and every `serve` on this machine, with its activity and problems
    ///
    /// Shows those of other users only to root.
    Status(StatusArgs),
    /// Print the reports of the host about a path, the events delivered for them, and the delay
    ///
    /// Shows why a program did not notice a change. Ctrl-C ends it.
    Watch(WatchArgs),
    /// Show rates, queues and the busiest paths of every share, and keep them up to date
    ///
    /// Arrow keys choose a share; q ends it.
    Top,
    /// Check what this kernel and user support, or whether changes on the host raise events in a mount
    ///
    /// Problems come with a remedy. To test a mount, a directory `.farwatch-doctor-PID` is created, changed and removed on
    /// its host side. Exits with 1 if something is missing.
    Doctor {
        /// The directory to share, or a mount
        path: Option<PathBuf>,
        /// The directory that the mount shares, if `farwatch status` does not know it
        #[arg(long, value_name = "DIR", requires = "path")]
        shared_dir: Option<PathBuf>,
    },
}

/// Names under which the program acts as `farwatch serve` with virtiofsd's command line.
const VIRTIOFSD_NAMES: [&str; 2] = ["virtiofsd", "farwatch-virtiofsd"];

/// The name under which it is mount(8)'s helper for `-t farwatch`.
const MOUNT_HELPER_NAME: &str = "mount.farwatch";

/// Exit codes of mount(8).
const MOUNT_USAGE: u8 = 1;
const MOUNT_FAILURE: u8 = 32;

/// The environment variable that overrides `--log-level`, as in virtiofsd.
const VIRTIOFSD_LOG_VARIABLE: &str = "RUST_LOG";

/// Shares a directory with a virtual machine: a vhost-user-fs device with file-change notification,
/// in place of virtiofsd
#[derive(Debug, Parser)]
#[command(name = "virtiofsd", version, arg_required_else_help = true)]
#[command(override_usage = "virtiofsd --shared-dir PATH --socket-path PATH [OPTIONS]")]
struct Virtiofsd {
    #[command(flatten)]
    args: ServeArgs,
}

/// Runs the command given on the command line. An error is one sentence on standard error and exit code
/// 1; a usage error exits with 2.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(is_virtiofsd) {
        let mut args = Virtiofsd::parse().args;
        take_compat(&mut args, Virtiofsd::command());
        let chosen = args.compat.log_level.unwrap_or(LogLevel::Info);
        let log = std::env::var(VIRTIOFSD_LOG_VARIABLE);
        let log = log.unwrap_or_else(|_| chosen.filter().to_owned());
        return serve(&args, Defaults::Virtiofsd, LogArgs { log, log_format: LogFormat::Text });
    }
    if Path::new(&name).file_name().is_some_and(|name| name == MOUNT_HELPER_NAME) {
        return mount_helper();
    }
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(mut args) => {
            take_compat(&mut args, Cli::command());
            let log = match args.compat.log_level {
                Some(level) => LogArgs { log: level.filter().to_owned(), ..cli.log },
                None => cli.log,
            };
            return serve(&args, Defaults::Farwatch, log);
        }
        Command::Mount(args) => logged(&cli.log, args.syslog, || mount::run(args, &cli.log)),
        Command::Sync(args) => {
            return match args.run() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    fail(&error);
                    ExitCode::from(error.exit_code())
                }
            };
        }
        Command::Status(args) => {
            return match status::run(&args, &mut io::stdout().lock()) {
                Ok(outcome) => status_code(outcome),
                Err(error) => exit_code(unless_closed(error)),
            };
        }
        Command::Watch(args) => {
            status::watch(&args, &mut io::stdout().lock()).or_else(unless_closed)
        }
        Command::Top => status::top(),
        Command::Doctor { path, shared_dir } => {
            let (path, shared_dir) = (path.as_deref(), shared_dir.as_deref());
            return match doctor::run(path, shared_dir, &mut io::stdout().lock()) {
                Ok(doctor::Verdict::Missing) => ExitCode::FAILURE,
                Ok(_) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            };
        }
    };
    exit_code(result)
}

/// The definition of the command line of `farwatch`, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The definition of the command line of `mount.farwatch`.
#[must_use]
pub fn mount_helper_command() -> clap::Command {
    MountHelperArgs::command()
}

fn is_virtiofsd(name: &OsStr) -> bool {
    VIRTIOFSD_NAMES.iter().any(|known| name == *known)
}

/// Acts as mount(8)'s helper, with its exit codes.
fn mount_helper() -> ExitCode {
    let args = MountHelperArgs::try_parse().unwrap_or_else(|error| {
        let code = if error.use_stderr() { MOUNT_USAGE } else { 0 };
        drop(error.print());
        std::process::exit(code.into());
    });
    let request = match args.request() {
        Ok(request) => request,
        Err(error) => {
            drop(writeln!(io::stderr(), "mount.farwatch: {error}"));
            return ExitCode::from(MOUNT_USAGE);
        }
    };
    match mount_helper::run(&request) {
        Ok(mount_helper::Outcome::Mounted) => ExitCode::SUCCESS,
        Ok(mount_helper::Outcome::Failed) => ExitCode::from(MOUNT_FAILURE),
        Err(error) => {
            fail(&*Box::<dyn Error>::from(error));
            ExitCode::from(MOUNT_FAILURE)
        }
    }
}

/// Applies the `-o` options. An invalid one is a usage error.
fn take_compat(args: &mut ServeArgs, mut command: clap::Command) {
    if let Err(error) = apply_compat(args) {
        command.error(ErrorKind::InvalidValue, error).exit();
    }
}

fn serve(args: &ServeArgs, defaults: Defaults, mut log: LogArgs) -> ExitCode {
    if args.compat.print_capabilities {
        return exit_code(serve::print_capabilities(&mut io::stdout().lock()));
    }
    if args.compat.compat_debug {
        log.log = "debug".to_owned();
    }
    exit_code(logged(&log, args.compat.syslog, || serve::run(args, defaults)))
}

/// Starts the log and runs a command.
fn logged(
    log: &LogArgs,
    syslog: bool,
    run: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let log = logging::start(log, syslog).map_err(|error| anyhow::anyhow!("the log: {error}"))?;
    let result = run();
    if let (Err(error), Log::System) = (&result, log) {
        // Nobody may read standard error any more.
        tracing::error!("{error:#}");
    }
    result
}

fn status_code(outcome: status::Outcome) -> ExitCode {
    match outcome {
        status::Outcome::Healthy => ExitCode::SUCCESS,
        status::Outcome::Wrong => ExitCode::from(3),
        status::Outcome::Nothing => ExitCode::from(4),
    }
}

/// What reads standard output, such as head(1), may have had enough.
fn unless_closed(error: anyhow::Error) -> anyhow::Result<()> {
    let cause = error.downcast_ref::<io::Error>().map(io::Error::kind);
    if cause == Some(io::ErrorKind::BrokenPipe) { Ok(()) } else { Err(error) }
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*Box::<dyn Error>::from(error)),
    }
}

fn fail(error: &dyn Error) -> ExitCode {
    let mut text = format!("farwatch: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    // If standard error is closed, there is nowhere to report the error.
    drop(writeln!(io::stderr(), "{text}"));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_have_no_conflicting_definitions() {
        Cli::command().debug_assert();
        Virtiofsd::command().debug_assert();
    }
}
