// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`relayed`]: the simplest program that raises an event in a mount for a change elsewhere.
//!
//! A thread watches one directory, and for each event makes a call of the same kind in another, without asking what has
//! changed, whether anybody knows it, or in which order events are to come. It decides nothing, so beside it a
//! measurement shows what deciding costs. It is no bound: its calls change the directory for good.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::fs::inotify::WatchFlags;
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::fs::{mknodat, open, utimensat};

use super::latency::Change;
use super::watch::Watch;

/// The longest that the next event may take.
const EVENT_MAX: Duration = Duration::from_secs(15);

/// Does `body`, and makes the first `count` changes of the kind `change` that happen in the directory `from` once more in
/// the directory `to`.
///
/// # Errors
/// When an event does not come or is dropped, one of the directories cannot be used, or those of `body`.
pub fn relayed<T>(
    change: Change,
    (from, to): (&Path, &Path),
    count: usize,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let flags = match change {
        Change::Append => {
            File::create(to.join(Change::APPENDED))?;
            WatchFlags::MODIFY
        }
        Change::Create => WatchFlags::CREATE,
    };
    let watch = Watch::new(from, flags)?;
    thread::scope(|scope| {
        let relay = scope.spawn(|| relay(change, &watch, to, count));
        let done = body();
        // If it has failed, that is why the events of `body` do not come.
        relay.join().map_err(|_| anyhow!("the relay has panicked"))?.context("the relay")?;
        done
    })
}

fn relay(change: Change, watch: &Watch, to: &Path, count: usize) -> Result<()> {
    let dir = open(to, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty())?;
    let mut names: VecDeque<CString> = VecDeque::new();
    for _ in 0..count {
        // The kernel's queue is kept short: the others go on meanwhile.
        watch.drain_into(&mut names)?;
        while names.is_empty() {
            watch.wait(EVENT_MAX)?;
            watch.drain_into(&mut names)?;
        }
        let name = names.pop_front().unwrap_or_default();
        match change {
            Change::Append => utimensat(&dir, &name, &MODIFIED, AtFlags::empty())?,
            Change::Create => mknodat(&dir, &name, FileType::RegularFile, Mode::RUSR, 0)?,
        }
    }
    Ok(())
}

/// Of these `utimensat(2)` makes a MODIFY (`fsnotify_change()`).
const MODIFIED: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ },
};

#[cfg(test)]
mod tests {
    use super::super::{burst, latencies};
    use super::*;

    #[test]
    fn each_change_is_made_once_more_in_the_other_directory() {
        let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let dirs = (from.path(), to.path());
        let created = relayed(Change::Create, dirs, 20, || burst(dirs.0, dirs.1, 20, |_| {}));
        created.unwrap();
        let appended = || latencies(Change::Append, dirs.0, dirs.1, 0, 20);
        assert_eq!(relayed(Change::Append, dirs, 20, appended).unwrap().len(), 20);
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 21);
    }
}
