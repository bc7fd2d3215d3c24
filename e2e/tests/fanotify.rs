// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program in the mount that watches with fanotify: a rename on the host is one FAN_RENAME with
//! both directories and both names (S11), in whichever way the host is watched.

use std::fs;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use e2e::{Need, trial};
use farwatch_testkit::{Mount, Recorder, Renames};

fn main() -> ExitCode {
    let on = |watch| {
        let name = "a_program_with_fanotify_gets_one_rename_with_both_directories_and_names";
        trial(&format!("{name}::{watch}"), &[Need::Mount], move || renamed(watch))
    };
    e2e::run(["fanotify", "inotify"].map(on).into())
}

fn renamed(watch: &str) -> Result<()> {
    let mount = Mount::start_with(&["--watch", watch])?;
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
