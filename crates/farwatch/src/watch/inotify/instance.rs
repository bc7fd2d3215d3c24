// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Instance`]: an inotify instance, one watch for each directory, and what it reports.
//!
//! What the reports mean is decided by `farwatch_proto::host::inotify`.

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::SystemTime;

use farwatch_proto::host::inotify::{Report, WatchId};
use farwatch_proto::{Cookie, Fid, Mask, Name};
use farwatch_sys::{handle, thread};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, inotify};
use rustix::io::Errno;

use crate::watch::time;

/// What every known directory is watched for. The deletion or move of a directory itself is seen in
/// its parent.
const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ONLYDIR);

/// Room for some hundreds of reports a read.
const BUFFER_LEN: usize = 64 << 10;

thread_local! {
    /// Whether this thread has a working directory of its own.
    static OWN_DIRECTORY: Cell<bool> = const { Cell::new(false) };
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Instance {
    fd: Arc<OwnedFd>,
    /// Where a thread goes back to.
    home: OwnedFd,
    /// Objects are known by their file handles, where they have such.
    handles: bool,
}

impl Instance {
    /// Opens an instance. Without `handles` objects are identified by their inode numbers.
    ///
    /// # Errors
    /// EMFILE when this user has `fs.inotify.max_user_instances` of them.
    pub(super) fn open(handles: bool) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let home = rustix::fs::open(c"/", path_only, Mode::empty())?;
        Ok(Self { fd: Arc::new(fd), home, handles })
    }

    /// Becomes readable when something is reported.
    pub(super) fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// Whether objects are identified by their file handles, where they have such.
    pub(super) fn uses_handles(&self) -> bool {
        self.handles
    }

    /// Watches a directory.
    ///
    /// The call takes a path, and a descriptor has one only where `/proc` is mounted. But a thread
    /// can go to the directory; one with a working directory of its own.
    pub(super) fn add(&self, dir: BorrowedFd<'_>) -> io::Result<WatchId> {
        if !OWN_DIRECTORY.get() {
            thread::unshare_fs().map_err(io::Error::other)?;
            OWN_DIRECTORY.set(true);
        }
        rustix::process::fchdir(dir)?;
        let added = inotify::add_watch(&self.fd, c".", WATCHED);
        if let Err(error) = rustix::process::fchdir(&self.home) {
            tracing::debug!(%error, "a thread stays in a directory of the share");
        }
        Ok(WatchId(added?))
    }

    /// Removes a watch. `false` when there was none.
    pub(super) fn remove(&self, watch: WatchId) -> bool {
        inotify::remove_watch(&self.fd, watch.0).is_ok()
    }

    /// Whether there is nothing to read.
    pub(super) fn is_empty(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)) == Ok(0)
    }

    /// How many bytes wait to be read.
    pub(super) fn queued(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.fd).unwrap_or(u64::MAX)
    }

    /// What was reported, in order, and how many bytes that were; none when the queue is empty.
    pub(super) fn read(&self, buf: &mut [MaybeUninit<u8>]) -> io::Result<(Vec<Report>, u64)> {
        let mut reader = Reader::new(&self.fd, buf);
        let mut reports = Vec::new();
        let mut len = 0;
        loop {
            match reader.next() {
                Ok(event) => {
                    len += record_len(event.file_name());
                    reports.extend(report(&event));
                }
                Err(Errno::AGAIN) => return Ok((reports, len)),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            if reader.is_buffer_empty() {
                return Ok((reports, len));
            }
        }
    }

    /// How the object behind `fd` is known: by its file handle, or by its inode number where the file system has
    /// no handles.
    pub(super) fn fid(&self, fd: BorrowedFd<'_>) -> io::Result<Fid> {
        if self.handles
            && let Ok(fid) = handle::fid(fd)
        {
            return Ok(fid);
        }
        Ok(of_inode(&rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, NUMBERS)?))
    }
}

/// A buffer for [`Instance::read`].
pub(super) fn buffer() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); BUFFER_LEN]
}

const NUMBERS: StatxFlags = StatxFlags::INO.union(StatxFlags::BTIME);

fn of_inode(stat: &Statx) -> Fid {
    let dev = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let born: Option<SystemTime> = has_birth.then(|| time(stat.stx_btime));
    Fid::of_inode(dev, stat.stx_ino, born)
}

/// Bytes of a record: `struct inotify_event`, and the name with its NUL in as many more of the same size
/// as it needs (`round_event_name_len()`).
fn record_len(name: Option<&CStr>) -> u64 {
    const HEAD: usize = 16;
    let name_len = name.map_or(0, |name| name.count_bytes() + 1);
    (HEAD + name_len.next_multiple_of(HEAD)) as u64
}

fn report(event: &Event<'_>) -> Option<Report> {
    let (watch, flags) = (WatchId(event.wd()), event.events());
    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Some(Report::Overflow);
    }
    if flags.contains(ReadFlags::IGNORED) {
        return Some(Report::Ignored(watch));
    }
    let mask = Mask::from_bits_truncate(flags.bits().into());
    if mask.difference(Mask::ISDIR).is_empty() {
        return None;
    }
    match event.file_name() {
        Some(name) => {
            let name = Name::parse(name.to_bytes()).ok()?;
            let cookie = std::num::NonZeroU32::new(event.cookie()).map(Cookie);
            Some(Report::Entry { watch, name, mask, cookie })
        }
        None => Some(Report::Itself { watch, mask }),
    }
}
