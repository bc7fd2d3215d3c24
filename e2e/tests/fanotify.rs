// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program in the mount that watches with fanotify: a rename on the host is one FAN_RENAME with
//! both directories and both names (S11), in whichever way the host is watched, and every event names the
//! object that it is about.

use std::fs;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use farwatch_testkit::{Mount, Objects, Recorder, Renames};

fn main() -> ExitCode {
    e2e::run_on_each_path(&[
        ("a_program_with_fanotify_gets_one_rename_with_both_directories_and_names", renamed),
        ("fanotify_reports_the_handle_of_the_object", objects),
    ])
}

fn renamed(mount: &Mount) -> Result<()> {
    let share = mount.share("fanotify")?;
    for dir in ["a", "b"] {
        fs::create_dir(share.host().join(dir))?;
    }
    fs::File::create_new(share.host().join("a/old"))?;
    Recorder::new(&share, Recorder::CHANGES)?.barrier()?;
    let dirs = ["a", "b"].map(|dir| share.mount().join(dir));
    let renames = Renames::of(dirs.iter().map(|dir| &**dir))?;
    fs::rename(share.host().join("a/old"), share.host().join("b/new"))?;
    let told = renames.next()?;
    ensure!(told == "0/old 1/new", "{told}");
    Ok(())
}

/// The handle in the event is the one that name_to_handle_at(2) gives in the mount.
fn objects(mount: &Mount) -> Result<()> {
    let share = mount.share("objects")?;
    share.run_on_host("echo x > f")?;
    Recorder::new(&share, Recorder::CHANGES)?.barrier()?;
    let mut objects = Objects::of(share.mount())?;
    for (run, mask, name, object) in Objects::DAY {
        share.run_on_host(run)?;
        let told = objects.told(mask, name)?;
        ensure!(told == object, "{run}: object {told}");
    }
    Ok(())
}
