// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The supervisor: starts a worker for each target, says how they are, and ends with them. A worker that was killed
//! is replaced at once: what the guest's kernel has cached is kept true by nobody else.
//!
//! It sleeps until something happens; while all is well, that is never.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{TimerfdClockId, TimerfdFlags};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::answer;
use super::worker::WELCOME;
use crate::Target;

/// How long workers have to end. One whose server is dead does not: then they are left behind.
const END_WAIT: Duration = Duration::from_millis(700);

/// A child and what it shares with us.
pub(super) struct Worker {
    /// The target as the user has named it.
    named: OsString,
    target: Target,
    child: Child,
    stdout: ChildStdout,
    /// Rings when the server has not answered for long.
    timer: OwnedFd,
    rang: Option<Instant>,
    is_welcome: bool,
}

/// What has become of a worker.
pub(super) enum News {
    /// It replays.
    Welcome,
    /// It has ended, and has said why.
    Ended,
    /// The server does not answer it.
    Stalled,
}

/// Runs until a signal ends it, which is a success; or the last worker has ended, or one could not
/// begin, which is none and has been told.
///
/// # Errors
/// When something else than a worker fails.
pub(super) fn run(targets: &[OsString], log: &str, timeout: Duration) -> anyhow::Result<ExitCode> {
    let signals = signals()?;
    let start = |target: &OsString| Worker::start(target, log, timeout);
    let mut workers = targets.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    while !workers.is_empty() {
        if !wait(&signals, &workers, None)? {
            notify(&[NotifyState::Stopping]);
            end(workers);
            return Ok(ExitCode::SUCCESS);
        }
        let mut at = 0;
        while let Some(worker) = workers.get_mut(at) {
            match worker.news(timeout)? {
                Some(News::Welcome) => {
                    worker.welcome()?;
                    if workers.iter().all(|worker| worker.is_welcome) {
                        notify(&[NotifyState::Ready]);
                    }
                    at += 1;
                }
                Some(News::Ended) if worker.was_lost()? => {
                    worker.replace(log, timeout)?;
                    at += 1;
                }
                Some(news) => {
                    let worker = workers.remove(at);
                    let began = worker.is_welcome;
                    worker.bury(&news, timeout);
                    if !began {
                        // Better told at once than found out later.
                        end(workers);
                        return Ok(ExitCode::FAILURE);
                    }
                }
                None => at += 1,
            }
        }
    }
    Ok(ExitCode::FAILURE)
}

/// A socket that the signals which end an agent can be read from.
pub(super) fn signals() -> anyhow::Result<UnixStream> {
    let (signals, raised) = UnixStream::pair().context("a socket")?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, raised.try_clone()?).context("a signal")?;
    }
    Ok(signals)
}

impl Worker {
    pub(super) fn start(target: &OsStr, log: &str, timeout: Duration) -> anyhow::Result<Self> {
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .context("a timer")?;
        let mut child = Command::new("/proc/self/exe")
            .args(["--worker", "--log", log])
            .args(["--server-timeout", &timeout.as_secs().to_string()])
            .arg("--")
            .arg(target)
            .stdin(Stdio::from(timer.try_clone()?))
            .stdout(Stdio::piped())
            .spawn()
            .context("/proc/self/exe cannot be started (is /proc mounted?)")?;
        let stdout = child.stdout.take().context("a pipe")?;
        let (named, target) = (target.to_owned(), Target::parse(target));
        Ok(Self { named, target, child, stdout, timer, rang: None, is_welcome: false })
    }

