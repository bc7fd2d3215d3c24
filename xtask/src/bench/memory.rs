// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Resident memory with many known directories.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::Scale;
use super::share::Share;

pub(super) fn run(farwatch: &Path, scale: Scale) -> anyhow::Result<()> {
    let share = Share::farwatch(farwatch)?;
    let (mount, device) = share.processes()?;
    let before = (resident(mount)?, resident(device)?);
    for nth in 0..scale.directories {
        fs::create_dir(share.src().join(format!("d{nth}")))?;
    }
    for nth in 0..scale.directories {
        fs::metadata(share.mnt().join(format!("d{nth}")))?;
    }
    let after = (resident(mount)?, resident(device)?);
    println!("resident memory, KiB        empty   {} directories known", scale.directories);
    println!("  farwatch mount        {:9} {:9}", before.0, after.0);
    println!("  farwatch serve        {:9} {:9}", before.1, after.1);
    Ok(())
}

fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}
