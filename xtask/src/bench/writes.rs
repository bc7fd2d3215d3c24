// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Small writes: 4 KiB at a time by pwrite(2), and SQLite's commits.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::ensure;

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Comparison, Report, timed};

const BLOCK: usize = 4096;
/// Blocks of the file that is written again and again.
const BLOCKS: usize = 1024;
/// Makes transactions of one row in the database that is its first argument, in the journal mode that is its second.
/// What takes the time on a real disk, its fsync(2), is left out: that is the same everywhere.
const SQLITE: &str = "\
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA journal_mode=' + sys.argv[2])
db.execute('PRAGMA synchronous=OFF')
db.execute('CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, text TEXT)')
for n in range(int(sys.argv[3])):
    db.execute('INSERT INTO t (text) VALUES (?)', ('x' * 100,))
";

pub(super) fn run(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let sites = [Site::Local, Site::Ours, Site::StockAuto, Site::StockXattr];
    let sites = programs.sites(&sites);
    let shares = sites
        .iter()
        .map(|site| Share::start(programs, *site))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let has_sqlite = sqlite(Path::new(":memory:"), "MEMORY", 1).is_ok();
    if !has_sqlite {
        println!("SQLite: not measured, there is no python3 with sqlite3");
    }
    let mut comparison = Comparison::new(
        format!(
            "{} times pwrite(2) of 4 KiB; {} transactions of SQLite, without fsync(2)",
            scale.writes,
            scale.writes / 10
        ),
        &sites,
    );
    for _ in 0..scale.rounds {
        for share in &shares {
            let path = share.mnt().join("data");
            comparison.measure("pwrite", share, || timed(|| write(&path, scale.writes)))?;
            for mode in ["DELETE", "WAL"].into_iter().filter(|_| has_sqlite) {
                let path = share.mnt().join(mode);
                let work = || timed(|| sqlite(&path, mode, scale.writes / 10));
                comparison.measure(&format!("SQLite, {mode}"), share, work)?;
            }
        }
    }
    comparison.report(report)
}

fn write(path: &Path, count: usize) -> anyhow::Result<()> {
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    let block = [0x5a; BLOCK];
    for nth in 0..count {
        file.write_all_at(&block, u64::try_from(nth % BLOCKS * BLOCK)?)?;
    }
    Ok(())
}

fn sqlite(path: &Path, mode: &str, count: usize) -> anyhow::Result<()> {
    let status = Command::new("python3")
        .args(["-c", SQLITE])
        .arg(path)
        .args([mode, &count.to_string()])
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "{status}");
    Ok(())
}
