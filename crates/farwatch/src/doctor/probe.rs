// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Asks the kernel. Nothing is judged here, and nothing stays: the one directory that is made, in
//! the temporary directory, is removed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use farwatch_proto::Mask;
use farwatch_sys::fanotify::{EVENT_LEN_MAX, Fanotify, records};
use farwatch_sys::thread::CapabilitySet;
use farwatch_sys::{handle, kernel, mount, mountinfo};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit};

use super::facts::{Dir, Facts, NoFile, RoundTripError, SYSCTLS};
use crate::limits::Values;
use crate::watch::{FanotifyBackend, InotifyBackend};

/// Looks at everything, and at `dir` if there is one.
pub(super) fn facts(dir: Option<&Path>) -> Facts {
    let group = Fanotify::open().map_err(|error| error.errno());
    let Rlimit { current: soft, maximum: hard } = getrlimit(Resource::Nofile);
    let sets = rustix::thread::capabilities(None);
    Facts {
        kernel: kernel::release(),
        fanotify: group.as_ref().map(Fanotify::level).map_err(|errno| *errno),
        round_trip: group.as_ref().map_err(|_| RoundTripError::NoGroup).and_then(round_trip),
        inotify: inotify(dir),
        fuse_device: open("/dev/fuse", OFlags::RDWR).map(drop),
        capabilities: sets.map_or(CapabilitySet::empty(), |sets| sets.effective),
        sysctls: SYSCTLS.map(|sysctl| read_sysctl(sysctl.name)),
        limits: Values::read(),
        nofile: NoFile { soft, hard },
        dir: dir.map(shared_dir),
    }
}

fn open(path: impl rustix::path::Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}

fn read_sysctl(name: &str) -> Option<u64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Looks at the directory to be shared, and marks it in a group that has no other mark: there are file
/// systems that the kernel does not mix.
pub(super) fn shared_dir(dir: &Path) -> Result<Dir, Errno> {
    let group = Fanotify::open().ok();
    let dir = open(dir, OFlags::PATH | OFlags::DIRECTORY)?;
    let mark =
        group.as_ref().map(|group| FanotifyBackend::probe(group, dir.as_fd(), Mask::DEFAULT));
    Ok(Dir {
        fs_type: mount::mount_id(&dir).ok().and_then(fs_type),
        handle: handle::fid(dir.as_fd()).map(drop).map_err(|error| error.errno()),
        mark: mark.map(|mark| mark.map_err(|error| error.errno())),
    })
}

fn inotify(dir: Option<&Path>) -> Result<(), Errno> {
    let dir = dir.map(|dir| open(dir, OFlags::PATH | OFlags::DIRECTORY)).transpose()?;
    let watch = || InotifyBackend::probe(dir.as_ref().map(OwnedFd::as_fd));
    // A thread that watches goes to the directory.
    let watched = thread::scope(|scope| scope.spawn(watch).join());
    let failed = |error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    watched.unwrap_or_else(|_| Err(Errno::IO.into())).map_err(failed)
}

/// The file system type of mount `id`.
fn fs_type(id: u64) -> Option<String> {
    let table = mountinfo::read().ok()?;
    mountinfo::mounts(&table).find(|mount| mount.id == id).map(|mount| mount.fs_type)
}

/// Creates a file in a directory of our own and reads the event. It is in the queue when the call
/// that caused it returns, so there is nothing to wait for.
fn round_trip(group: &Fanotify) -> Result<(), RoundTripError> {
    let dir = PrivateDir::new().map_err(|error| failed(&error))?;
    let fd = open(&dir.0, OFlags::PATH | OFlags::DIRECTORY).map_err(RoundTripError::Failed)?;
    let mask = Mask::CREATE.bits();
    group.mark(fd.as_fd(), mask).map_err(|error| RoundTripError::Failed(error.errno()))?;
    File::create(dir.0.join(FILE)).map_err(|error| failed(&error))?;
    let mut buf = [0; EVENT_LEN_MAX];
    let len = group.read(&mut buf).map_err(|error| failed(&error))?;
    let own_pid = i32::try_from(std::process::id());
    let mut events = records(buf.get(..len).unwrap_or_default());
    let seen = events.any(|event| {
        event.is_ok_and(|event| {
            let named = event.dir.is_some_and(|dir| dir.name == FILE.as_bytes());
            named && event.mask == mask && Ok(event.pid) == own_pid
        })
    });
    if seen { Ok(()) } else { Err(RoundTripError::NoEvent) }
}

/// The file that [`round_trip`] creates.
const FILE: &str = "event";

fn failed(error: &io::Error) -> RoundTripError {
    RoundTripError::Failed(Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// A directory for this process alone; removed, with [`FILE`], when dropped.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn new() -> io::Result<Self> {
        // Of this process there may be more than one at a time: tests run side by side.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("farwatch-doctor-{pid}-{count}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        drop(fs::remove_file(self.0.join(FILE)));
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove a temporary directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_on_every_linux_is_found() {
        let facts = facts(Some(Path::new("/proc/self")));
        assert!(facts.kernel.is_some());
        assert_eq!(facts.fanotify.is_ok(), facts.round_trip.is_ok());
        let proc = facts.dir.unwrap().unwrap();
        assert_eq!(proc.fs_type.as_deref(), Some("proc"));
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_fact_too() {
        let facts = facts(Some(Path::new("/nonexistent")));
        assert!(matches!(facts.dir, Some(Err(Errno::NOENT))));
    }
}
