// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watch thread: reads what the host's kernel reports about the known directories and gives it
//! to the engine. What to watch is decided by `share`, what it means by the engine.
//!
//! By fanotify, or by inotify where that cannot be had ([`Watch`]). It reads as fast as it can, since
//! the kernel merges events that wait in its queue. In between it lists the directories of which events were given up (`rescan`),
//! a piece at a time.

mod check;
mod fanotify;
mod groups;
mod inotify;
mod look;
mod observe;
mod passing;
mod rescan;

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{Hold, HostChange, put_right};
use farwatch_proto::{Fid, Mask};
use farwatch_sys::fanotify::{FAN_EVENT_ON_CHILD, FAN_ONDIR, FAN_RENAME, Fanotify, Level};
use farwatch_sys::handle;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

pub use self::groups::Groups;
pub(crate) use self::groups::Marked;
pub use self::inotify::Inotify;
use self::passing::Passing;
use crate::share::Share;

/// How changes on the host are seen.
#[derive(Debug)]
pub enum Watch {
    /// By a fanotify group, or several.
    Fanotify(Groups),
    /// By an inotify instance.
    Inotify(Inotify),
}

impl Watch {
    /// By a group that was opened, and what comes to it for these events.
    pub fn fanotify(group: Fanotify, events: Mask) -> Self {
        Self::Fanotify(Groups::new(group, events))
    }

    /// What is watched for. Never reads by inotify, which does not say whose they are.
    pub fn events(&self) -> Mask {
        match self {
            Self::Fanotify(groups) => groups.events(),
            Self::Inotify(_) => Mask::DEFAULT,
        }
    }

    /// The groups at this moment: the first, and whatever has come since.
    fn groups(&self) -> Vec<Arc<Fanotify>> {
        match self {
            Self::Fanotify(groups) => groups.all(),
            Self::Inotify(_) => Vec::new(),
        }
    }

    fn inotify_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Fanotify(_) => None,
            Self::Inotify(inotify) => Some(inotify.as_fd()),
        }
    }

    /// Whether both names of a rename can be told (S12, S13).
    pub fn pairs_renames(&self) -> bool {
        match self {
            Self::Fanotify(groups) => groups.first().level().rename,
            Self::Inotify(inotify) => inotify.joins(),
        }
    }

    /// How the object behind `fd` is known: as it will be reported, and by inotify, which reports
    /// nothing of it, as it can be told from others.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn fid(&self, fd: BorrowedFd<'_>) -> io::Result<Fid> {
        match self {
            Self::Fanotify(_) => handle::fid(fd).map_err(io::Error::other),
            Self::Inotify(inotify) => inotify.fid(fd),
        }
    }
}

/// What every known directory is marked with. The deletion or move of a directory itself is seen in
/// its parent.
pub(crate) fn mark_mask(level: Level, events: Mask) -> u64 {
    let moves = if level.rename { FAN_RENAME } else { Mask::MOVE.bits() };
    let entries = events.difference(Mask::MOVE);
    entries.bits() | moves | FAN_ONDIR | FAN_EVENT_ON_CHILD
}

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
    pub fn start(share: Arc<Share>) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        let (stop, work) = (event()?, event()?);
        let thread = if share.watch().is_some() {
            share.watch_begins(Arc::clone(&work));
            let stop = Arc::clone(&stop);
            let run = move || {
                let _ended = Ended(&share);
                if let Some(watch) = share.watch()
                    && let Err(error) = run(watch, &share, &stop, &work)
                {
                    tracing::error!(
                        %error,
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
struct Ended<'a>(&'a Share);

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
            tracing::error!("the watch thread had panicked");
        }
    }
}

fn run(watch: &Watch, share: &Share, stop: &OwnedFd, work: &OwnedFd) -> io::Result<()> {
    let mut reader = Reader::new(watch);
    let mut in_step = true;
    let mut patience = None;
    loop {
        // One that is opened from here on has the eventfd written.
        let groups = watch.groups();
        let watched = groups.iter().map(|group| group.as_fd()).chain(watch.inotify_fd());
        let mut fds: Vec<_> = [stop.as_fd(), work.as_fd()]
            .into_iter()
            .chain(watched)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let timeout = patience.and_then(|patience: Duration| Timespec::try_from(patience).ok());
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
        reader.read(share)?;
        let (stale, forgotten) = given_up(share);
        if in_step && stale > 0 {
            tracing::warn!(
                stale,
                forgotten,
                "single events were given up, since too much changed at once or the agent was away: \
                    the directories concerned are listed again"
            );
            in_step = false;
        }
        let listed = rescan::run(share);
        check::run(share);
        let more = share.lock().engine.to_read().is_some();
        let probed = share.lock().engine.poll_probes(Instant::now());
        if probed || listed || share.poll_look().is_some() {
            look::offer(share);
        }
        let (stale, forgotten) = given_up(share);
        if !in_step && stale == 0 {
            tracing::info!(forgotten, "no directory is stale any more");
            in_step = true;
        }
        patience = if listed || more {
            Some(Duration::ZERO)
        } else {
            let state = share.lock();
            let observer = state.observer.as_ref();
            let half_until = observer.and_then(|observer| observer.poll_timeout());
            let check_at = state.engine.check_timeout();
            let next = [state.engine.rescan_timeout(), check_at, half_until, reader.poll_timeout()];
            let next = next.into_iter().flatten().min();
            next.map(|at| at.saturating_duration_since(Instant::now()))
        };
    }
}

/// How many directories are stale, and how many single events have been given up.
fn given_up(share: &Share) -> (usize, u64) {
    let engine = &share.lock().engine;
    (engine.stale_len(), engine.events_forgotten())
}

