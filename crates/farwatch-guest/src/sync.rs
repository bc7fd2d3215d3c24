// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`sync()`]: waits until all that had happened on the host when it was called has been told in the
//! mount. It needs no rights but to read the directory, and no agent of its own: it asks the server.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use farwatch_proto::host::Ticket;
use farwatch_proto::wire::sync::{self, Answer, State};
use farwatch_sys::ioctl_sync;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

/// An answer that comes sooner is one of a server that could not wait.
const WAIT_MIN: Duration = Duration::from_millis(20);
/// How long to leave such a server alone.
const PAUSE: Duration = Duration::from_millis(5);

/// What the exit code is when the time was over.
const TIMED_OUT: u8 = 3;

/// What it is when directories are neither watched nor compared.
const UNWATCHED: u8 = 4;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// The mount point, or any file or directory of the mount that you may read
    #[arg(value_name = "MOUNT_POINT")]
    path: PathBuf,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

impl SyncArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub fn run(&self) -> Result<(), SyncError> {
        sync(&self.path, Duration::from_secs(self.timeout))
    }
}

/// Why nobody can say that all has been told. Each says what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The directory cannot be opened for reading.
    #[error("{} cannot be opened: name a directory of the mount that you may read", .0.display())]
    Open(PathBuf, #[source] Errno),
    /// Another file system, or another server.
    #[error(
        "{} is not on a farwatch mount: name a mount of `farwatch mount`, or in a virtual \
         machine a share that `farwatch serve` serves in place of virtiofsd", .0.display()
    )]
    NotFarwatch(PathBuf),
    /// There is no agent.
    #[error("no agent delivers events on {}: start `farwatch-agent` there", .0.display())]
    NoAgent(PathBuf),
    /// The host is not watched.
    #[error(
        "changes on the host of {} are not watched, so there are no events: see the server's \
         log, or run `farwatch doctor` there", .0.display()
    )]
    NotWatched(PathBuf),
    /// There is nothing to be told of any more.
    #[error(
        "the directory shared as {} has been deleted on the host; a new directory of the same \
         name is not shared: mount it again", .0.display()
    )]
    Deleted(PathBuf),
    /// The call failed.
    #[error("the server of {} does not answer", .0.display())]
    Call(PathBuf, #[source] Errno),
    /// It made no sense.
    #[error("the server's answer is malformed: use the same version of farwatch on both sides")]
    Answer,
    /// There are directories that the host cannot watch, and could not compare in time or at all.
    #[error(
        "{directories} director{} of {} cannot be watched, and could not be compared with the host in {} s, so what \
        happened there may not have been delivered: `farwatch status` on the host names some, and says what to do",
        if *directories == 1 { "y" } else { "ies" }, .path.display(), .waited.as_secs()
    )]
    Unwatched {
        /// What was asked about.
        path: PathBuf,
        /// How many.
        directories: u32,
        /// How long it was waited.
        waited: Duration,
    },
    /// The time was over.
    #[error("timed out after {} s: {}", .waited.as_secs(), lacks(*.state))]
    TimedOut {
        /// How long it was waited.
        waited: Duration,
        /// How far it was.
        state: State,
    },
}

impl SyncError {
    /// What the command ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TimedOut { .. } => TIMED_OUT,
            Self::Unwatched { .. } => UNWATCHED,
            Self::Open(..)
            | Self::NotFarwatch(_)
            | Self::NoAgent(_)
            | Self::NotWatched(_)
            | Self::Deleted(_)
            | Self::Call(..)
            | Self::Answer => 1,
        }
    }
}

fn lacks(state: State) -> &'static str {
    match state {
        State::Reached => "nothing pending",
        State::Unread => "the server has not read all changes of the host; see its log",
        State::Stale => {
            "directories of which events were dropped, or that cannot be watched, are still \
             being compared; see the server's log"
        }
        State::Sent => "the agent has not replayed everything yet; `--timeout` allows more time",
    }
}

/// Waits until all that had happened on the host when this was called has been told to who watches in
/// the mount that `path` lies in.
///
/// # Errors
/// See [`SyncError`].
pub fn sync(path: &Path, timeout: Duration) -> Result<(), SyncError> {
    let begun = Instant::now();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| SyncError::Open(path.to_owned(), errno))?;
    let mut ticket: Option<Ticket> = None;
    let mut asked_before = false;
    let mut state = State::Unread;
    let mut unwatched = 0;
    loop {
        let asked = Instant::now();
        let mut argument = sync::ask(ticket);
        match ioctl_sync(&file, &mut argument).map_err(|error| error.errno()) {
            Ok(()) => {
                let answer = Answer::decode(argument).ok_or(SyncError::Answer)?;
                if answer.state == State::Reached {
                    return reached(path, answer.unwatched, begun.elapsed());
                }
                (ticket, state) = (Some(answer.ticket), answer.state);
                unwatched = answer.unwatched;
            }
            // The agent is another one, or the machine is on another host: what is asked for now is
            // more than was asked for then.
            Err(Errno::STALE) => ticket = None,
            // It may be on its way.
            Err(Errno::NOTCONN) if asked_before && begun.elapsed() < timeout => ticket = None,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(error_of(path, errno)),
        }
        asked_before = true;
        let waited = begun.elapsed();
        if waited >= timeout {
            reached(path, if state == State::Stale { unwatched } else { 0 }, waited)?;
            return Err(SyncError::TimedOut { waited, state });
        }
        if asked.elapsed() < WAIT_MIN {
            thread::sleep(PAUSE);
        }
    }
}

/// All that was reported has been delivered. What is not watched has been compared, but for so many directories.
fn reached(path: &Path, unwatched: u32, waited: Duration) -> Result<(), SyncError> {
    match unwatched {
        0 => Ok(()),
        directories => Err(SyncError::Unwatched { path: path.to_owned(), directories, waited }),
    }
}

fn error_of(path: &Path, errno: Errno) -> SyncError {
    let path = path.to_owned();
    match errno {
        Errno::NOTTY | Errno::NOSYS => SyncError::NotFarwatch(path),
        Errno::NOTCONN => SyncError::NoAgent(path),
        Errno::OPNOTSUPP => SyncError::NotWatched(path),
        Errno::NOENT => SyncError::Deleted(path),
        errno => SyncError::Call(path, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_outside_a_farwatch_mount_is_refused_with_advice() {
        let error = sync(Path::new("/"), Duration::ZERO).unwrap_err();
        assert!(matches!(error, SyncError::NotFarwatch(_)), "{error}");
        assert!(error.to_string().contains("`farwatch serve`"), "{error}");
        let error = sync(Path::new("/does-not-exist"), Duration::ZERO).unwrap_err();
        assert!(matches!(error, SyncError::Open(..)), "{error}");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn directories_that_are_neither_watched_nor_compared_are_an_error_of_their_own() {
        const WAITED: Duration = Duration::from_secs(10);
        let reached = |unwatched| reached(Path::new("/mnt"), unwatched, WAITED);
        assert!(reached(0).is_ok());
        let error = reached(1).unwrap_err();
        assert!(error.to_string().starts_with("1 directory of /mnt cannot be watched"), "{error}");
        assert_eq!(error.exit_code(), UNWATCHED);
        assert!(reached(20).unwrap_err().to_string().contains("20 directories"));
    }

    #[test]
    fn timeout_names_the_pending_part() {
        let error = SyncError::TimedOut { waited: Duration::from_secs(10), state: State::Sent };
        assert!(error.to_string().starts_with("timed out after 10 s: the agent"));
        assert_eq!(error.exit_code(), TIMED_OUT);
    }
}
