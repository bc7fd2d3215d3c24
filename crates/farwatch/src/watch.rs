// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch thread: reads what the host's kernel reports about the known directories and gives it
//! to the engine. What to mark is decided by `share`, what it means by the engine.
//!
//! It reads as fast as it can, since the kernel merges events that wait in its queue, and merging
//! loses their order.

mod fanotify;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use farwatch_proto::Mask;
use farwatch_sys::fanotify::{FAN_EVENT_ON_CHILD, FAN_ONDIR, FAN_RENAME, Fanotify, Level};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::share::Share;

/// What every known directory is marked with. The deletion or move of a directory itself is seen in
/// its parent.
pub(crate) fn mark_mask(level: Level) -> u64 {
    let moves = if level.rename { FAN_RENAME } else { Mask::MOVE.bits() };
    let entries = Mask::CREATE | Mask::DELETE | Mask::CONTENT;
    entries.bits() | moves | FAN_ONDIR | FAN_EVENT_ON_CHILD
}

/// The watch thread; stops when dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread. `deliver` is called, without any lock, when the engine has something new.
    /// Does nothing when the share has no fanotify group.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(share: Arc<Share>, deliver: impl Fn() + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let thread = if share.fanotify().is_some() {
            let stop = Arc::clone(&stop);
            let run = move || {
                if let Some(group) = share.fanotify()
                    && let Err(error) = run(group, &share, &stop, &deliver)
                {
                    tracing::error!(%error, "the host's changes cannot be read any more: restart");
                }
            };
            Some(thread::Builder::new().name("watch".into()).spawn(run)?)
        } else {
            None
        };
        Ok(Self { stop, thread })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // An eventfd that already counts is as good as one that counts now.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch thread had panicked");
        }
    }
}

fn run(group: &Fanotify, share: &Share, stop: &OwnedFd, deliver: &impl Fn()) -> io::Result<()> {
    let own_pid = i32::try_from(std::process::id()).unwrap_or(-1);
    let mut buf = vec![0; fanotify::BUFFER_LEN];
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(group.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[1].revents().contains(PollFlags::IN) {
            return Ok(());
        }
        loop {
            let len = group.read(&mut buf)?;
            if len == 0 {
                break;
            }
            let read = buf.get(..len).unwrap_or_default();
            let news = {
                let mut state = share.lock();
                for change in fanotify::changes(read, own_pid) {
                    tracing::trace!(?change, "observed");
                    state.engine.handle_change(change);
                }
                state.engine.has_next()
            };
            if news {
                deliver();
            }
        }
    }
}
