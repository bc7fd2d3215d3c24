// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Throughput through the mount, beside stock virtiofsd behind the same driver: one job, and four at once.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Comparison, Report, timed};

const MEGABYTE: usize = 1 << 20;
const FILES_PER_DIRECTORY: usize = 20;
const JOBS: [usize; 2] = [1, 4];
/// Of the tree, divided among the jobs.
const PARTS: usize = 4;

pub(super) fn run(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let sites = programs.sites(&[Site::Local, Site::Ours, Site::StockAuto]);
    let title = format!(
        "{} MiB written and read, {} files looked at; a fresh mount each time",
        scale.megabytes, scale.walked
    );
    let dir = tempfile::tempdir()?;
    for part in 0..PARTS {
        make_tree(&dir.path().join(format!("tree{part}")), scale.walked / PARTS)?;
    }
    let mut comparison = Comparison::new(title, &sites);
    for _ in 0..scale.rounds {
        for site in &sites {
            for jobs in JOBS {
                let share = Share::of(programs, *site, Some(dir.path()))?;
                round(&share, scale, jobs, &mut comparison)?;
            }
        }
    }
    comparison.report(report)
}

fn round(
    share: &Share,
    scale: Scale,
    jobs: usize,
    comparison: &mut Comparison,
) -> anyhow::Result<()> {
    let row = |what: &str| match jobs {
        1 => what.to_owned(),
        _ => format!("{what}, {jobs} jobs"),
    };
    let mnt = share.mnt();
    let megabytes = scale.megabytes / jobs;
    let data = |job: usize| mnt.join(format!("data{job}"));
    comparison
        .measure(&row("write"), share, || at_once(jobs, |job| write(&data(job), megabytes)))?;
    // Opening drops what the mount has cached of it.
    comparison.measure(&row("read"), share, || at_once(jobs, |job| read(&data(job))))?;
    let parts = PARTS / jobs;
    let walk_parts = |job: usize| {
        (job * parts..(job + 1) * parts).try_for_each(|n| walk(&mnt.join(format!("tree{n}"))))
    };
    comparison.measure(&row("stat"), share, || at_once(jobs, walk_parts))?;
    (0..jobs).try_for_each(|job| Ok(fs::remove_file(share.src().join(format!("data{job}")))?))
}

/// How long it takes until all jobs have done their work.
fn at_once(
    jobs: usize,
    work: impl Fn(usize) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Duration> {
    timed(|| {
        thread::scope(|scope| {
            let work = &work;
            let jobs: Vec<_> = (0..jobs).map(|job| scope.spawn(move || work(job))).collect();
            jobs.into_iter()
                .try_for_each(|job| job.join().map_err(|_| anyhow!("a job has panicked"))?)
        })
    })
}

fn make_tree(root: &Path, files: usize) -> anyhow::Result<()> {
    for nth in 0..files {
        let dir = root.join(format!("d{}", nth / FILES_PER_DIRECTORY));
        if nth % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&dir)?;
        }
        File::create(dir.join(format!("f{nth}")))?;
    }
    Ok(())
}

fn write(path: &Path, megabytes: usize) -> anyhow::Result<()> {
    let block = vec![0x5a; MEGABYTE];
    let mut file = File::create(path)?;
    for _ in 0..megabytes {
        file.write_all(&block)?;
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<()> {
    let mut block = vec![0; MEGABYTE];
    let mut file = File::open(path)?;
    while file.read(&mut block)? > 0 {}
    Ok(())
}

fn walk(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.metadata()?.is_dir() {
            walk(&entry.path())?;
        }
    }
    Ok(())
}
