// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Throughput through the mount, beside stock virtiofsd behind the same driver.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use farwatch_testkit::bench::{Samples, ratio};

use super::Scale;
use super::share::{Programs, Share, Site};

const MEGABYTE: usize = 1 << 20;
const FILES_PER_DIRECTORY: usize = 20;

#[derive(Default)]
struct Times {
    write: Vec<Duration>,
    read: Vec<Duration>,
    walk: Vec<Duration>,
}

pub(super) fn run(programs: &Programs, scale: Scale) -> anyhow::Result<()> {
    if programs.stock.is_none() {
        return Ok(());
    }
    let (mut ours, mut stock) = (Times::default(), Times::default());
    for _ in 0..scale.rounds {
        round(&Share::start(programs, Site::Ours)?, scale, &mut ours)?;
        round(&Share::start(programs, Site::StockAuto)?, scale, &mut stock)?;
    }
    println!("throughput, median of {} fresh mounts each, same driver", scale.rounds);
    let rows = [
        (format!("write {} MiB", scale.megabytes), ours.write, stock.write),
        (format!("read {} MiB", scale.megabytes), ours.read, stock.read),
        (format!("stat a tree of {} files", scale.walked), ours.walk, stock.walk),
    ];
    for (name, ours, stock) in rows {
        let (ours, stock) = (Samples::new(ours).median(), Samples::new(stock).median());
        println!(
            "  {name:28} farwatch {ours:8.2?}   virtiofsd {stock:8.2?}   ratio {:.2}",
            ratio(ours, stock)
        );
    }
    println!();
    Ok(())
}

fn round(share: &Share, scale: Scale, times: &mut Times) -> anyhow::Result<()> {
    for nth in 0..scale.walked {
        let dir = share.src().join(format!("d{}", nth / FILES_PER_DIRECTORY));
        if nth % FILES_PER_DIRECTORY == 0 {
            fs::create_dir(&dir)?;
        }
        File::create(dir.join(format!("f{nth}")))?;
    }
    let start = Instant::now();
    walk(&share.mnt())?;
    times.walk.push(start.elapsed());

    let path = share.mnt().join("data");
    let mut block = vec![0x5a; MEGABYTE];
    let start = Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..scale.megabytes {
        file.write_all(&block)?;
    }
    drop(file);
    times.write.push(start.elapsed());
    // Opening drops what the mount has cached of it.
    let start = Instant::now();
    let mut file = File::open(&path)?;
    while file.read(&mut block)? > 0 {}
    times.read.push(start.elapsed());
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
