// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tree of files whose names follow from their numbers: made, walked as `git status` does, and watched.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::REPORTS;

/// Files in each directory, where there are any.
const FILES_PER_DIRECTORY: usize = 100;

/// What is in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// Directories.
    pub dirs: usize,
    /// Files, in directories of 100.
    pub files: usize,
}

impl Tree {
    /// So many directories without files.
    #[must_use]
    pub fn of_dirs(dirs: usize) -> Self {
        Self { dirs, files: 0 }
    }

    /// So many files.
    #[must_use]
    pub fn of_files(files: usize) -> Self {
        Self { dirs: files.div_ceil(FILES_PER_DIRECTORY), files }
    }

    /// Makes it in a directory.
    ///
    /// # Errors
    /// When that fails.
    pub fn make(self, at: &Path) -> Result<()> {
        for nth in 0..self.dirs {
            fs::create_dir_all(dir(at, nth))?;
        }
        for nth in 0..self.files {
            File::create(file(at, nth))?;
        }
        Ok(())
    }
}

/// Creates files in one directory.
///
/// # Errors
/// When one cannot be created.
pub fn fill(dir: &Path, files: usize) -> Result<()> {
    for nth in 0..files {
        File::create(dir.join(format!("f{nth}")))?;
    }
    Ok(())
}

/// Calls lstat(2) for each file of a tree, as `git status` does for those in its index.
///
/// # Errors
/// When one is not there.
pub fn walk(at: &Path, tree: Tree, progress: impl Fn(usize)) -> Result<Duration> {
    let start = Instant::now();
    for nth in 0..tree.files {
        report(nth, tree.files, &progress);
        ensure!(fs::symlink_metadata(file(at, nth))?.is_file(), "file {nth} is none");
    }
    Ok(start.elapsed())
}

/// Watches each directory of a tree, and ends all these watches again. Returns how long each of that took.
///
/// # Errors
/// When one cannot be watched.
pub fn watch_all(at: &Path, tree: Tree, progress: impl Fn(usize)) -> Result<(Duration, Duration)> {
    let dirs: Vec<PathBuf> = (0..tree.dirs).map(|nth| dir(at, nth)).collect();
    let fd = inotify::init(CreateFlags::CLOEXEC)?;
    let mut watches = Vec::with_capacity(dirs.len());
    let start = Instant::now();
    for (nth, dir) in dirs.iter().enumerate() {
        report(nth, dirs.len(), &progress);
        watches.push(inotify::add_watch(&fd, dir, WatchFlags::CREATE)?);
    }
    let set = start.elapsed();
    let start = Instant::now();
    for watch in watches {
        inotify::remove_watch(&fd, watch)?;
    }
    Ok((set, start.elapsed()))
}

fn report(nth: usize, of: usize, progress: &impl Fn(usize)) {
    if nth.is_multiple_of((of / REPORTS).max(1)) {
        progress(nth);
    }
}

fn dir(at: &Path, nth: usize) -> PathBuf {
    at.join(format!("d{nth}"))
}

fn file(at: &Path, nth: usize) -> PathBuf {
    dir(at, nth / FILES_PER_DIRECTORY).join(format!("f{nth}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_needs_every_file_of_the_tree() {
        let (dir, tree) = (tempfile::tempdir().unwrap(), Tree::of_files(150));
        tree.make(dir.path()).unwrap();
        walk(dir.path(), tree, |_| {}).unwrap();
        watch_all(dir.path(), tree, |_| {}).unwrap();
        fs::remove_file(file(dir.path(), 149)).unwrap();
        walk(dir.path(), tree, |_| {}).unwrap_err();
    }
}
