// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch thread: reads what the host's kernel reports about the known directories and hands it to
//! the engine. `share` decides what to mark, and the engine what a change means.
//!
//! What it reads from is a [`Backend`]: inotify, which reports every change in its order, or fanotify
//! for `--events all`, where inotify is not available, and on request. It reads as fast as it can, since
//! fanotify merges events that wait in its queue. In between it does what the engine asks for and what needs the
//! host's file system (`carry_out`): it looks up what an event needs before it can be sent (`look`), compares
//! contested entries (`check`), and rescans the directories of which events were dropped or that cannot be watched
//! (`rescan`), a piece at a time.
//!
//! This room knows the share as [`Intake`] only.

mod backend;
mod check;
mod fanotify;
mod inotify;
mod intake;
mod look;
mod passing;
mod rescan;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{HostChange, Input, Output};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

pub use self::backend::{Backend, Came, Marked, NotMarked, OwnCalls, Reader};
pub use self::fanotify::FanotifyBackend;
pub use self::inotify::InotifyBackend;
pub use self::intake::{Dropped, Intake, Observed};
use self::passing::{Passing, Queued};

/// How long reports are left in the kernel's queue after all that came were of this process's own calls: what others do
/// meanwhile is told so much later.
const OWN_PAUSE: Duration = Duration::from_micros(300);

/// The watch thread; stops when dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread. Does nothing when the share is not watched.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start<I: Intake + 'static>(intake: Arc<I>) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        let (stop, work) = (event()?, event()?);
        let thread = if intake.backend().is_some() {
            intake.watch_begins(Arc::clone(&work));
            let stop = Arc::clone(&stop);
            let run = move || {
                let _ended = Ended(&*intake);
                if let Some(backend) = intake.backend()
                    && let Err(error) = run(backend, &*intake, &stop, &work)
                {
                    tracing::error!(
                        %error,
                        backend = backend.name(),
                        "reading host events failed: no more events will be delivered; restart farwatch"
                    );
                }
            };
            Some(thread::Builder::new().name("watch".into()).spawn(run)?)
        } else {
            None
        };
        Ok(Self { stop, thread })
    }
}

/// Tells the share when the thread ends, in whichever way.
struct Ended<'a>(&'a dyn Intake);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.watch_ended();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // An eventfd that already counts is as good as one that counts now.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch thread panicked");
        }
    }
}

fn run(
    backend: &dyn Backend,
    intake: &dyn Intake,
    stop: &OwnedFd,
    work: &OwnedFd,
) -> io::Result<()> {
    let mut reader = backend.reader();
    let mut in_step = true;
    let mut patience = None;
    let mut came = Came::Other;
    loop {
        // A guest that writes has each write reported. While nothing else happens they are left to the kernel for a
        // moment, which makes one of those about the same file.
        let pauses = came == Came::OwnAlone;
        // For a descriptor that is opened from here on, the eventfd is written.
        let queues = if pauses { Vec::new() } else { backend.fds() };
        let mut fds: Vec<_> = [stop.as_fd(), work.as_fd()]
            .into_iter()
            .chain(queues.iter().map(|queue| (**queue).as_fd()))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let timeout = [patience, pauses.then_some(OWN_PAUSE)].into_iter().flatten().min();
        let timeout = timeout.and_then(|timeout: Duration| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [stopped, has_work] = [0, 1].map(|nth| fds[nth].revents().contains(PollFlags::IN));
        if stopped {
            return Ok(());
        }
        if has_work {
            // Whatever it counts, the engine is asked below.
            let _count = rustix::io::read(work, &mut [0; 8]);
        }
        came = reader.read(intake)?;
        let dropped = intake.dropped();
        if in_step && dropped.dirs > 0 {
            tracing::warn!(
                stale = dropped.dirs,
                forgotten = dropped.events,
                "events were dropped (backlog full, client far behind, or no agent attached): rescanning the directories concerned"
            );
            in_step = false;
        }
        intake.input(Input::ReadDone);
        let next = carry_out(intake, backend);
        let dropped = intake.dropped();
        if !in_step && dropped.dirs == 0 {
            tracing::info!(forgotten = dropped.events, "all rescans are done");
            in_step = true;
        }
        let next = [next, reader.poll_timeout()].into_iter().flatten().min();
        patience = next.map(|at| at.saturating_duration_since(Instant::now()));
    }
}

/// Does what the engine wants to have done, until that is to read again. Returns when to do so at the latest.
/// While the queue is being read, this sends what was handed in: the engine asks for nothing else then that takes
/// long.
fn carry_out(intake: &dyn Intake, backend: &dyn Backend) -> Option<Instant> {
    loop {
        match intake.poll_output() {
            Output::Look(wanted) => {
                let kind = look::kind_of(intake, backend, &wanted);
                intake.input(Input::Looked(wanted, kind));
            }
            Output::Wake => intake.wake_sinks(),
            Output::Rescan(rescan) => intake.input(rescan::run(intake, backend, &rescan)),
            Output::Check(check) => intake.input(check::run(intake, backend, check)),
            Output::Timeout(next) => return next,
        }
    }
}

/// Changes that are handed in without letting anybody else at the engine.
const HANDED_IN_MAX: usize = 512;

/// Hands changes in that were read at `read_at` or later, and sends what follows from them.
fn hand_in(intake: &dyn Intake, backend: &dyn Backend, read_at: Instant, changes: Vec<HostChange>) {
    let mut changes = changes.into_iter();
    while changes.len() > 0 {
        intake.take_in(&mut |_| Observed {
            changes: changes.by_ref().take(HANDED_IN_MAX).collect(),
            drained: None,
            read_at: Some(read_at),
        });
        carry_out(intake, backend);
    }
}

/// Everything that was read has been handed in: a barrier that was among it goes on.
fn passed(intake: &dyn Intake, backend: &dyn Backend, passing: &mut Passing) {
    let Some(barrier) = passing.handed_in() else { return };
    intake.input(Input::ReadUpTo(barrier));
    carry_out(intake, backend);
}

/// Whether something is mounted on an entry of a directory. Unknown before Linux 5.8.
pub(crate) fn is_mounted(dir: &OwnedFd, name: &CStr) -> bool {
    let mount_id = |name: &CStr| {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(dir, name, flags, StatxFlags::MNT_ID).ok()?;
        let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
        known.then_some(stat.stx_mnt_id)
    };
    mount_id(name).zip(mount_id(c"")).is_some_and(|(entry, dir)| entry != dir)
}

/// Before 1970 is as good as 1970: both are long ago.
fn time(stamp: StatxTimestamp) -> SystemTime {
    let secs = u64::try_from(stamp.tv_sec).unwrap_or(0);
    let since_epoch = Duration::new(secs, stamp.tv_nsec);
    SystemTime::UNIX_EPOCH.checked_add(since_epoch).unwrap_or(SystemTime::UNIX_EPOCH)
}
