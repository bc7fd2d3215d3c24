// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the host's system call to the moment when a program that waits in poll(2) has its event: in
//! the mount, and on a local directory. Also what one request through driver and device takes, of
//! which an event needs a few.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use farwatch_testkit::bench::{Change, Samples, latencies, per_event, ratio, relayed};
use rustix::fs::{AtFlags, StatxFlags};

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Report, human};

pub(super) fn run(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let share = Share::start(programs, Site::Ours)?;
    let local = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for (name, change) in [("append to a file", Change::Append), ("create a file", Change::Create)]
    {
        // In turns of a tenth, so that a slow moment of the machine hits both.
        let (mut here, mut there) = (Vec::new(), Vec::new());
        let before = share.costs()?;
        for turn in 0..10 {
            let count = scale.changes / 10;
            here.extend(events(change, (local.path(), local.path()), turn, count)?);
            there.extend(events(change, (&share.src(), &share.mnt()), turn, count)?);
        }
        let costs = share.costs()? - &before;
        let by_relay = relay_events(change, local.path(), &share, scale.changes / 2)?;
        let (here, there) = (Samples::new(here), Samples::new(there));
        rows.push(vec![
            name.to_owned(),
            human(here.median()),
            human(here.percentile(99)),
            human(there.median()),
            human(there.percentile(99)),
            format!("{:.2}", ratio(there.median(), here.median())),
            human(by_relay.median()),
            format!("{:.2}", ratio(by_relay.median(), here.median())),
            format!("{:.1}", per_event(costs.requests(), scale.changes)),
            format!("{:.1}", per_event(costs.sleeps, scale.changes)),
        ]);
    }
    let request = requests(&share.mnt(), scale.changes)?;
    rows.push(vec![
        "one request (statx)".to_owned(),
        String::new(),
        String::new(),
        human(request.median()),
        human(request.percentile(99)),
        String::new(),
        String::new(),
        String::new(),
        "1.0".to_owned(),
        String::new(),
    ]);
    let head = [
        "",
        "local p50",
        "local p99",
        "ours p50",
        "ours p99",
        "ours / local",
        "relay p50",
        "relay / local",
        "requests an event",
        "sleeps an event",
    ];
    report.table(&format!("system call to event read, {} changes", scale.changes), &head, &rows)
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

/// The same for changes that a relay makes in the mount.
fn relay_events(
    change: Change,
    local: &Path,
    share: &Share,
    count: usize,
) -> anyhow::Result<Samples> {
    let to = share.make_dir(&format!("relayed-{change:?}"))?;
    let from = tempfile::tempdir_in(local)?;
    let dirs = (from.path(), &*to);
    let latencies = relayed(change, dirs, count, || latencies(change, dirs.0, dirs.1, 0, count))?;
    Ok(Samples::new(latencies.into_iter().map(|latency| latency.event).collect()))
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
