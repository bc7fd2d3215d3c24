// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Monitor`]: the thread. It moves bytes between sockets and conversations, and waits for nothing but those.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::conversation::{Answers, Conversation, Language};
use super::listener::Listeners;
use super::metrics;
use super::protocol::{Answer, Reply, VERSION, parse};
use super::shared::Source;

/// The most connections at a time. One more takes the place of the one that has been quiet for longest.
const CONNECTIONS_MAX: usize = 16;
/// Read in one call.
const PIECE_LEN: usize = 4096;

/// The thread that answers; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Monitor {
    stop: Arc<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Connection {
    socket: OwnedFd,
    conversation: Conversation,
}

impl Monitor {
    /// Starts it, if there is something to listen on.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(listeners: Listeners, source: impl Source + 'static) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        if listeners.status.is_none() && listeners.metrics.is_none() {
            return Ok(Self { stop, thread: None });
        }
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("monitor".into()).spawn(move || {
            if let Err(error) = run(&listeners, &Answering(&source), &stopped) {
                tracing::error!(%error, "answering `farwatch status` failed");
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // An eventfd that already counts is as good as one that counts now.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the monitor thread panicked");
        }
    }
}

/// Takes what the source says for an answer.
struct Answering<'a>(&'a dyn Source);

impl Answers for Answering<'_> {
    fn reply(&self, line: &[u8]) -> Reply {
        let answer = parse(line).and_then(|ask| self.0.answer(ask)).unwrap_or_else(Answer::Error);
        Reply { version: VERSION, answer }
    }

    fn metrics(&self) -> String {
        metrics::text(&self.0.report(), self.0.latency().as_ref())
    }
}

fn run(listeners: &Listeners, answers: &dyn Answers, stop: &OwnedFd) -> io::Result<()> {
    let mut connections: Vec<Connection> = Vec::new();
    let listening: Vec<(&OwnedFd, Language)> = [
        (listeners.status.as_ref(), Language::Lines),
        (listeners.metrics.as_ref(), Language::Http),
    ]
    .into_iter()
    .filter_map(|(socket, language)| Some((socket?, language)))
    .collect();
    loop {
        let deadlines = connections.iter().filter_map(|one| one.conversation.deadline());
        let left = deadlines.min().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let ready = {
            let stop = PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN);
            let listening = listening.iter().map(|(socket, _)| PollFd::new(*socket, PollFlags::IN));
            let mut fds: Vec<_> = [stop].into_iter().chain(listening).collect();
            fds.extend(connections.iter().map(|one| PollFd::new(&one.socket, one.waits_for())));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>()
        };
        let now = Instant::now();
        if ready[0] {
            return Ok(());
        }
        let (new, old) = ready[1..].split_at(listening.len());
        let mut nth = 0;
        connections.retain_mut(|one| {
            let is_ready = old[nth];
            nth += 1;
            let is_open = !is_ready || one.go_on(now, answers);
            is_open && !one.conversation.is_over(now)
        });
        for ((socket, language), is_ready) in listening.iter().zip(new) {
            if *is_ready {
                accept(&mut connections, socket, *language, now);
            }
        }
    }
}

fn accept(connections: &mut Vec<Connection>, socket: &OwnedFd, language: Language, now: Instant) {
    // Who has gone again, or for whom there is no descriptor, gets none.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = accept_with(socket, flags) else { return };
    if connections.len() >= CONNECTIONS_MAX {
        let quiet = connections.iter().enumerate().min_by_key(|(_, one)| one.conversation.moved());
        if let Some((nth, _)) = quiet {
            connections.swap_remove(nth);
        }
    }
    connections.push(Connection { socket, conversation: Conversation::new(language, now) });
}

impl Connection {
    fn waits_for(&self) -> PollFlags {
        if self.conversation.output().is_empty() { PollFlags::IN } else { PollFlags::OUT }
    }

    /// Moves what can be moved now. `false` when the other side has gone.
    fn go_on(&mut self, now: Instant, answers: &dyn Answers) -> bool {
        if self.conversation.output().is_empty() {
            let mut piece = [0; PIECE_LEN];
            match rustix::io::read(&self.socket, &mut piece) {
                Ok(0) => return false,
                Ok(len) => self.conversation.read(now, &piece[..len], answers),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        // Most replies fit into the socket, which saves a poll.
        while !self.conversation.output().is_empty() {
            match rustix::io::write(&self.socket, self.conversation.output()) {
                Ok(len) => self.conversation.wrote(now, len, answers),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
