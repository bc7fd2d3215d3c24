// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many files created on the host as fast as it can, and every one of them counted in the mount.

use farwatch_testkit::bench::{burst, fill};

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Comparison, Report, timed};

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
            let mut created = None;
            comparison.measure("all CREATE events read", &share, || {
                let (host, all) = burst(&share.src(), &share.mnt(), scale.burst, |_| {})?;
                created = Some(host);
                Ok(all)
            })?;
            comparison.add("created meanwhile", site, created.unwrap_or_default());
        }
    }
    comparison.report(report)
}
