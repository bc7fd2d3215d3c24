// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Changes on the host's side, and their events in the mount.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// How long one event may take.
const EVENT_WAIT: Duration = Duration::from_secs(2);

/// One kind of change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// The events that it causes, as inotify(7) names them.
    pub(super) events: &'static str,
    /// How long the last of them took; `None` if one has not come.
    pub(super) took: Option<Duration>,
}

/// The events of a step: what inotify reports of a name.
type Expected<'a> = (ReadFlags, &'a str);

/// Makes a directory in `shared`, changes in it what can be changed, and waits for the events in `mounted`. The directory
/// is removed.
///
/// # Errors
/// When the changes cannot be made, or the mount cannot be watched.
pub(super) fn run(shared: &Path, mounted: &Path) -> io::Result<Vec<Step>> {
    let name = format!(".farwatch-doctor-{}", std::process::id());
    let watcher = Watcher::new()?;
    // Looked at first: what nobody has looked at is not watched.
    fs::metadata(mounted)?;
    watcher.watch(mounted)?;
    let dir = ProbeDir(shared.join(&name));
    let mut steps = Vec::new();
    let made = watcher
        .step(&[(ReadFlags::CREATE, &name)], || DirBuilder::new().mode(0o700).create(&dir.0))?;
    steps.push(Step { events: "CREATE, ISDIR", took: made });
    if made.is_none() {
        return Ok(steps);
    }
    let seen = mounted.join(&name);
    fs::metadata(&seen)?;
    watcher.watch(&seen)?;
    for (events, expected, change) in CHANGES {
        steps.push(Step { events, took: watcher.step(expected, || change(&dir.0))? });
    }
    Ok(steps)
}

/// A change in the directory that is probed with.
type Change = fn(&Path) -> io::Result<()>;

const CHANGES: [(&str, &[Expected<'static>], Change); 5] = [
    ("CREATE, CLOSE_WRITE", &[(ReadFlags::CREATE, "a"), (ReadFlags::CLOSE_WRITE, "a")], |dir| {
        File::create(dir.join("a")).map(drop)
    }),
    ("MODIFY", &[(ReadFlags::MODIFY, "a")], |dir| {
        OpenOptions::new().append(true).open(dir.join("a"))?.write_all(b"probe\n")
    }),
    ("ATTRIB", &[(ReadFlags::ATTRIB, "a")], |dir| {
        fs::set_permissions(dir.join("a"), Permissions::from_mode(0o600))
    }),
    ("MOVED_FROM, MOVED_TO", &[(ReadFlags::MOVED_FROM, "a"), (ReadFlags::MOVED_TO, "b")], |dir| {
        fs::rename(dir.join("a"), dir.join("b"))
    }),
    ("DELETE", &[(ReadFlags::DELETE, "b")], |dir| fs::remove_file(dir.join("b"))),
];

/// The directory that is probed with; removed when dropped, with what may be in it.
struct ProbeDir(PathBuf);

impl Drop for ProbeDir {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.0.display(), "cannot remove the probe's directory");
            }
            _ => {}
        }
    }
}

/// An inotify program.
struct Watcher(OwnedFd);

impl Watcher {
    fn new() -> io::Result<Self> {
        Ok(Self(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?))
    }

    fn watch(&self, dir: &Path) -> io::Result<()> {
        let events = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::DELETE;
        inotify::add_watch(&self.0, dir, events)?;
        Ok(())
    }

    /// Makes a change and waits for its events, in whatever order they come.
    fn step(
        &self,
        expected: &[Expected<'_>],
        change: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Option<Duration>> {
        let start = Instant::now();
        let deadline = start + EVENT_WAIT;
        change()?;
        let mut missing = expected.to_vec();
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.0, &mut space[..]);
        while !missing.is_empty() {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes()).unwrap_or_default();
                    missing.retain(|(kind, of)| {
                        !event.events().contains(*kind)
                            || Path::new(of).as_os_str().as_bytes() != name
                    });
                }
                Err(Errno::AGAIN) => {
                    if !self.wait(deadline)? {
                        return Ok(None);
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Some(start.elapsed()))
    }

    fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => Ok(true),
            ready => Ok(ready? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_its_own_mount_shows_every_event_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let steps = run(dir.path(), dir.path()).unwrap();
        assert_eq!(steps.len(), 1 + CHANGES.len());
        assert!(steps.iter().all(|step| step.took.is_some()), "{steps:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn events_that_do_not_come_are_missed_and_nothing_stays_behind() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let steps = run(dir.path(), other.path()).unwrap();
        assert_eq!(steps, [Step { events: "CREATE, ISDIR", took: None }]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
