// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The real `inotifywait -m -r` says the same of a mount as of a local directory.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use e2e::Need;
use farwatch_testkit::{Event, Inotifywait, Mount, Share, merge_allowed, render};

/// A day's work, one step a line. A step gives no event that depends on how fast the reader adds its next watch.
const STEPS: [&str; 17] = [
    "mkdir project",
    "echo one > project/a",
    "echo two >> project/a",
    "chmod 600 project/a",
    "mkdir project/src",
    "mkdir project/src/deep",
    "cp -p project/a project/src/deep/b",
    "mv project/a project/src/a",
    "ln project/src/a project/hard",
    "ln -s src/a project/soft",
    "mv project/src project/lib",
    "echo three > project/lib/deep/c",
    "rm project/lib/deep/b project/hard",
    "mv project \"$OUT\"/",
    "mv \"$OUT\"/project back",
    "rm back/lib/deep/c back/lib/a back/soft",
    "rmdir back/lib/deep back/lib back",
];

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount, Need::Inotifywait];
        inotifywait_prints_the_same_for_the_mount_as_for_a_local_directory,
    ])
}

fn inotifywait_prints_the_same_for_the_mount_as_for_a_local_directory() -> Result<()> {
    let mount = Mount::start()?;
    let local = printed(&mount.local_twin("day")?)?;
    let mounted = printed(&mount.share("day")?)?;
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

/// What `inotifywait` prints for each step.
fn printed(share: &Share) -> Result<Vec<Vec<Event>>> {
    let mut reader = Inotifywait::start(share)?;
    STEPS
        .iter()
        .map(|step| {
            share.run_on_host(step)?;
            reader.events_until_now()
        })
        .collect()
}
