// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Sample`]: what the processes of a mount hold at one time.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use rustix::process::Pid;

use crate::mount::Mount;
use crate::process::number_behind;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(in crate::converge::faults) struct Sample {
    /// Seconds since the beginning.
    pub(super) at: f64,
    /// One for each of [`NAMES`](Self::NAMES).
    pub(super) values: [f64; 8],
}

impl Sample {
    /// What is sampled, of driver and device together.
    pub(super) const NAMES: [&str; 8] = [
        "descriptors",
        "inotify watches",
        "threads",
        "resident KiB",
        "known objects",
        "known directories",
        "mount table",
        "sync us",
    ];

    /// What each may grow by in all without a complaint: a thread that is just ending, pages of an allocator.
    pub(super) const NOISE: [f64; 8] = [3.0, 3.0, 2.0, 2048.0, 5.0, 5.0, 1.0, 2000.0];

    pub(in crate::converge::faults) fn take(
        mount: &Mount,
        processes: &[Pid],
        begin: Instant,
    ) -> Result<Self> {
        let before_sync = Instant::now();
        mount.sync()?;
        let sync = before_sync.elapsed().as_micros();
        let mut values = [0.0; 8];
        for process in processes {
            let dir = Path::new("/proc").join(process.as_raw_nonzero().to_string());
            values[0] += count(fs::read_dir(dir.join("fd"))?.count())?;
            values[1] += count(watches(&dir)?)?;
            let status = fs::read_to_string(dir.join("status"))?;
            values[2] += number_behind::<f64>(&status, "Threads:")?;
            values[3] += number_behind::<f64>(&status, "VmRSS:")?;
        }
        let status = mount.status()?;
        values[4] = number_behind(&status, "\"known\":")?;
        values[5] = number_behind(&status, "\"directories\":")?;
        values[6] = count(
            fs::read_to_string("/proc/self/mountinfo")?
                .lines()
                .filter(|line| line.contains(&*mount.host().to_string_lossy()))
                .count(),
        )?;
        values[7] = count(usize::try_from(sync)?)?;
        Ok(Self { at: begin.elapsed().as_secs_f64(), values })
    }
}

fn count(count: usize) -> Result<f64> {
    Ok(f64::from(u32::try_from(count)?))
}

/// inotify(7) lists its watches in `/proc/PID/fdinfo`.
fn watches(process: &Path) -> Result<usize> {
    let mut watches = 0;
    for entry in fs::read_dir(process.join("fdinfo"))? {
        // It may have been closed in the meantime.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        watches += info.lines().filter(|line| line.starts_with("inotify wd:")).count();
    }
    Ok(watches)
}