/// The kernel's queues, and room for what is read.
struct Reader<'a> {
    queue: Queue<'a>,
    passing: Passing,
}

enum Queue<'a> {
    Fanotify(&'a Groups, Buffers),
    Inotify(&'a Inotify, Vec<MaybeUninit<u8>>),
}

/// For the first group, and for each of the others in turn.
struct Buffers {
    first: Vec<u8>,
    other: Vec<u8>,
    hold: Hold,
}

impl<'a> Reader<'a> {
    fn new(watch: &'a Watch) -> Self {
        let queue = match watch {
            Watch::Fanotify(groups) => {
                let [first, other] = [(); 2].map(|()| vec![0; fanotify::BUFFER_LEN]);
                Queue::Fanotify(groups, Buffers { first, other, hold: Hold::default() })
            }
            Watch::Inotify(inotify) => Queue::Inotify(inotify, inotify::buffer()),
        };
        Self { queue, passing: Passing::default() }
    }

    /// Hands in all that there is.
    fn read(&mut self, share: &Share) -> io::Result<()> {
        let passing = &mut self.passing;
        match &mut self.queue {
            Queue::Fanotify(groups, buf) => {
                read(groups, share, buf, passing)?;
                hand_in(share, buf.hold.handle_timeout(Instant::now()));
                Ok(())
            }
            Queue::Inotify(inotify, buf) => observe::read(inotify, share, buf, passing),
        }
    }

    /// When something is to be handed in though nothing is read.
    fn poll_timeout(&self) -> Option<Instant> {
        match &self.queue {
            Queue::Fanotify(_, buf) => buf.hold.poll_timeout(),
            Queue::Inotify(..) => None,
        }
    }
}

/// Whether something is mounted on an entry of a directory. It cannot be told before Linux 5.8.
pub(crate) fn is_mounted(dir: &OwnedFd, name: &CStr) -> bool {
    let mount = |name: &CStr| {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(dir, name, flags, StatxFlags::MNT_ID).ok()?;
        let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
        told.then_some(stat.stx_mnt_id)
    };
    mount(name).zip(mount(c"")).is_some_and(|(entry, dir)| entry != dir)
}

/// Before 1970 is as good as 1970: both are long ago.
fn time(stamp: StatxTimestamp) -> SystemTime {
    let secs = u64::try_from(stamp.tv_sec).unwrap_or(0);
    let since_epoch = Duration::new(secs, stamp.tv_nsec);
    SystemTime::UNIX_EPOCH.checked_add(since_epoch).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Reads that are put in order together. In the kernel's queue 128 events are merged at most, and one read
/// has room for some hundreds.
const READS_MAX: usize = 16;
/// Changes that are handed in without letting anybody else at the engine.
const HANDED_IN_MAX: usize = 512;

/// Hands in what the groups have to report, until there is no more.
///
/// What is read from the first one is handed in last: a subvolume, whose entries another group tells of,
/// is removed from a directory of the first, and nothing can be told of what is gone. What happened in
/// it before is in the other group's queue by then.
fn read(
    groups: &Groups,
    share: &Share,
    buf: &mut Buffers,
    passing: &mut Passing,
) -> io::Result<()> {
    let own_pid = i32::try_from(std::process::id()).unwrap_or(-1);
    let mut changes = Vec::new();
    let mut reads = 0;
    loop {
        let now = SystemTime::now();
        // Whatever a group that is missing here reports will have happened after `now`.
        let groups = groups.all();
        let Some((first, others)) = groups.split_first() else { return Ok(()) };
        // The others are read to their ends.
        passing.begin(share, || first.queued());
        let first = first.read(&mut buf.first)?;
        let mut drained = first == 0;
        for group in others {
            loop {
                let len = group.read(&mut buf.other)?;
                if len == 0 {
                    break;
                }
                drained = false;
                let events = buf.other.get(..len).unwrap_or_default();
                changes.extend(fanotify::changes(events, own_pid));
            }
        }
        let events = buf.first.get(..first).unwrap_or_default();
        if passing.counts() {
            passing.read(fanotify::count(events));
        }
        changes.extend(fanotify::changes(events, own_pid));
        reads += 1;
        if drained || reads >= READS_MAX {
            put_right(&mut changes);
            let observed = std::mem::take(&mut changes);
            hand_in(share, buf.hold.handle(Instant::now(), observed));
            reads = 0;
            if drained {
                passing.drained();
                share.lock().engine.handle_drained(now);
            }
            if passing.passes() {
                // An OPEN waits for what says how the file was opened; a barrier for nothing.
                let held = buf.hold.handle_timeout(Instant::now() + Hold::WAIT_MAX);
                hand_in(share, held);
            }
            passed(share, passing);
        }
        if drained {
            return Ok(());
        }
    }
}

fn hand_in(share: &Share, changes: Vec<HostChange>) {
    let mut changes = changes.into_iter();
    while changes.len() > 0 {
        let news = {
            let mut state = share.lock();
            for change in changes.by_ref().take(HANDED_IN_MAX) {
                tracing::trace!(?change, "observed");
                state.engine.handle_change(change);
            }
            state.engine.has_next()
        };
        if news {
            look::offer(share);
        }
    }
}

/// All that was read has been handed in: a barrier that was among it goes on.
fn passed(share: &Share, passing: &mut Passing) {
    let Some(barrier) = passing.handed_in() else { return };
    let news = {
        let engine = &mut share.lock().engine;
        engine.handle_read(barrier);
        engine.poll_probes(Instant::now()) || engine.has_next()
    };
    if news {
        look::offer(share);
    }
}
