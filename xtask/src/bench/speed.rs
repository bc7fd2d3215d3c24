// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Operations of one kind at full speed on the host, in a directory that somebody watches in the mount and knows: how
//! long it takes until the event of the last has been read, beside a local directory.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use farwatch_testkit::bench::Watch;
use rustix::fs::inotify::WatchFlags;

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Comparison, Report};

/// The longest that the next event may take.
const EVENT_MAX: Duration = Duration::from_secs(30);
/// Created after the operations: its event comes after theirs.
pub(super) const LAST: &str = "last";

type Operation = fn(&Path) -> std::io::Result<()>;

/// What is there before, and what is done to each name.
const OPERATIONS: [(&str, Option<Operation>, Operation); 7] = [
    ("append", Some(make_file), |path| File::options().append(true).open(path)?.write_all(b"x")),
    ("chmod", Some(make_file), |path| fs::set_permissions(path, Permissions::from_mode(0o600))),
    ("unlink", Some(make_file), |path| fs::remove_file(path)),
    ("rename", Some(make_file), |path| fs::rename(path, path.with_extension("new"))),
    ("mkdir", None, |path| fs::create_dir(path)),
    ("rmdir", Some(make_dir), |path| fs::remove_dir(path)),
    ("create and write", None, |path| fs::write(path, "x")),
];

pub(super) fn run(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let sites = [Site::Local, Site::Ours];
    let title = format!(
        "{} operations at full speed, until the last event has been read",
        scale.operations
    );
    let mut comparison = Comparison::new(title, &sites);
    for _ in 0..scale.rounds {
        for site in sites {
            let share = Share::start(programs, site)?;
            for (name, prepare, operation) in OPERATIONS {
                let dir = name.replace(' ', "-");
                let (src, mnt) = (share.src().join(&dir), share.mnt().join(&dir));
                let paths = make(&src, &mnt, scale.operations, prepare)?;
                share.settle()?;
                comparison.measure(name, &share, || until_read(&src, &mnt, &paths, operation))?;
            }
        }
    }
    comparison.report(report)
}

fn make_file(path: &Path) -> std::io::Result<()> {
    File::create(path).map(drop)
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)
}

/// Makes the directory, and looks at all of it in the mount, as programs that watch do.
fn make(
    src: &Path,
    mnt: &Path,
    count: usize,
    prepare: Option<Operation>,
) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir(src)?;
    let paths: Vec<_> = (0..count).map(|nth| src.join(format!("n{nth}"))).collect();
    if let Some(prepare) = prepare {
        paths.iter().try_for_each(|path| prepare(path))?;
    }
    for entry in fs::read_dir(mnt)? {
        entry?.metadata()?;
    }
    Ok(paths)
}

fn until_read(
    src: &Path,
    mnt: &Path,
    paths: &[PathBuf],
    operation: Operation,
) -> anyhow::Result<Duration> {
    let watch = Watch::new(mnt, changes())?;
    let last = c"last";
    thread::scope(|scope| {
        let reader = scope.spawn(|| watch.read_until(last, EVENT_MAX));
        let start = Instant::now();
        paths.iter().try_for_each(|path| operation(path))?;
        File::create(src.join(LAST))?;
        let read = reader.join().map_err(|_| anyhow!("the reader has panicked"))??;
        Ok(read.saturating_duration_since(start))
    })
}

pub(super) fn changes() -> WatchFlags {
    WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
}
