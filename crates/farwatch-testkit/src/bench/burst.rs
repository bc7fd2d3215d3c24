// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many files created as fast as possible, and every CREATE of them counted.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::inotify::WatchFlags;

use super::REPORTS;
use super::tree::fill;
use super::watch::Watch;

/// The longest that the next event may take.
const EVENT_MAX: Duration = Duration::from_secs(15);

/// Creates `files` files in the directory `changed` and reads their events of the directory `watched`. Returns how long
/// the creation took, and how long it took until the last event was read.
///
/// # Errors
/// When an event does not come or is dropped by the reader's queue, or one of the directories cannot be used.
pub fn burst(
    changed: &Path,
    watched: &Path,
    files: usize,
    progress: impl Fn(usize),
) -> Result<(Duration, Duration)> {
    let watch = Watch::new(watched, WatchFlags::CREATE)?;
    thread::scope(|scope| {
        let start = Instant::now();
        let creator = scope.spawn(move || fill(changed, files).map(|()| start.elapsed()));
        let counted = count(&watch, files, progress);
        let read = start.elapsed();
        // If it has failed, that is why events do not come.
        let created = creator.join().map_err(|_| anyhow!("the creator has panicked"))??;
        counted.map(|()| (created, read))
    })
}

/// Reads the events of `files` files that somebody else creates in the directory `watched` after `ready` was called.
///
/// # Errors
/// As [`burst`].
pub fn read_burst(
    watched: &Path,
    files: usize,
    ready: impl FnOnce(),
    progress: impl Fn(usize),
) -> Result<()> {
    let watch = Watch::new(watched, WatchFlags::CREATE)?;
    ready();
    count(&watch, files, progress)
}

fn count(watch: &Watch, files: usize, progress: impl Fn(usize)) -> Result<()> {
    let mut counted = 0;
    let mut reported = 0;
    while counted < files {
        watch
            .wait(EVENT_MAX)
            .with_context(|| format!("{counted} of {files} events were counted"))?;
        let seen = watch.drain()?;
        if seen.overflow {
            bail!("the reader is too slow for its own queue (fs.inotify.max_queued_events)");
        }
        counted += seen.events;
        if counted >= reported + files / REPORTS {
            reported = counted;
            progress(counted);
        }
    }
    if counted > files {
        bail!("{counted} events of {files} files");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_ends_when_the_event_of_each_file_has_been_read() {
        let dir = tempfile::tempdir().unwrap();
        let (created, read) = burst(dir.path(), dir.path(), 100, |_| {}).unwrap();
        assert!(created > Duration::ZERO && read > Duration::ZERO);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 100);
    }

    #[test]
    fn event_too_many_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let ready = || fill(dir.path(), 3).unwrap();
        let error = read_burst(dir.path(), 2, ready, |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "3 events of 2 files");
    }
}
