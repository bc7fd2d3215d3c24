// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many files created on the host as fast as it can, and every one of them counted in the mount.

use std::path::Path;
use std::time::Instant;

use farwatch_testkit::bench::{burst, fill, ratio};

use super::Scale;
use super::share::Share;

pub(super) fn run(farwatch: &Path, scale: Scale) -> anyhow::Result<()> {
    let local = tempfile::tempdir()?;
    let start = Instant::now();
    fill(local.path(), scale.burst)?;
    let alone = start.elapsed();
    let share = Share::farwatch(farwatch)?;
    let (host, all) = burst(&share.src(), &share.mnt(), scale.burst, |_| {})?;
    println!("burst, {0} files created on the host, {0} CREATE events counted", scale.burst);
    println!("  created, nobody watching     {alone:8.2?}");
    println!("  created, the mount watched   {host:8.2?}   {:.1} times", ratio(host, alone));
    println!("  all events read in the mount {all:8.2?}   {:.1} times\n", ratio(all, alone));
    Ok(())
}
