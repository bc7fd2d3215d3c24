// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a host that is watched by inotify does otherwise than one that is watched by fanotify (S12,
//! S14). The scenarios run by `single_machine` and others, since inotify is the default.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use e2e::Need;
use farwatch_testkit::{Mount, Recorder, render};

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount];
        client_learns_that_it_can_have_both_names_of_a_rename,
        client_learns_that_it_cannot_have_both_names_and_gets_two_halves,
        change_of_a_directory_that_was_never_looked_up_is_reported,
        write_to_a_replaced_file_is_also_reported_for_the_new_one,
    ])
}

/// Two directories that are watched, with a file in the first.
fn renamed(mount: &Mount) -> Result<String> {
    let share = mount.share("renamed")?;
    for dir in ["a", "b"] {
        fs::create_dir(share.host().join(dir))?;
    }
    fs::write(share.host().join("a/old"), "")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.barrier()?;
    for dir in ["a", "b"] {
        recorder.watch(Path::new(dir))?;
    }
    fs::rename(share.host().join("a/old"), share.host().join("b/new"))?;
    recorder.barrier()?;
    Ok(render(&recorder.take_events()))
}

/// By the agent in the driver, perhaps before it was mounted.
fn said(mount: &mut Mount, what: &str) -> Result<()> {
    if !mount.driver().log().contains(what) {
        mount.driver().wait_for_line(|line| line.contains(what))?;
    }
    Ok(())
}

fn client_learns_that_it_can_have_both_names_of_a_rename() -> Result<()> {
    let mut mount = Mount::start_with(&["--log", "info", "--watch", "inotify"])?;
    let told = renamed(&mount)?;
    ensure!(told == "    MOVED_FROM a/old c1\n    MOVED_TO b/new c1\n", "{told}");
    said(&mut mount, "the server reports both names of a rename")
}

fn client_learns_that_it_cannot_have_both_names_and_gets_two_halves() -> Result<()> {
    let mut mount = Mount::start_with(&["--watch", "inotify", "--no-join-renames"])?;
    let told = renamed(&mount)?;
    ensure!(told == "    MOVED_FROM a/old c1\n    MOVED_TO b/new c2\n", "{told}");
    said(&mut mount, "the server cannot report both names of a rename")
}

/// fanotify reports it for the directory alone, without its name (e2e/differences).
fn change_of_a_directory_that_was_never_looked_up_is_reported() -> Result<()> {
    let mount = Mount::start_with(&["--watch", "inotify"])?;
    let share = mount.share("never-looked-up")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.barrier()?;
    fs::create_dir_all(mount.outside().join("t/d"))?;
    fs::rename(mount.outside().join("t"), share.host().join("t"))?;
    // Else the watch could be told of the move.
    recorder.barrier()?;
    recorder.watch(Path::new("t"))?;
    fs::set_permissions(share.host().join("t/d"), fs::Permissions::from_mode(0o700))?;
    recorder.barrier()?;
    let told = render(&recorder.take_events());
    ensure!(told == "    ATTRIB,ISDIR t/d\n", "{told}");
    Ok(())
}

/// The scenario `write-to-replaced-file`, in which nobody else is told.
fn write_to_a_replaced_file_is_also_reported_for_the_new_one() -> Result<()> {
    let mount = Mount::start_with(&["--watch", "inotify"])?;
    let share = mount.share("replaced")?;
    for name in ["f", "g"] {
        fs::write(share.host().join(name), name)?;
    }
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.barrier()?;
    for watched in [".", "g"] {
        recorder.watch(Path::new(watched))?;
    }
    share.run_on_host("exec 3>>f; mv g f; echo more >&3; exec 3>&-")?;
    recorder.barrier()?;
    let told = render(&recorder.take_events());
    for event in ["MODIFY f\n", "CLOSE_WRITE f\n", "MODIFY [g]\n", "CLOSE_WRITE [g]\n"] {
        ensure!(told.matches(event).count() == 1, "{event}in\n{told}");
    }
    Ok(())
}
