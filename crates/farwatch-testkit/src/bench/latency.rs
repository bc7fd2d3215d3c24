// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a system call to the moment when a program that waits in poll(2) has the event of it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use rustix::fs::inotify::WatchFlags;

use super::watch::Watch;

/// The longest that one event may take.
const EVENT_MAX: Duration = Duration::from_secs(10);
/// Until the reader is asleep in poll(2) again: a program that waits for events is.
const SETTLE: Duration = Duration::from_micros(300);

/// What is done to a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Change {
    /// A byte is appended to a file that is open
    Append,
    /// A file is created
    Create,
}

impl Change {
    /// The file that is appended to.
    pub(super) const APPENDED: &str = "appended";
}

/// How long one change took.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Until its system calls returned.
    pub call: Duration,
    /// Until a program that waits in poll(2) had its event.
    pub event: Duration,
}

/// Makes `change` `count` times in the directory `changed`, and takes the time until each event can be read of the
/// directory `watched`. That is the same directory, perhaps by another way. `turn` makes the names of files new.
///
/// # Errors
/// When an event does not come, or one of the directories cannot be used.
pub fn latencies(
    change: Change,
    changed: &Path,
    watched: &Path,
    turn: usize,
    count: usize,
) -> Result<Vec<Latency>> {
    match change {
        Change::Append => append(changed, watched, count),
        Change::Create => create(changed, watched, turn, count),
    }
}

fn append(changed: &Path, watched: &Path, count: usize) -> Result<Vec<Latency>> {
    // Not truncated: that would be a MODIFY too, which may come when the watch is there.
    let file = File::options().append(true).create(true).open(changed.join(Change::APPENDED))?;
    // A file that somebody works with is known to the guest.
    std::fs::metadata(watched.join(Change::APPENDED))?;
    let watch = Watch::new(watched, WatchFlags::MODIFY)?;
    each(&watch, count, |_| Ok((&file).write_all(b"x")?))
}

fn create(changed: &Path, watched: &Path, turn: usize, count: usize) -> Result<Vec<Latency>> {
    let watch = Watch::new(watched, WatchFlags::CREATE)?;
    each(&watch, count, |nth| {
        File::create(changed.join(format!("c-{turn}-{nth}")))?;
        Ok(())
    })
}

/// Makes each change after the event of the one before has been read, by a thread that does nothing but wait for events.
fn each(watch: &Watch, count: usize, change: impl Fn(usize) -> Result<()>) -> Result<Vec<Latency>> {
    let (read, woken) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..count {
                let seen = watch.wait(EVENT_MAX).and_then(|now| watch.drain().map(|_| now));
                if read.send(seen).is_err() {
                    return;
                }
            }
        });
        (0..count)
            .map(|nth| {
                thread::sleep(SETTLE);
                let start = Instant::now();
                change(nth)?;
                let call = start.elapsed();
                Ok(Latency { call, event: woken.recv()??.saturating_duration_since(start) })
            })
            .collect()
    })
}
