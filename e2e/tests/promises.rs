// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a program may rely on at the moment it is told of a change: what no stream of events shows.
//!
//! Each promise is kept by a local directory as well, and checked there, and by a host that is watched
//! by inotify.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use e2e::{Need, trial};
use farwatch_testkit::{Kind, Mount, PATIENCE, Recorder, shell};
use libtest_mimic::Trial;

const ROUNDS: usize = 50;

type Promise = fn(&Mount) -> Result<()>;

fn main() -> ExitCode {
    let promises: [(&str, Promise); 9] = [
        ("program_that_receives_modify_reads_the_new_content", fresh_content),
        ("program_that_receives_modify_sees_the_new_mtime", fresh_mtime),
        ("program_that_receives_a_new_name_finds_it_in_a_listing", fresh_listing),
        ("close_after_the_delete_is_reported_while_a_program_has_the_file_open", late_close),
        ("a_file_is_never_read_as_it_was_before_the_host_wrote_it", just_written),
        ("directory_that_moves_in_is_reported_while_programs_look_its_name_up", looked_up_ahead),
        ("watch_on_a_file_outlives_the_dentry_of_its_directory", alone),
        ("events_come_after_the_kernel_has_dropped_its_caches", dropped_caches),
        ("directories_made_in_one_go_are_all_found_by_watching_and_listing", nothing_between),
    ];
    e2e::run(promises.into_iter().flat_map(on_all).collect())
}

fn on_all((name, promise): (&str, Promise)) -> [Trial; 3] {
    let by_fanotify = || Mount::start_with(&["--watch", "fanotify"]);
    [
        trial(&format!("{name}::mounted"), &[Need::Mount], move || promise(&Mount::start()?)),
        trial(&format!("{name}::by_fanotify"), &[Need::Mount], move || promise(&by_fanotify()?)),
        trial(&format!("{name}::local"), &[], move || promise(&Mount::local()?)),
    ]
}

/// Waits for `kind` of `object`, and not a moment longer: what follows runs on the event's heels.
fn told(recorder: &mut Recorder, kind: Kind, object: &str) -> Result<()> {
    recorder.take_events();
    recorder.wait_until(PATIENCE, |recorder| {
        recorder.events().iter().any(|event| event.kind == kind && event.object == object)
    })
}

fn fresh_content(mount: &Mount) -> Result<()> {
    let share = mount.share("content")?;
    let mut file = fs::File::create_new(share.host().join("f"))?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    let mut written = String::new();
    for round in 0..ROUNDS {
        // Before each round the reader has the old content in its cache.
        ensure!(fs::read_to_string(share.mount().join("f"))? == written, "old content");
        let line = format!("line {round}\n");
        file.write_all(line.as_bytes())?;
        written += &line;
        told(&mut recorder, Kind::Modify, "f")?;
        ensure!(
            fs::metadata(share.mount().join("f"))?.len() == u64::try_from(written.len())?,
            "stale size in round {round}"
        );
        ensure!(
            fs::read_to_string(share.mount().join("f"))? == written,
            "stale content in round {round}"
        );
    }
    Ok(())
}

fn fresh_mtime(mount: &Mount) -> Result<()> {
    let share = mount.share("mtime")?;
    let file = fs::File::create_new(share.host().join("f"))?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("f"))?;
    for round in 0..ROUNDS {
        fs::metadata(share.mount().join("f"))?;
        (&file).write_all(b"x")?;
        told(&mut recorder, Kind::Modify, "[f]")?;
        let modified =
            |dir: &Path| -> Result<SystemTime> { Ok(fs::metadata(dir.join("f"))?.modified()?) };
        ensure!(
            modified(share.mount())? == modified(share.host())?,
            "stale mtime in round {round}"
        );
    }
    Ok(())
}

fn fresh_listing(mount: &Mount) -> Result<()> {
    let share = mount.share("listing")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    let names = || -> Result<Vec<OsString>> {
        fs::read_dir(share.mount())?.map(|entry| Ok(entry?.file_name())).collect()
    };
    for round in 0..ROUNDS {
        let (name, renamed) = (format!("f{round}"), format!("g{round}"));
        names()?;
        fs::File::create_new(share.host().join(&name))?;
        told(&mut recorder, Kind::Create, &name)?;
        ensure!(names()?.contains(&OsString::from(&name)), "{name} is not listed");
        fs::rename(share.host().join(&name), share.host().join(&renamed))?;
        told(&mut recorder, Kind::MovedTo, &renamed)?;
        ensure!(names()?.contains(&OsString::from(&renamed)), "{renamed} is not listed");
        ensure!(!names()?.contains(&OsString::from(&name)), "{name} is still listed");
    }
    Ok(())
}

