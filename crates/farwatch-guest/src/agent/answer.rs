// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker's answer to `farwatch-agent status`, and the asking. Whoever connects is given a text that is made of what is in
//! memory, and the connection ends: there is nothing to wait for.

use std::fs::DirBuilder;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use farwatch_sys::status_socket::{DIR_VARIABLE, SYSTEM_DIR, bind_own};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::state::State;
use crate::{Progress, announcement, seconds};

/// What sockets of agents end with.
const EXTENSION: &str = "agent";
/// How long a worker may take to answer, of which one thread does nothing else.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The longest answer.
const TEXT_LEN_MAX: u64 = 64 << 10;

/// What the two threads of a worker share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) progress: Progress,
    /// Microseconds since 1970, or 0 for never.
    since: AtomicU64,
    answered: AtomicU64,
}

impl Shared {
    /// Events are delivered from now on.
    pub(super) fn attached(&self) {
        self.since.store(now_us(), Ordering::Relaxed);
        self.answered();
    }

    /// The link has ended; another one is looked for.
    pub(super) fn detached(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// The server has answered.
    pub(super) fn answered(&self) {
        self.answered.store(now_us(), Ordering::Relaxed);
    }

    fn state(&self, target: &str) -> State {
        let time = |time: &AtomicU64| {
            let us = time.load(Ordering::Relaxed);
            (us > 0).then(|| Duration::from_micros(us).as_secs_f64())
        };
        State {
            target: target.to_owned(),
            pid: std::process::id(),
            since: time(&self.since),
            answered: time(&self.answered),
            report: self.progress.report(),
            last_error: self.progress.last_error().map(|(at, error)| (seconds(at), error)),
        }
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn dir() -> PathBuf {
    std::env::var_os(DIR_VARIABLE).map_or_else(|| SYSTEM_DIR.into(), PathBuf::from)
}

/// The socket of a worker.
fn socket(pid: u32) -> PathBuf {
    dir().join(format!("agent-{pid}.{EXTENSION}"))
}

/// Binds the socket of this process.
///
/// # Errors
/// When there is no place for it.
pub(super) fn listen() -> io::Result<OwnedFd> {
    match DirBuilder::new().mode(0o755).create(dir()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    bind_own(&socket(std::process::id()))
}

/// Removes the socket of a worker that has ended, and what it has announced.
pub(super) fn forget(pid: u32) {
    announcement::forget_dead();
    // It may have had none.
    drop(std::fs::remove_file(socket(pid)));
}

/// Answers until `ended` is closed by the other side.
///
/// # Errors
/// Those of `poll(2)`.
pub(super) fn serve(
    listener: &OwnedFd,
    ended: &UnixStream,
    shared: &Shared,
    target: &str,
) -> io::Result<()> {
    loop {
        let mut fds =
            [ended.as_fd(), listener.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        if let Ok(connection) = accept_with(listener, flags) {
            // It fits into an empty socket; who has gone again needs none.
            let text = shared.state(target).encode();
            let _written = rustix::io::write(&connection, text.as_bytes());
        }
    }
}

/// What the workers on this machine say, and how many sockets are not for this user. Those at which nobody listens are
/// removed.
pub(super) fn ask_all() -> (Vec<State>, usize) {
    let (mut states, mut closed) = (Vec::new(), 0);
    let entries = std::fs::read_dir(dir()).into_iter().flatten().filter_map(Result::ok);
    let mut sockets: Vec<_> = entries.map(|entry| entry.path()).collect();
    sockets.retain(|path| path.extension() == Some(EXTENSION.as_ref()));
    sockets.sort();
    for socket in sockets {
        match ask(&socket) {
            Ok(state) => states.push(state),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => closed += 1,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Another may remove it at the same time.
                drop(std::fs::remove_file(&socket));
            }
            Err(error) => {
                let target = format!("{}: {error}", socket.display());
                states.push(State { target, ..State::default() });
            }
        }
    }
    (states, closed)
}

fn ask(socket: &Path) -> io::Result<State> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut text = String::new();
    stream.take(TEXT_LEN_MAX).read_to_string(&mut text)?;
    Ok(State::decode(&text))
}
