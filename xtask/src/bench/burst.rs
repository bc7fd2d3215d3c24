// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many files created on the host as fast as it can, and every one of them counted in the mount.

use std::path::Path;
use std::time::Duration;

use farwatch_testkit::bench::{Change, burst, fill, relayed};

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Comparison, Report, timed};

/// By a program that decides nothing, beside what local programs wait.
const BY_RELAY: &str = "all read, raised by a relay";

pub(super) fn run(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let title =
        format!("{} files created at full speed, in a directory that is watched", scale.burst);
    let mut comparison = Comparison::new(title, &[Site::Local, Site::Ours]);
    for _ in 0..scale.rounds {
        for site in [Site::Local, Site::Ours] {
            let share = Share::start(programs, site)?;
            let alone = tempfile::tempdir()?;
            comparison.measure("created, not shared and not watched", &share, || {
                timed(|| fill(alone.path(), scale.burst))
            })?;
            let mut read = (Duration::ZERO, Duration::ZERO);
            comparison.measure("all CREATE events read", &share, || {
                read = burst(&share.src(), &share.mnt(), scale.burst, |_| {})?;
                Ok(read.1)
            })?;
            comparison.add("created meanwhile", site, read.0);
            if site == Site::Local {
                comparison.add(BY_RELAY, site, read.1);
            } else {
                let to = share.make_dir("relayed")?;
                comparison.measure(BY_RELAY, &share, || by_relay(&to, scale.burst))?;
            }
        }
    }
    comparison.report(report)
}

/// Until the events are read of files that a relay creates in `to`, since they are created elsewhere.
fn by_relay(to: &Path, files: usize) -> anyhow::Result<Duration> {
    let from = tempfile::tempdir()?;
    let dirs = (from.path(), to);
    let (_, read) = relayed(Change::Create, dirs, files, || burst(from.path(), to, files, |_| {}))?;
    Ok(read)
}
