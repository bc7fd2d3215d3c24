// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the host's system call to the moment when a program that waits in poll(2) has its event: in
//! the mount, and on a local directory. Also what one request through driver and device takes, of
//! which an event needs a few.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::inotify::WatchFlags;
use rustix::fs::{AtFlags, StatxFlags};

use super::Scale;
use super::share::Share;
use super::stats::{Samples, micros, ratio};
use super::watch::Watch;

const PATIENCE: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_micros(300);

pub(super) fn run(farwatch: &Path, scale: Scale) -> anyhow::Result<()> {
    let share = Share::farwatch(farwatch)?;
    let local = tempfile::tempdir()?;
    println!("latency, system call to the waiting program, {} changes each", scale.changes);
    println!(
        "  {:24} {:>11} {:>11} {:>11} {:>11}   ratio of p50",
        "", "local p50", "p99", "mount p50", "p99"
    );
    for (name, measure) in [("append to a file", append as Measure), ("create a file", create)] {
        // In turns of a tenth, so that a slow moment of the machine hits both.
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for turn in 0..10 {
            let count = scale.changes / 10;
            here.extend(measure(local.path(), local.path(), turn, count)?);
            there.extend(measure(&share.src(), &share.mnt(), turn, count)?);
        }
        let (here, there) = (Samples::new(here), Samples::new(there));
        println!(
            "  {name:24} {} {} {} {}   {:.1}",
            micros(here.median()),
            micros(here.percentile(99)),
            micros(there.median()),
            micros(there.percentile(99)),
            ratio(there.median(), here.median()),
        );
    }
    let request = requests(&share.mnt(), scale.changes)?;
    println!("  one request through driver and device: p50 {}\n", micros(request.median()));
    Ok(())
}

type Measure = fn(&Path, &Path, usize, usize) -> anyhow::Result<Vec<Duration>>;

fn append(src: &Path, mnt: &Path, _: usize, count: usize) -> anyhow::Result<Vec<Duration>> {
    // Not truncated: the mount is told of that later than `file` is open, and its MODIFY would be taken
    // for that of the first append.
    let file = File::options().append(true).create(true).open(src.join("appended"))?;
    // Known to the mount, as a file that somebody works with.
    std::fs::metadata(mnt.join("appended"))?;
    let watch = Watch::new(mnt, WatchFlags::MODIFY)?;
    each(&watch, count, |_| Ok((&file).write_all(b"x")?))
}

fn create(src: &Path, mnt: &Path, turn: usize, count: usize) -> anyhow::Result<Vec<Duration>> {
    let watch = Watch::new(mnt, WatchFlags::CREATE)?;
    each(&watch, count, |nth| {
        File::create(src.join(format!("c-{turn}-{nth}")))?;
        Ok(())
    })
}

/// Does `change` `count` times, each after the event of the one before has been read by a thread
/// that does nothing but wait for events.
fn each(
    watch: &Watch,
    count: usize,
    change: impl Fn(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Duration>> {
    let (read, woken) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..count {
                let seen = watch.wait(PATIENCE).and_then(|now| watch.drain().map(|_| now));
                if read.send(seen).is_err() {
                    return;
                }
            }
        });
        (0..count)
            .map(|nth| {
                // Until the reader is asleep: a program that waits for events is.
                thread::sleep(SETTLE);
                let start = Instant::now();
                change(nth)?;
                Ok(woken.recv()?? - start)
            })
            .collect()
    })
}

fn requests(mnt: &Path, count: usize) -> anyhow::Result<Samples> {
    let root = File::open(mnt)?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        rustix::fs::statx(&root, c"", flags, StatxFlags::BASIC_STATS)?;
        samples.push(start.elapsed());
    }
    Ok(Samples::new(samples))
}
