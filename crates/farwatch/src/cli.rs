// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line: what a person can ask for, and how an error is told.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use farwatch_guest::SyncArgs;

use crate::options::{Defaults, LOG_VARIABLE, MountArgs, ServeArgs, apply_compat};
use crate::{doctor, logging, mount, serve};

/// File-change notification that works across a shared-directory mount.
///
/// When anything changes a file in the shared directory, programs that watch the mount with inotify
/// or fanotify get the kernel's own event: editors, dev servers, `inotifywait`, unchanged.
#[derive(Debug, Parser)]
#[command(name = "farwatch", version, propagate_version = true)]
#[command(after_help = "Examples:\n  \
    farwatch mount ~/src /mnt/src      changes in ~/src are events in /mnt/src\n  \
    farwatch serve --socket /run/src.sock --shared-dir ~/src\n                                     \
    the same for a virtual machine, in place of virtiofsd\n  \
    farwatch sync /mnt/src             wait until all changes so far have been told there\n  \
    farwatch doctor ~/src              what this machine and directory can do")]
struct Cli {
    /// What to log, to standard error: error, warn, info, debug, trace, or a filter such as
    /// `warn,farwatch::watch=debug`
    #[arg(long, global = true, value_name = "FILTER", env = LOG_VARIABLE, default_value = "warn")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Share a directory and mount it on this machine, with events
    ///
    /// Stays in the foreground. Ends, and unmounts, on Ctrl-C, SIGTERM or `umount MOUNT_POINT`.
    Mount(MountArgs),
    /// Share a directory with a virtual machine: a vhost-user-fs device, in place of virtiofsd
    #[command(override_usage = "farwatch serve --shared-dir PATH --socket PATH [OPTIONS]")]
    Serve(Box<ServeArgs>),
    /// Wait until all that has happened on the host up to now has been told in a mount
    ///
    /// Then whoever watches there has every event. Any user may ask. Exit code 3 says that the time was
    /// over. In a virtual machine `farwatch-agent sync` is the same.
    Sync(SyncArgs),
    /// Say what this kernel and user can do, and what to do about what they cannot
    Doctor {
        /// The directory that is to be shared
        directory: Option<PathBuf>,
    },
}

/// The names under which the program is `farwatch serve`, with the command line of virtiofsd.
const VIRTIOFSD_NAMES: [&str; 2] = ["virtiofsd", "farwatch-virtiofsd"];

/// What virtiofsd reads instead of `--log-level`.
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

/// Runs the command that the process was given. An error is one sentence on standard error, and exit
/// code 1; wrong usage is 2.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(is_virtiofsd) {
        let mut args = Virtiofsd::parse().args;
        take_compat(&mut args, Virtiofsd::command());
        let chosen = args.compat.log_level.map(|level| level.to_string());
        let log = std::env::var(VIRTIOFSD_LOG_VARIABLE).ok().or(chosen);
        return serve(&args, Defaults::Virtiofsd, log.as_deref().unwrap_or("info"));
    }
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(mut args) => {
            take_compat(&mut args, Cli::command());
            let chosen = args.compat.log_level.map(|level| level.to_string());
            return serve(&args, Defaults::Farwatch, chosen.as_deref().unwrap_or(&cli.log));
        }
        Command::Mount(args) => logged(&cli.log, false, || mount::run(args, &cli.log)),
        Command::Sync(args) => {
            return match args.run() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    fail(&error);
                    ExitCode::from(error.exit_code())
                }
            };
        }
        Command::Doctor { directory } => {
            return match doctor::run(directory.as_deref(), &mut io::stdout().lock()) {
                Ok(doctor::Verdict::Missing) => ExitCode::FAILURE,
                Ok(_) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            };
        }
    };
    exit_code(result)
}

fn is_virtiofsd(name: &OsStr) -> bool {
    VIRTIOFSD_NAMES.iter().any(|known| name == *known)
}

/// Reads the `-o` options. A wrong one is wrong usage.
fn take_compat(args: &mut ServeArgs, mut command: clap::Command) {
    if let Err(error) = apply_compat(args) {
        command.error(ErrorKind::InvalidValue, error).exit();
    }
}

fn serve(args: &ServeArgs, defaults: Defaults, log: &str) -> ExitCode {
    if args.compat.print_capabilities {
        return exit_code(serve::print_capabilities(&mut io::stdout().lock()));
    }
    let log = if args.compat.compat_debug { "debug" } else { log };
    exit_code(logged(log, args.compat.syslog, || serve::run(args, defaults)))
}

/// Runs a command whose log goes somewhere.
fn logged(
    filter: &str,
    syslog: bool,
    run: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    logging::start(filter, syslog).map_err(|error| anyhow::anyhow!("the log: {error}"))?;
    run()
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
        Virtiofsd::command().debug_assert();
    }
}
