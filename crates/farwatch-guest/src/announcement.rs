// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Announcement`]: the file by which a program on this machine finds out that events are delivered in a file system
//! (docs/TYPES.md), `/run/farwatch/events/MAJOR:MINOR`.
//!
//! The process that delivers the events holds a lock on it (flock(2)), so a file that a killed process has left is told
//! from one that counts.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use farwatch_sys::status_socket::{DIR_VARIABLE, SYSTEM_DIR};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::root::MountRoot;

/// In the directory of the status sockets.
const NAME: &str = "events";
/// The most files that a process looks at for those of dead processes.
const STALE_MAX: usize = 1000;

/// A file of this process, removed when this is dropped.
#[derive(Debug)]
pub struct Announcement {
    path: PathBuf,
    /// Locked.
    file: File,
}

impl Announcement {
    /// Prepares the file for the file system that `root` is in, under a name that no program looks at. To be called before
    /// the thread takes on another uid. Removes files of dead processes.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn prepare(root: &MountRoot) -> io::Result<Self> {
        Self::new(&dir(), root.device().map_err(io::Error::other)?)
    }

    /// The same for the file system that is mounted at `mount_point`.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_at(mount_point: &Path) -> io::Result<Self> {
        // The device number, without a request to a server that may not answer.
        let stat = statx(CWD, mount_point, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
        Self::new(&dir(), (stat.stx_dev_major, stat.stx_dev_minor))
    }

    fn new(dir: &Path, (major, minor): (u32, u32)) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        // Whatever this process's umask is, others may look.
        std::fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        remove_stale(dir);
        let path = dir.join(format!("{major}:{minor}"));
        let mut file = File::create(unfinished(&path))?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.lock()?;
        writeln!(file, "pid {}", std::process::id())?;
        Ok(Self { path, file })
    }

    /// Events are delivered from now on: gives the file its name.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    pub fn publish(&self) -> io::Result<()> {
        std::fs::rename(unfinished(&self.path), &self.path)
    }

    /// Events are not delivered any more, until [`Self::publish`] is called again.
    ///
    /// # Errors
    /// Those of `rename(2)`.
    pub fn withdraw(&self) -> io::Result<()> {
        std::fs::rename(&self.path, unfinished(&self.path))
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Another process may have announced the file system since.
        let own = self.file.metadata().map(|own| own.ino()).ok();
        for path in [self.path.clone(), unfinished(&self.path)] {
            if path.metadata().map(|found| found.ino()).ok() == own {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

/// Removes the files of processes that have been killed.
pub(crate) fn forget_dead() {
    remove_stale(&dir());
}

fn dir() -> PathBuf {
    let state = std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty());
    Path::new(&state.unwrap_or_else(|| SYSTEM_DIR.into())).join(NAME)
}

/// The name before events are delivered: of this process alone.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

/// Removes the files in `dir` that nobody has locked. A file without its lock yet has another name.
fn remove_stale(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.take(STALE_MAX) {
        let is_finished = entry.path().extension().is_none();
        let file = File::open(entry.path()).ok().filter(|_| is_finished);
        if file.is_some_and(|file| file.try_lock().is_ok()) {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn file_has_its_name_and_a_lock_while_events_are_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let announcement = Announcement::new(dir.path(), (0, 45)).unwrap();
        assert!(!dir.path().join("0:45").exists());
        announcement.publish().unwrap();
        assert_eq!(names(dir.path()), ["0:45"]);
        let opened = File::open(dir.path().join("0:45")).unwrap();
        assert!(opened.try_lock_shared().is_err());
        announcement.withdraw().unwrap();
        assert!(!dir.path().join("0:45").exists());
        announcement.publish().unwrap();
        drop(announcement);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn file_of_a_dead_process_is_removed_and_that_of_a_living_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("0:44"), "pid 1\n").unwrap();
        let living = Announcement::new(dir.path(), (0, 45)).unwrap();
        living.publish().unwrap();
        let other = Announcement::new(dir.path(), (0, 46)).unwrap();
        other.publish().unwrap();
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, ["0:45", "0:46"]);
    }

    #[test]
    fn file_of_another_process_for_the_same_file_system_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = Announcement::new(dir.path(), (0, 45)).unwrap();
        first.publish().unwrap();
        std::fs::remove_file(dir.path().join("0:45")).unwrap();
        std::fs::write(dir.path().join("0:45"), "pid 1\n").unwrap();
        drop(first);
        assert_eq!(names(dir.path()), ["0:45"]);
    }
}
