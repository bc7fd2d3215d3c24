// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many files created on the host as fast as it can, and every one of them counted in the mount.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::fs::inotify::WatchFlags;

use super::Scale;
use super::share::Share;
use super::stats::ratio;
use super::watch::Watch;

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(farwatch: &Path, scale: Scale) -> anyhow::Result<()> {
    let local = tempfile::tempdir()?;
    let alone = fill(local.path(), scale.burst)?;
    let share = Share::farwatch(farwatch)?;
    let watch = Watch::new(&share.mnt(), WatchFlags::CREATE)?;
    let src = share.src();
    let start = Instant::now();
    let host = thread::spawn(move || fill(&src, scale.burst));
    let mut counted = 0;
    while counted < scale.burst {
        watch.wait(PATIENCE).map_err(|error| {
            error.context(format!("{counted} of {} events were counted", scale.burst))
        })?;
        let seen = watch.drain()?;
        if seen.overflow {
            bail!("the reader was too slow for its own queue (fs.inotify.max_queued_events)");
        }
        counted += seen.events;
    }
    let all = start.elapsed();
    let Ok(host) = host.join() else { bail!("the writer panicked") };
    let host = host?;
    println!("burst, {} files created on the host, {counted} CREATE events counted", scale.burst);
    println!("  created, nobody watching     {alone:8.2?}");
    println!("  created, the mount watched   {host:8.2?}   {:.1} times", ratio(host, alone));
    println!("  all events read in the mount {all:8.2?}   {:.1} times\n", ratio(all, alone));
    Ok(())
}

fn fill(dir: &Path, count: usize) -> anyhow::Result<Duration> {
    let start = Instant::now();
    for nth in 0..count {
        File::create(dir.join(format!("f{nth}")))?;
    }
    Ok(start.elapsed())
}
