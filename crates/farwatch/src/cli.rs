// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line: what a person can ask for, and how an error is told.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use farwatch_proto::Mask;

use farwatch_guest::SyncArgs;

use crate::serve::options::{Defaults, ServeArgs};
use crate::serve::{self, compat};
use crate::{doctor, logging, mount};

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

/// How a directory is shared, the same for both commands.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub(crate) struct SharingArgs {
    /// What the client may cache: with `never` every access asks the host
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Cache::Auto)]
    #[arg(ignore_case = true)]
    pub(crate) cache: Cache,
    /// How to see changes on the host. `auto` is fanotify, or inotify where the kernel or the file
    /// system has no fanotify that names files
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = WatchBackend::Auto)]
    pub(crate) watch: WatchBackend,
    /// Which events programs can have. `all` costs a notification for each file that is read on the
    /// host, and several requests of the guest
    #[arg(long, value_name = "EVENTS", value_enum, default_value_t = Events::Changes)]
    pub(crate) events: Events,
    /// With inotify: tell a rename as two events that have nothing to do with each other, without a
    /// wait for the second
    #[arg(long)]
    pub(crate) no_join_renames: bool,
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

impl SharingArgs {
    /// The options that parse to `self`, every one spelled out. `farwatch mount` passes them to the
    /// `farwatch serve` that it starts.
    pub(crate) fn to_args(&self) -> Vec<String> {
        // No `..`: a new option does not compile before it is passed on here.
        let Self {
            cache,
            watch,
            events,
            no_join_renames,
            no_xattr,
            request_queues,
            backlog_events_max,
        } = self;
        let mut args = vec![
            format!("--cache={}", value_name(cache)),
            format!("--watch={}", value_name(watch)),
            format!("--events={}", value_name(events)),
            format!("--request-queues={request_queues}"),
        ];
        args.extend(no_join_renames.then(|| "--no-join-renames".to_owned()));
        args.extend(no_xattr.then(|| "--no-xattr".to_owned()));
        args.extend(backlog_events_max.map(|max| format!("--backlog-events-max={max}")));
        args
    }
}

/// How a value is written on the command line.
fn value_name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value().expect("no value is hidden from the command line");
    value.get_name().to_owned()
}

impl Events {
    /// The events themselves.
    pub(crate) fn mask(self) -> Mask {
        match self {
            Self::Changes => Mask::DEFAULT,
            Self::All => Mask::DEFAULT | Mask::READS,
        }
    }
}

/// `--watch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WatchBackend {
    /// fanotify where it works, else inotify
    Auto,
    /// fanotify alone
    Fanotify,
    /// inotify alone
    Inotify,
}

/// `--events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Events {
    /// What changes: CREATE, MODIFY, ATTRIB, CLOSE_WRITE, DELETE and renames
    Changes,
    /// Reads too: OPEN, ACCESS and CLOSE_NOWRITE. Needs fanotify
    All,
}

/// `--cache` of virtiofsd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cache {
    /// Nothing
    Never,
    /// Names and attributes for a day, and no file data
    Metadata,
    /// For one second, and file data until the file has changed
    Auto,
    /// For a day: for a directory that changes only through this mount, or is watched in it
    Always,
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
    if let Err(error) = compat::apply(args) {
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        Virtiofsd::command().debug_assert();
    }

    /// Every combination of values, with some numbers for those that have a range.
    fn all_sharing_args() -> Vec<SharingArgs> {
        let mut all = vec![SharingArgs {
            cache: Cache::Auto,
            watch: WatchBackend::Auto,
            events: Events::Changes,
            no_join_renames: false,
            no_xattr: false,
            request_queues: 1,
            backlog_events_max: None,
        }];
        all = vary(&all, Cache::value_variants(), |args| &mut args.cache);
        all = vary(&all, WatchBackend::value_variants(), |args| &mut args.watch);
        all = vary(&all, Events::value_variants(), |args| &mut args.events);
        all = vary(&all, &[false, true], |args| &mut args.no_join_renames);
        all = vary(&all, &[false, true], |args| &mut args.no_xattr);
        all = vary(&all, &[1, 2, 8], |args| &mut args.request_queues);
        vary(&all, &[None, Some(0), Some(usize::MAX)], |args| &mut args.backlog_events_max)
    }

    /// Each of `all` with each of `values` in one field.
    fn vary<T: Clone>(
        all: &[SharingArgs],
        values: &[T],
        field: fn(&mut SharingArgs) -> &mut T,
    ) -> Vec<SharingArgs> {
        let with = |mut args: SharingArgs, value: &T| {
            *field(&mut args) = value.clone();
            args
        };
        all.iter().flat_map(|args| values.iter().map(move |v| with(args.clone(), v))).collect()
    }

    #[test]
    fn sharing_args_turned_into_a_command_line_parse_to_the_same() {
        let all = all_sharing_args();
        assert_eq!(all.len(), 4 * 3 * 2 * 2 * 2 * 3 * 3);
        for sharing in all {
            let fixed = ["virtiofsd", "--fd=0", "--shared-dir=/srv"].map(str::to_owned);
            let line = fixed.into_iter().chain(sharing.to_args());
            let parsed = Virtiofsd::try_parse_from(line).unwrap();
            assert_eq!(parsed.args.sharing, sharing);
        }
    }

    #[test]
    fn the_arguments_of_sharing_args_are_all_of_its_options() {
        let all = all_sharing_args();
        let written: BTreeSet<String> = all
            .iter()
            .flat_map(SharingArgs::to_args)
            .filter_map(|arg| arg.split('=').next().map(str::to_owned))
            .collect();
        let command = SharingArgs::augment_args(clap::Command::new("options"));
        let options: BTreeSet<String> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .map(|long| format!("--{long}"))
            .collect();
        assert_eq!(written, options);
    }
}
