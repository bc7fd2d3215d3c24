// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line: what a person can ask for, and how an error is told.

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{doctor, mount, serve};

/// The environment variable that says what to log when `--log` does not.
pub(crate) const LOG_VARIABLE: &str = "FARWATCH_LOG";

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
    Serve(ServeArgs),
    /// Say what this kernel and user can do, and what to do about what they cannot
    Doctor {
        /// The directory that is to be shared
        directory: Option<PathBuf>,
    },
}

/// Arguments of `farwatch mount`.
#[derive(Debug, Args)]
#[command(override_usage = "farwatch mount [OPTIONS] SHARED_DIR MOUNT_POINT\n       \
    farwatch mount [OPTIONS] --socket PATH MOUNT_POINT")]
pub(crate) struct MountArgs {
    /// The directory to share, unless --socket says what to mount; and the directory to mount it on
    #[arg(value_names = ["SHARED_DIR", "MOUNT_POINT"], num_args = 1..=2, required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Mount the device that listens on this socket: `farwatch serve`, or virtiofsd, which has no
    /// events
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Buffers in the notification queue
    #[arg(long, value_name = "N", default_value_t = 64, hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) notification_buffers: u16,
    /// Deliver no events: leave that to a farwatch-agent of its own
    #[arg(long, hide = true)]
    pub(crate) no_agent: bool,
    #[command(flatten)]
    pub(crate) sharing: SharingArgs,
}

/// Arguments of `farwatch serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Listen on this socket; one that is there already is replaced
    #[arg(long, value_name = "PATH", required_unless_present = "fd")]
    pub(crate) socket: Option<PathBuf>,
    /// Listen on this inherited descriptor
    #[arg(long, value_name = "N", conflicts_with = "socket")]
    pub(crate) fd: Option<RawFd>,
    /// The directory to share
    #[arg(long, value_name = "PATH")]
    pub(crate) shared_dir: PathBuf,
    /// The name under which a guest mounts the share: at most 36 bytes
    #[arg(long, default_value = "farwatch")]
    pub(crate) tag: String,
    /// End when the client disconnects, instead of waiting for the next
    #[arg(long)]
    pub(crate) once: bool,
    /// Show mounts below the shared directory as part of it, not as mounts of their own
    #[arg(long)]
    no_announce_submounts: bool,
    #[command(flatten)]
    pub(crate) sharing: SharingArgs,
}

impl ServeArgs {
    /// Whether the client is told of mounts below the shared directory.
    pub(crate) fn announce_submounts(&self) -> bool {
        !self.no_announce_submounts
    }
}

/// How a directory is shared, the same for both commands.
#[derive(Debug, Args)]
pub(crate) struct SharingArgs {
    /// What the client may cache: with `never` every access asks the host
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Cache::Auto)]
    pub(crate) cache: Cache,
    /// Do not share extended attributes
    #[arg(long)]
    pub(crate) no_xattr: bool,
    /// Request queues of the device, each with a thread
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(crate) request_queues: u16,
    /// The most events that wait for a slow client before single events are given up
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) backlog_events_max: Option<usize>,
}

/// `--cache` of virtiofsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cache {
    /// Nothing
    Never,
    /// For one second, and file data until the file has changed
    Auto,
    /// For a day: for a directory that changes only through this mount, or is watched in it
    Always,
}

/// Runs the command that the process was given. An error is one sentence on standard error, and exit
/// code 1; wrong usage is 2.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_logging(&cli.log) {
        return fail(&*error);
    }
    let result = match cli.command {
        Command::Mount(args) => mount::run(args, &cli.log),
        Command::Serve(args) => serve::run(&args),
        Command::Doctor { directory } => {
            return match doctor::run(directory.as_deref(), &mut io::stdout().lock()) {
                Ok(doctor::Verdict::Missing) => ExitCode::FAILURE,
                Ok(_) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            };
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*Box::<dyn Error>::from(error)),
    }
}

fn start_logging(filter: &str) -> Result<(), Box<dyn Error>> {
    // The libraries speak of what the guest does wrong, at any level; that is no news.
    let filter = EnvFilter::try_new(format!("{filter},virtiofsd=off,vhost_user_backend=off"))?;
    tracing_log::LogTracer::init()?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    tracing::subscriber::set_global_default(subscriber.finish())?;
    Ok(())
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
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
