// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the host's system call to the event that a watcher can read: in the mount, and on a local
//! directory. Also what one request through driver and device takes, of which an event needs a few.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::inotify::WatchFlags;
use rustix::fs::{AtFlags, StatxFlags};

use super::Scale;
use super::share::Share;
use super::stats::{Samples, micros, ratio};
use super::watch::Watch;

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(farwatch: &Path, scale: Scale) -> anyhow::Result<()> {
    let share = Share::farwatch(farwatch)?;
    let local = tempfile::tempdir()?;
    println!("latency, system call to readable event, {} changes each", scale.changes);
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

fn append(src: &Path, mnt: &Path, turn: usize, count: usize) -> anyhow::Result<Vec<Duration>> {
    let file = File::create(src.join("appended"))?;
    // Known to the mount, as a file that somebody works with.
    std::fs::metadata(mnt.join("appended"))?;
    let watch = Watch::new(mnt, WatchFlags::MODIFY)?;
    let start = u64::try_from(turn * count)?;
    (start..)
        .take(count)
        .map(|offset| one(&watch, || Ok(file.write_all_at(b"x", offset)?)))
        .collect()
}

fn create(src: &Path, mnt: &Path, turn: usize, count: usize) -> anyhow::Result<Vec<Duration>> {
    let watch = Watch::new(mnt, WatchFlags::CREATE)?;
    (0..count)
        .map(|nth| {
            let path = src.join(format!("created-{turn}-{nth}"));
            one(&watch, || Ok(drop(File::create(&path)?)))
        })
        .collect()
}

fn one(watch: &Watch, change: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    watch.drain()?;
    let start = Instant::now();
    change()?;
    let readable = watch.wait(PATIENCE)?;
    watch.drain()?;
    Ok(readable - start)
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
