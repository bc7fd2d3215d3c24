// SPDX-License-Identifier: Apache-2.0 OR MIT
//! More happens at once than may wait for the client. Single events are given up then; what a program
//! believes in the end is true all the same.
//!
//! The driver is stopped while the host is busy, and the device keeps very few events for it. Every
//! trial runs with each way to watch the host; last, the device itself is stopped, and the kernel's
//! queue overflows.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Need, trial};
use farwatch_testkit::{Kind, Mount, PATIENCE, Recorder, render};
use rustix::process::Signal;

const DIRECTORIES: usize = 4;
/// Of each sort of file, in each directory.
const FILES: usize = 50;
/// The longest that it takes to make up for what had no room, where nothing is optimised and a few events wait at a time.
const REPAIR_MAX: Duration = Duration::from_secs(60);
const BACKLOG_EVENTS_MAX: &str = "64";

/// Runs with the host watched in the way that is named.
type Overflow = fn(&'static str) -> Result<()>;

fn main() -> ExitCode {
    let all: [(&str, Overflow); 2] = [
        ("model_of_a_program_is_correct_after_dropped_events", files),
        ("a_directory_moved_unseen_lives_on_and_a_removed_one_is_deleted", directories),
    ];
    let on = |(name, run): (&str, Overflow)| {
        let on = |watch| trial(&format!("{name}::{watch}"), &[Need::Mount], move || run(watch));
        ["fanotify", "inotify"].map(on)
    };
    let mut trials: Vec<_> = all.into_iter().flat_map(on).collect();
    trials.extend(e2e::trials![
        &[Need::Mount];
        events_lost_by_a_full_inotify_queue_are_replaced_by_the_difference,
        comparison_overtakes_many_events_about_few_names,
    ]);
    e2e::run(trials)
}

fn files(watch: &'static str) -> Result<()> {
    let dirs: Vec<String> = (0..DIRECTORIES).map(|i| format!("d{i}")).collect();
    let mut mount = start(watch, |host| {
        for dir in &dirs {
            let dir = host.join("prepared").join(dir);
            fs::create_dir_all(&dir)?;
            for i in 0..FILES {
                for sort in ["kept", "written", "deleted", "renamed", "replaced"] {
                    fs::write(dir.join(format!("{sort}{i}")), "old")?;
                }
            }
        }
        Ok(())
    })?;
    let share = mount.share("files")?;
    for dir in &dirs {
        fs::rename(mount.host().join("prepared").join(dir), share.host().join(dir))?;
    }
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    for dir in &dirs {
        recorder.watch(Path::new(dir))?;
    }
    let before = list(share.mount(), &dirs)?;

    let mut written = BTreeSet::new();
    unseen(&mut mount, || {
        for i in 0..FILES {
            for dir in &dirs {
                let path = |sort: &str| share.host().join(dir).join(format!("{sort}{i}"));
                fs::write(path("written"), "new")?;
                written.insert(format!("{dir}/written{i}"));
                fs::remove_file(path("deleted"))?;
                fs::rename(path("renamed"), path("moved"))?;
                fs::write(path("passing"), "")?;
                fs::rename(path("passing"), path("replaced"))?;
                fs::write(path("new"), "new")?;
                fs::write(path("passing"), "")?;
                fs::remove_file(path("passing"))?;
            }
        }
        Ok(())
    })?;

    let expected = list(share.host(), &dirs)?;
    let is_true = |recorder: &Recorder| {
        believed(&before, recorder) == expected && written.is_subset(&told_written(recorder))
    };
    // The barrier's own event may come before the nets: it is not in one of their directories.
    if recorder.wait_until(REPAIR_MAX, is_true).is_err() {
        let believed = believed(&before, &recorder);
        let missing: Vec<_> = expected.difference(&believed).collect();
        let wrong: Vec<_> = believed.difference(&expected).collect();
        anyhow::bail!("not told of {missing:?}, told wrongly of {wrong:?}");
    }
    mount.device().wait_for_line(|line| line.contains("events were dropped (backlog full"))?;

    recorder.barrier()?;
    ensure!(is_true(&recorder), "true at first, and not any more");
    recorder.take_events();
    fs::remove_file(share.host().join("d0/new0"))?;
    recorder.barrier()?;
    let told = recorder.take_events();
    ensure!(render(&told) == "    DELETE d0/new0\n", "not in step again:\n{}", render(&told));
    Ok(())
}

fn directories(watch: &'static str) -> Result<()> {
    let mut mount = start(watch, |_| Ok(()))?;
    let share = mount.share("directories")?;
    for dir in ["from/moved", "to", "removed", "busy"] {
        fs::create_dir_all(share.host().join(dir))?;
    }
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    for dir in [".", "from", "from/moved", "to", "removed", "busy"] {
        recorder.watch(Path::new(dir))?;
    }
    unseen(&mut mount, || {
        for i in 0..FILES {
            for dir in [".", "from", "to", "busy"] {
                fs::write(share.host().join(dir).join(format!("f{i}")), "")?;
            }
        }
        fs::rename(share.host().join("from/moved"), share.host().join("to/moved"))?;
        fs::remove_dir(share.host().join("removed"))?;
        fs::create_dir(share.host().join("made"))?;
        Ok(())
    })?;
    told(&mut recorder, Kind::MovedFrom, "from/moved")?;
    told(&mut recorder, Kind::Create, "to/moved")?;
    told(&mut recorder, Kind::Delete, "removed")?;
    told(&mut recorder, Kind::DeleteSelf, "[removed]")?;
    told(&mut recorder, Kind::Create, "made")?;

    // The watch on it is as good as before, and so is the directory.
    fs::write(share.host().join("to/moved/f"), "")?;
    told(&mut recorder, Kind::Create, "from/moved/f")?;
    let listed = fs::read_dir(share.mount().join("to/moved"))?.count();
    ensure!(listed == 1, "{listed} entries in the directory that was moved");
    Ok(())
}

fn events_lost_by_a_full_inotify_queue_are_replaced_by_the_difference() -> Result<()> {
    let mut mount = Mount::start_through_socket(|mount, socket| {
        let mut command = mount.farwatch()?;
        command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
        // Without a sandbox it is one process, which can be stopped.
        command.args(["--watch", "inotify", "--sandbox", "none"]);
        Ok(command)
    })?;
    let share = mount.share("unread")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    recorder.barrier()?;
    let room: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?.trim().parse()?;
    let file = |i: usize| fs::File::create_new(share.host().join(format!("f{i}")));
    let mut files = [file(0)?, file(1)?];
    recorder.barrier()?;
    mount.device().signal(Signal::STOP)?;
    // No two that follow each other are equal: each takes room. What comes last finds none.
    let changed = (0..room + room / 4)
        .try_for_each(|i| files[i % 2].write_all(b"x"))
        .and_then(|()| fs::create_dir(share.host().join("last")));
    mount.device().signal(Signal::CONT)?;
    changed?;
    mount.device().wait_for_line(|line| line.contains("events were dropped (backlog full"))?;
    told(&mut recorder, Kind::Create, "last")?;
    fs::remove_dir(share.host().join("last"))?;
    told(&mut recorder, Kind::Delete, "last")
}

/// The client takes nothing for so long that a comparison is sooner done than all of the replays. There is room for all.
fn comparison_overtakes_many_events_about_few_names() -> Result<()> {
    const TIMES: usize = 5000;
    let mut mount = Mount::start_through_socket(|mount, socket| {
        let mut command = mount.farwatch()?;
        command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
        Ok(command)
    })?;
    let share = mount.share("crowd")?;
    let path = |name: &str| share.host().join(name);
    fs::write(path("a"), "")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    recorder.barrier()?;
    recorder.take_events();
    mount.driver().signal(Signal::STOP)?;
    let moved = (0..TIMES)
        .try_for_each(|nth| {
            let (from, to) = if nth % 2 == 0 { ("a", "b") } else { ("b", "a") };
            fs::rename(path(from), path(to))
        })
        .and_then(|()| fs::write(path("last"), ""));
    let overtaken =
        mount.device().wait_for_line(|line| line.contains("events were dropped (backlog full"));
    mount.driver().signal(Signal::CONT)?;
    moved.map_err(anyhow::Error::from).and(overtaken)?;
    mount.sync()?;
    let told = recorder.take_events_now()?;
    ensure!(told.len() < TIMES, "{} events of {TIMES} renames", told.len());
    let last = told.iter().filter(|event| event.object == "last");
    ensure!(last.count() > 0, "not told of the last:\n{}", render(&told));
    ensure!(share.mount().join("a").exists() && !share.mount().join("b").exists(), "renamed");
    Ok(())
}

/// A mount of what `prepare` makes, whose device keeps few events.
fn start(watch: &str, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Mount> {
    Mount::start_through_socket(|mount, socket| {
        prepare(&mount.host())?;
        let mut command = mount.farwatch()?;
        command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
        command.args(["--backlog-events-max", BACKLOG_EVENTS_MAX, "--watch", watch]);
        Ok(command)
    })
}

/// Does something on the host while the driver is stopped.
fn unseen(mount: &mut Mount, change: impl FnOnce() -> Result<()>) -> Result<()> {
    mount.driver().signal(Signal::STOP)?;
    let changed = change();
    mount.driver().signal(Signal::CONT)?;
    changed
}

fn told(recorder: &mut Recorder, kind: Kind, object: &str) -> Result<()> {
    let wanted = |recorder: &Recorder| {
        recorder.events().iter().any(|event| event.kind == kind && event.object == object)
    };
    recorder.wait_until(PATIENCE, wanted).with_context(|| format!("{kind:?} {object}"))
}

/// The files of some directories. Through the mount this makes each of them known to its kernel.
fn list(root: &Path, dirs: &[String]) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    for dir in dirs {
        for entry in fs::read_dir(root.join(dir))? {
            let entry = entry?;
            entry.metadata()?;
            files.insert(format!("{dir}/{}", entry.file_name().display()));
        }
    }
    Ok(files)
}

/// What a program believes that knew the files `before` and has followed the events since.
fn believed(before: &BTreeSet<String>, recorder: &Recorder) -> BTreeSet<String> {
    let mut files = before.clone();
    for event in recorder.events() {
        if matches!(event.kind, Kind::Create | Kind::MovedTo) {
            files.insert(event.object.clone());
        } else if matches!(event.kind, Kind::Delete | Kind::MovedFrom) {
            files.remove(&event.object);
        }
    }
    files
}

fn told_written(recorder: &Recorder) -> BTreeSet<String> {
    let written = recorder.events().iter().filter(|event| event.kind == Kind::Modify);
    written.map(|event| event.object.clone()).collect()
}
