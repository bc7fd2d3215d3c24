// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the host's system call to the moment when a program that waits in poll(2) has its event: in
//! the mount, and on a local directory. Also what one request through driver and device takes, of
//! which an event needs a few.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use farwatch_testkit::bench::{Change, Samples, latencies, micros, ratio};
use rustix::fs::{AtFlags, StatxFlags};

use super::Scale;
use super::share::Share;

pub(super) fn run(farwatch: &Path, scale: Scale) -> anyhow::Result<()> {
    let share = Share::farwatch(farwatch)?;
    let local = tempfile::tempdir()?;
    println!("latency, system call to the waiting program, {} changes each", scale.changes);
    println!(
        "  {:24} {:>11} {:>11} {:>11} {:>11}   ratio of p50",
        "", "local p50", "p99", "mount p50", "p99"
    );
    for (name, change) in [("append to a file", Change::Append), ("create a file", Change::Create)]
    {
        // In turns of a tenth, so that a slow moment of the machine hits both.
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for turn in 0..10 {
            let count = scale.changes / 10;
            here.extend(events(change, (local.path(), local.path()), turn, count)?);
            there.extend(events(change, (&share.src(), &share.mnt()), turn, count)?);
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

/// In the second directory, of what is done in the first.
fn events(
    change: Change,
    (src, mnt): (&Path, &Path),
    turn: usize,
    count: usize,
) -> anyhow::Result<impl Iterator<Item = Duration>> {
    let latencies = latencies(change, src, mnt, turn, count)?;
    Ok(latencies.into_iter().map(|latency| latency.event))
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