/// The file that is closed is nowhere any more when the event is delivered; on the mount it lives on
/// in the program that has it open.
fn late_close(mount: &Mount) -> Result<()> {
    let share = mount.share("late-close")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    for round in 0..ROUNDS {
        let name = format!("f{round}");
        let writer = fs::File::create_new(share.host().join(&name))?;
        let reader = fs::File::open(share.mount().join(&name))?;
        fs::remove_file(share.host().join(&name))?;
        told(&mut recorder, Kind::Delete, &name)?;
        drop(writer);
        told(&mut recorder, Kind::CloseWrite, &name)?;
        drop(reader);
    }
    Ok(())
}

/// The event of a file's creation makes it known to the mount while it is still empty. Who reads it
/// after the host has written it must not be given that.
fn just_written(mount: &Mount) -> Result<()> {
    let share = mount.share("just-written")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    for round in 0..10 * ROUNDS {
        let name = format!("f{round}");
        fs::write(share.host().join(&name), "content")?;
        let read = fs::read_to_string(share.mount().join(&name))?;
        ensure!(read == "content", "{name} was read as {read:?}");
    }
    Ok(())
}

/// A program that waits for a name finds it, often before the event is delivered.
fn looked_up_ahead(mount: &Mount) -> Result<()> {
    let share = mount.share("looked-up-ahead")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    for round in 0..ROUNDS {
        let name = format!("d{round}");
        let outside = mount.outside().join(&name);
        fs::create_dir(&outside)?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(share.mount().join(&name).metadata());
                }
            });
            let told = fs::rename(&outside, share.host().join(&name))
                .map_err(Into::into)
                .and_then(|()| told(&mut recorder, Kind::MovedTo, &name));
            done.store(true, Ordering::Relaxed);
            told
        })?;
    }
    Ok(())
}

/// A watch keeps the file in memory, and nothing keeps the directories above it.
fn alone(mount: &Mount) -> Result<()> {
    let share = mount.share("alone")?;
    fs::create_dir_all(share.host().join("a/b"))?;
    let file = fs::File::create_new(share.host().join("a/b/f"))?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("a/b/f"))?;
    for _ in 0..3 {
        drop_caches()?;
        (&file).write_all(b"x")?;
        told(&mut recorder, Kind::Modify, "[a/b/f]")?;
    }
    drop_caches()?;
    fs::rename(share.host().join("a/b/f"), share.host().join("a/g"))?;
    told(&mut recorder, Kind::MoveSelf, "[a/b/f]")
}

/// What a kernel does when it is short of memory. Only root may ask for it.
fn drop_caches() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        fs::write("/proc/sys/vm/drop_caches", "2")?;
    }
    Ok(())
}

/// Under memory pressure a kernel forgets names and keeps what is watched. A change deep in the tree
/// then happens in a directory whose path it has to find again.
fn dropped_caches(mount: &Mount) -> Result<()> {
    let share = mount.share("dropped-caches")?;
    fs::create_dir_all(share.host().join("a/b/c"))?;
    fs::create_dir(share.host().join("z"))?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch_recursively(Path::new("."))?;
    for round in 0..3 {
        let (file, moved) = (format!("a/b/c/f{round}"), format!("z/g{round}"));
        drop_caches()?;
        fs::File::create_new(share.host().join(&file))?;
        told(&mut recorder, Kind::Create, &file)?;
        drop_caches()?;
        fs::rename(share.host().join(&file), share.host().join(&moved))?;
        told(&mut recorder, Kind::MovedTo, &moved)?;
    }
    Ok(())
}

/// `mkdir -p a/b/c && touch a/b/c/f` is faster than any watcher. On a local directory a program
/// that first watches a new directory and then lists it misses nothing: what came before the watch
/// is listed, what comes later is an event. So it must be here.
fn nothing_between(mount: &Mount) -> Result<()> {
    let share = mount.share("deep")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch_recursively(Path::new("."))?;
    for round in 0..ROUNDS {
        let script = format!("mkdir -p a{round}/b/c && touch a{round}/b/c/f");
        let mut commands = shell(&script, share.host()).spawn()?;
        let wanted: Vec<PathBuf> = ["", "b", "b/c", "b/c/f"]
            .iter()
            .map(|below| Path::new(&format!("a{round}")).join(below).iter().collect())
            .collect();
        let found = |recorder: &Recorder, path: &Path| {
            recorder.listed().contains(path)
                || recorder
                    .events()
                    .iter()
                    .any(|event| event.kind == Kind::Create && Path::new(&event.object) == path)
        };
        recorder
            .wait_until(PATIENCE, |recorder| wanted.iter().all(|path| found(recorder, path)))
            .with_context(|| format!("round {round}"))?;
        ensure!(commands.wait()?.success(), "the commands failed");
        let later = format!("a{round}/b/c/later");
        fs::File::create_new(share.host().join(&later))?;
        told(&mut recorder, Kind::Create, &later)?;
    }
    Ok(())
}
