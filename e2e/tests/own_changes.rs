// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What programs in the mount do themselves is told once, by their own kernel: the host side sees it
//! too, and must not send it back.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use e2e::Need;
use farwatch_testkit::{Event, Mount, Recorder, Share, merge_allowed, render};

const STEPS: [&str; 9] = [
    "mkdir d",
    "echo one > d/f",
    "echo two >> d/f",
    "chmod 600 d/f",
    "ln d/f g",
    "mv d/f f",
    "mv d e",
    "rm f g",
    "rmdir e",
];

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount];
        what_a_program_in_the_mount_does_is_told_once_and_as_locally,
        changes_on_both_sides_are_told_once_each,
    ])
}

fn what_a_program_in_the_mount_does_is_told_once_and_as_locally() -> Result<()> {
    let mount = Mount::start()?;
    let local = told(&mount.local_twin("own")?)?;
    let mounted = told(&mount.share("own")?)?;
    for ((step, local), mounted) in STEPS.iter().zip(&local).zip(&mounted) {
        ensure!(
            merge_allowed(local) == merge_allowed(mounted),
            "{step}\n  local:\n{}  mounted:\n{}",
            render(local),
            render(mounted)
        );
    }
    Ok(())
}

/// The events of each step, which runs in the mount.
fn told(share: &Share) -> Result<Vec<Vec<Event>>> {
    let mut recorder = Recorder::new(share, Recorder::CHANGES)?;
    recorder.barrier()?;
    recorder.watch_recursively(Path::new("."))?;
    STEPS
        .iter()
        .map(|step| {
            share.run_in_mount(step)?;
            recorder.barrier()?;
            Ok(recorder.take_events())
        })
        .collect()
}

fn changes_on_both_sides_are_told_once_each() -> Result<()> {
    let mount = Mount::start()?;
    let share = mount.share("both")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.barrier()?;
    recorder.watch(Path::new("."))?;
    for round in 0..20 {
        share.run_on_host(&format!("mkdir host{round}"))?;
        share.run_in_mount(&format!("mkdir mount{round}"))?;
    }
    recorder.barrier()?;
    let mut told: Vec<String> = recorder.take_events().iter().map(Event::to_string).collect();
    told.sort();
    let mut wanted: Vec<String> = (0..20)
        .flat_map(|round| ["host", "mount"].map(|side| format!("CREATE,ISDIR {side}{round}")))
        .collect();
    wanted.sort();
    ensure!(told == wanted, "{told:?}");
    Ok(())
}
