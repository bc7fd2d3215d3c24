// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A large tree: what the device keeps for each object that the guest knows, beside stock virtiofsd behind
//! the same driver, how fast objects get known and forgotten, whether the watches are given back, and how
//! long a mount takes to come up.
//!
//! The tree has `FARWATCH_BENCH_DIRECTORIES` directories if that is set, each with ten files.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use farwatch_testkit::bench::{Samples, ratio};

use super::Scale;
use super::share::{Programs, Share, Site};

const FILES_PER_DIRECTORY: usize = 10;
/// The longest that the kernel is asked again to drop its caches: what a pass frees can be what holds the rest.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the device has in between.
const PAUSE: Duration = Duration::from_millis(20);

/// What one device was measured to do.
struct Measured {
    /// Resident, in bytes: at first, with all directories known, with all files known, after the forgetting.
    resident: [u64; 4],
    /// To look up the directories, and then the files.
    looked_up: [Duration; 2],
    /// To drop the kernel's caches.
    forgotten: Duration,
    /// With everything known, and after the forgetting.
    watches: [usize; 2],
}

pub(super) fn run(programs: &Programs, scale: Scale) -> anyhow::Result<()> {
    let directories = std::env::var("FARWATCH_BENCH_DIRECTORIES").ok();
    let directories = directories.map_or(Ok(scale.directories), |number| number.parse())?;
    let tree = tempfile::tempdir()?;
    let empty = start(programs, tree.path(), scale.rounds)?;
    make(tree.path(), directories)?;
    let large = start(programs, tree.path(), scale.rounds)?;
    println!("{directories} directories of {FILES_PER_DIRECTORY} files");
    println!(
        "  start, median of {}: empty {empty:.1?}, with the tree {large:.1?}, ratio {:.2}",
        scale.rounds,
        ratio(large, empty)
    );
    let ours = measured(programs, Site::Ours, tree.path(), directories)?;
    print_speed("farwatch", &ours, directories);
    let [known, forgotten] = ours.watches;
    println!(
        "  watches: {known} with all known, {forgotten} when forgotten in {:.2?}",
        ours.forgotten
    );
    if programs.stock.is_some() {
        let stock = measured(programs, Site::StockXattr, tree.path(), directories)?;
        print_speed("virtiofsd", &stock, directories);
        print_memory(&ours, &stock, directories);
    }
    println!();
    Ok(())
}

fn make(tree: &Path, directories: usize) -> anyhow::Result<()> {
    for nth in 0..directories {
        let dir = tree.join(format!("directory{nth}"));
        fs::create_dir(&dir)?;
        for nth in 0..FILES_PER_DIRECTORY {
            File::create(dir.join(format!("file{nth}.txt")))?;
        }
    }
    Ok(())
}

/// Has all of the tree looked up and forgotten through a mount.
fn measured(
    programs: &Programs,
    site: Site,
    tree: &Path,
    directories: usize,
) -> anyhow::Result<Measured> {
    let share = Share::of(programs, site, Some(tree))?;
    let (_, device) = share.processes()?;
    let dir = |nth| share.mnt().join(format!("directory{nth}"));
    let at_first = resident(device)?;
    let began = Instant::now();
    for nth in 0..directories {
        fs::metadata(dir(nth))?;
    }
    let dirs_looked_up = began.elapsed();
    let dirs_known = resident(device)?;
    let began = Instant::now();
    for nth in 0..directories {
        let dir = File::open(dir(nth))?;
        for nth in 0..FILES_PER_DIRECTORY {
            let flags = rustix::fs::AtFlags::empty();
            rustix::fs::statat(&dir, format!("file{nth}.txt"), flags)?;
        }
    }
    let looked_up = [dirs_looked_up, began.elapsed()];
    let (all_known, watched) = (resident(device)?, watches(device)?);
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        std::thread::sleep(PAUSE);
        if watches(device)? <= 1 {
            break;
        }
    }
    let forgotten = began.elapsed();
    let resident = [at_first, dirs_known, all_known, resident(device)?];
    let watches = [watched, watches(device)?];
    Ok(Measured { resident, looked_up, forgotten, watches })
}

fn print_speed(name: &str, measured: &Measured, directories: usize) {
    let [dirs, files] = measured.looked_up.map(|time| time.as_secs_f64() * 1e6);
    let dirs = dirs / directories as f64;
    let files = files / (directories * FILES_PER_DIRECTORY) as f64;
    println!("  {name:9} a look-up of a directory {dirs:5.1} µs, of a file {files:5.1} µs");
}

fn print_memory(ours: &Measured, stock: &Measured, directories: usize) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "  {:26} {:>9} {:>12} {:>9} {:>10}",
        "resident, MiB", "empty", "directories", "files", "forgotten"
    );
    for (name, measured) in [("farwatch serve", ours), ("virtiofsd", stock)] {
        let [empty, dirs, files, forgotten] = measured.resident.map(mib);
        println!("  {name:26} {empty:9.1} {dirs:12.1} {files:9.1} {forgotten:10.1}");
    }
    let growth = |from: usize, to: usize, number: usize| {
        let growth = |of: &Measured| of.resident[to] as f64 - of.resident[from] as f64;
        (growth(ours) - growth(stock)) / number as f64
    };
    let files = directories * FILES_PER_DIRECTORY;
    println!(
        "  of ours: {:.0} bytes a directory, {:.0} a file, {:.0} an object",
        growth(0, 1, directories),
        growth(1, 2, files),
        growth(0, 2, directories + files)
    );
}

/// Until a mount of the directory is there.
fn start(programs: &Programs, shared: &Path, rounds: usize) -> anyhow::Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        let share = Share::of(programs, Site::Ours, Some(shared))?;
        times.push(began.elapsed());
        drop(share);
    }
    Ok(Samples::new(times).median())
}

/// In bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib << 10)
}

/// How many watches a process has (`proc_pid_fdinfo(5)`).
fn watches(pid: u32) -> anyhow::Result<usize> {
    let process = Path::new("/proc").join(pid.to_string());
    let mut watches = 0;
    for fd in fs::read_dir(process.join("fd"))? {
        let fd = fd?;
        let leads_to = fs::read_link(fd.path());
        if leads_to.is_ok_and(|leads_to| leads_to.as_os_str() == "anon_inode:inotify") {
            let info = fs::read_to_string(process.join("fdinfo").join(fd.file_name()))?;
            watches += info.lines().filter(|line| line.starts_with("inotify ")).count();
        }
    }
    Ok(watches)
}
