// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `find` in a large tree of which nothing is known, and again; and a host that is busy in it while nobody watches.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Comparison, Report, human, timed};

const FILES_PER_DIRECTORY: usize = 10;
const DIRECTORIES_PER_DIRECTORY: usize = 100;
/// A busy host: changes a second, and how long.
const CHANGES_PER_SECOND: u32 = 1000;
const BUSY: Duration = Duration::from_secs(5);

/// `find`, cold and repeated.
pub(super) fn find(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let sites = [Site::Local, Site::Ours, Site::StockAuto, Site::StockAlways];
    let sites = programs.sites(&sites);
    let dir = tempfile::tempdir()?;
    make(dir.path(), scale.tree)?;
    let title = format!(
        "`find -size +1`, {} files in {} directories",
        scale.tree,
        scale.tree / FILES_PER_DIRECTORY
    );
    let mut comparison = Comparison::new(title, &sites);
    for _ in 0..scale.rounds {
        for site in &sites {
            let share = Share::of(programs, *site, Some(dir.path()))?;
            for row in ["cold", "repeated"] {
                comparison.measure(row, &share, || timed(|| look(&share.mnt())))?;
            }
        }
    }
    comparison.report(report)
}

/// The share of one processor that driver and device take while the host makes changes that nobody in the mount
/// watches.
pub(super) fn busy(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (name, known) in [("nothing is known in the mount", false), ("`find` has seen it", true)] {
        let dir = tempfile::tempdir()?;
        make(dir.path(), scale.directories)?;
        let share = Share::of(programs, Site::Ours, Some(dir.path()))?;
        if known {
            look(&share.mnt())?;
        }
        for (pace, speed) in [(Some(CHANGES_PER_SECOND), "1000/s"), (None, "full speed")] {
            let before = share.costs()?;
            let start = Instant::now();
            let changes = change(&share.src(), scale.directories, pace)?;
            let wall = start.elapsed();
            let costs = share.costs()? - &before;
            rows.push(vec![
                format!("{name}, {speed}"),
                changes.to_string(),
                human(wall),
                human(costs.cpu),
                format!("{:.1} %", 100.0 * costs.cpu.as_secs_f64() / wall.as_secs_f64()),
                costs.requests().to_string(),
                costs.sleeps.to_string(),
            ]);
        }
    }
    let title = "the host changes files, nobody in the mount watches: driver and device";
    let head = ["", "changes", "wall", "CPU", "of a core", "requests", "sleeps"];
    report.table(title, &head, &rows)
}

/// Directories of ten files each, a hundred to a directory.
fn make(root: &Path, files: usize) -> anyhow::Result<()> {
    for nth in 0..files {
        let path = root.join(file(nth));
        if nth % FILES_PER_DIRECTORY == 0
            && let Some(dir) = path.parent()
        {
            fs::create_dir_all(dir)?;
        }
        File::create(path)?;
    }
    Ok(())
}

fn file(nth: usize) -> String {
    let dir = nth / FILES_PER_DIRECTORY;
    format!("t{}/d{dir}/f{nth}", dir / DIRECTORIES_PER_DIRECTORY)
}

/// With a look at the attributes of each file.
fn look(dir: &Path) -> anyhow::Result<()> {
    let status = Command::new("find")
        .args([".", "-size", "+1"])
        .current_dir(dir)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "find: {status}");
    Ok(())
}

/// Writes to one file after another for a while, `per_second` times or as often as possible.
fn change(root: &Path, files: usize, per_second: Option<u32>) -> anyhow::Result<u32> {
    let start = Instant::now();
    let mut done = 0;
    for nth in (0..files).cycle() {
        if start.elapsed() >= BUSY {
            break;
        }
        fs::write(root.join(file(nth)), "x")?;
        done += 1;
        if let Some(per_second) = per_second {
            let due = Duration::from_secs(1) * done / per_second;
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    Ok(done)
}
