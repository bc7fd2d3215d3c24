// SPDX-License-Identifier: Apache-2.0 OR MIT
//! More at once than can be replayed while it happens: how long it takes until the event of the last has been read in the
//! mount, beside what the host takes to do it. The replay of an event takes many times as long as what it replays, so
//! comparisons have to overtake it where they say the same in fewer events.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use farwatch_testkit::bench::Watch;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Scale;
use super::share::{Programs, Share, Site};
use super::speed::{LAST, changes};
use super::table::{Comparison, Report};

/// The longest that the next event may take.
const EVENT_MAX: Duration = Duration::from_secs(60);
/// The names that are exchanged, or worked on by each writer.
const NAMES: usize = 64;
const WRITERS: usize = 4;

type Work = fn(&Path, usize) -> io::Result<()>;

/// What is done, so many times in all.
const WORKS: [(&str, Work); 3] =
    [("exchanges of 64 names", exchange), ("new files", create), ("four writers", write)];

pub(super) fn run(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let sites = [Site::Local, Site::Ours];
    let title = format!("{} operations: on the host alone, and until they were read", scale.behind);
    let mut comparison = Comparison::new(title, &sites);
    for _ in 0..scale.rounds.min(3) {
        for site in sites {
            let share = Share::start(programs, site)?;
            for (name, work) in WORKS {
                let dir = name.replace(' ', "-");
                let (src, mnt) = (share.src().join(&dir), share.mnt().join(&dir));
                fs::create_dir(&src)?;
                for nth in 0..NAMES {
                    File::create(src.join(format!("n{nth}")))?;
                }
                for entry in fs::read_dir(&mnt)? {
                    entry?.metadata()?;
                }
                share.settle()?;
                let count = scale.behind;
                comparison.measure(name, &share, || {
                    if site == Site::Local {
                        alone(&src, count, work)
                    } else {
                        read(&src, &mnt, count, work)
                    }
                })?;
            }
        }
    }
    comparison.report(report)
}

fn alone(src: &Path, count: usize, work: Work) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work(src, count)?;
    Ok(start.elapsed())
}

fn read(src: &Path, mnt: &Path, count: usize, work: Work) -> anyhow::Result<Duration> {
    let watch = Watch::new(mnt, changes())?;
    thread::scope(|scope| {
        let reader = scope.spawn(|| watch.read_until(c"last", EVENT_MAX));
        let start = Instant::now();
        work(src, count)?;
        File::create(src.join(LAST))?;
        let read = reader.join().map_err(|_| anyhow!("the reader has panicked"))??;
        Ok(read.saturating_duration_since(start))
    })
}

fn exchange(src: &Path, count: usize) -> io::Result<()> {
    for nth in 0..count {
        let [one, two] = [nth, nth * 7 + 1].map(|n| src.join(format!("n{}", n % NAMES)));
        if one != two {
            renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE)?;
        }
    }
    Ok(())
}

fn create(src: &Path, count: usize) -> io::Result<()> {
    (0..count).try_for_each(|nth| File::create(src.join(format!("f{nth}"))).map(drop))
}

/// Each makes, renames and deletes files of its own, a few names over and over.
fn write(src: &Path, count: usize) -> io::Result<()> {
    let one = |writer: usize| {
        for nth in 0..count / WRITERS / 3 {
            let name = |n: usize| src.join(format!("w{writer}-{}", n % NAMES));
            fs::write(name(nth), "x")?;
            fs::rename(name(nth), name(nth + 1))?;
            fs::remove_file(name(nth + 1))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|nth| scope.spawn(move || one(nth))).collect();
        writers.into_iter().try_for_each(|writer| {
            writer.join().unwrap_or_else(|_| Err(io::Error::other("a writer has panicked")))
        })
    })
}