    /// Reads what there is to read, without waiting.
    pub(super) fn news(&mut self, timeout: Duration) -> anyhow::Result<Option<News>> {
        if self.has_rung()? {
            let now = Instant::now();
            let before = self.rang.replace(now);
            // The worker winds the timer whenever the server answers: two rings with no winding in
            // between are half of the timeout apart.
            if before.is_some_and(|before| now - before < timeout) {
                return Ok(Some(News::Stalled));
            }
        }
        let mut fds = [PollFd::new(&self.stdout, PollFlags::IN)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&none)).context("poll")? == 0 {
            return Ok(None);
        }
        let mut line = [0; WELCOME.len() + 1];
        let len = self.stdout.read(&mut line).context("a worker's output")?;
        if len == 0 {
            return Ok(Some(News::Ended));
        }
        self.is_welcome = true;
        Ok(Some(News::Welcome))
    }

    /// Says that it delivers events.
    pub(super) fn welcome(&self) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "events are delivered on {}", self.target)
            .and_then(|()| stdout.flush())
            .context("standard output")
    }

    /// Whether a signal has ended it while it delivered events. Called when its output has ended, so this does not
    /// wait for long.
    pub(super) fn was_lost(&mut self) -> anyhow::Result<bool> {
        Ok(self.is_welcome && self.child.wait().context("a worker")?.signal().is_some())
    }

    /// Puts another one in its place.
    pub(super) fn replace(&mut self, log: &str, timeout: Duration) -> anyhow::Result<()> {
        let target = &self.target;
        drop(writeln!(
            io::stderr(),
            "farwatch-agent: {target}: the worker was killed; starting another one"
        ));
        *self = Self::start(&self.named, log, timeout)?;
        Ok(())
    }

    fn has_rung(&self) -> anyhow::Result<bool> {
        match rustix::io::read(&self.timer, &mut [0; 8]) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno).context("a timer"),
        }
    }

    /// Says what has become of it.
    pub(super) fn bury(mut self, news: &News, timeout: Duration) {
        let target = &self.target;
        let said = match news {
            News::Stalled => {
                drop(self.child.kill());
                format!(
                    "{target}: the server has not answered for {} s: it is dead, and what it served \
                        with it. Restart the virtual machine, or mount again",
                    timeout.as_secs()
                )
            }
            News::Ended | News::Welcome => match self.child.wait() {
                // It has said why.
                Ok(status) if status.code().is_some() => return,
                Ok(status) => format!("{target}: the worker was killed ({status})"),
                Err(error) => format!("{target}: the worker is lost: {error}"),
            },
        };
        drop(writeln!(io::stderr(), "farwatch-agent: {said}"));
    }
}

impl Drop for Worker {
    /// A worker is killed, and cannot do it itself.
    fn drop(&mut self) {
        answer::forget(self.child.id());
    }
}

/// Waits until there is something to look at, of the workers or of `other`; false when it is a signal.
pub(super) fn wait<'a>(
    signals: &UnixStream,
    workers: impl IntoIterator<Item = &'a Worker>,
    other: Option<PollFd<'a>>,
) -> anyhow::Result<bool> {
    let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
    let of_workers =
        workers.into_iter().flat_map(|worker| [worker.stdout.as_fd(), worker.timer.as_fd()]);
    fds.extend(of_workers.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    fds.extend(other);
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(fds.first().is_some_and(|fd| fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
    }
}

/// Ends the workers. What was not replayed is told the next agent.
pub(super) fn end(workers: impl IntoIterator<Item = Worker>) {
    let mut workers: Vec<Worker> = workers.into_iter().collect();
    for worker in &mut workers {
        // It cannot have been reaped: nothing else waits for it.
        drop(worker.child.kill());
    }
    let until = Instant::now() + END_WAIT;
    for worker in &mut workers {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { continue };
        // The pipe is closed when the last thread of the worker is gone.
        let mut fds = [PollFd::new(&worker.stdout, PollFlags::HUP)];
        if matches!(poll(&mut fds, Some(&left)), Ok(1)) {
            drop(worker.child.wait());
        } else {
            tracing::warn!(target = %worker.target, "the server does not answer: a worker process cannot be ended");
        }
    }
}

/// Notifies systemd, if it has started this process.
pub(super) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "notifying systemd failed");
    }
}
