// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Set-user-ID, set-group-ID and file capabilities go in the mount when they go on a local directory, on the host as
//! well as in what the mount shows, and the events are the same.
//!
//! Each step is done as root, who has CAP_FSETID, and as an ordinary user. Every trial runs with each way to watch the
//! host, and with an agent.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use farwatch_testkit::{Mount, Recorder, Share, merge_allowed, render};

/// What is done to a file that everybody may write.
const STEPS: [&str; 8] = [
    "printf x >> f",
    "printf x 1<> f",
    ": > f",
    "truncate -s 2 f",
    "fallocate -l 9000 f",
    "dd if=/dev/zero of=f bs=4096 count=3 conv=notrunc status=none",
    "cat f > read",
    // One write(2) after another by one program: only the first finds anything to clear.
    "dd if=/dev/zero of=f bs=1 count=20 conv=notrunc status=none",
];

/// What an ordinary user may not do.
const STEPS_OF_ROOT: [&str; 3] = ["chown 1 f", "chgrp 1 f", "chown 1:1 f"];

/// To make a file of which the guest's kernel knows the mode.
const MODES: [&str; 4] = ["6777", "4777", "2777", "2767"];

/// A user and a group without an account, in no other group.
const ORDINARY_USER: &str = "setpriv --reuid=54321 --regid=54321 --clear-groups -- sh -ec";

/// `cap_net_raw+ep`, in the form of `struct vfs_cap_data`.
const CAPABILITY: &str =
    "setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 f";

fn main() -> ExitCode {
    e2e::run_on_each_path(&[
        ("set_id_bits_go_as_on_a_local_directory_and_with_the_same_events", set_id_bits),
        ("file_capabilities_go_as_on_a_local_directory", file_capabilities),
        ("set_id_bits_that_the_mount_does_not_know_of_go_too", unknown_set_id_bits),
    ])
}

/// What is to be seen after a step.
#[derive(Debug, PartialEq, Eq)]
struct After {
    host: u32,
    mounted: u32,
    events: String,
}

fn set_id_bits(mount: &Mount) -> Result<()> {
    let (local, mounted) = (mount.local_twin("set-id")?, mount.share("set-id")?);
    let of_user = STEPS.iter().map(|step| format!("{ORDINARY_USER} '{step}'"));
    let of_root = STEPS.iter().chain(&STEPS_OF_ROOT).map(|step| (*step).to_owned());
    for step in of_user.chain(of_root) {
        for mode in MODES {
            let expected = after(&local, mode, &step)?;
            let found = after(&mounted, mode, &step)?;
            ensure!(
                expected == found,
                "{mode}: {step}\n  local: {:o}\n{}  mounted: {:o}, on the host {:o}\n{}",
                expected.mounted,
                expected.events,
                found.mounted,
                found.host,
                found.events
            );
        }
    }
    Ok(())
}

fn after(share: &Share, mode: &str, step: &str) -> Result<After> {
    let prepare =
        format!("rm -f f read; echo content > f; touch read; chmod {mode} f; chmod 666 read");
    share.run_on_host(&format!("chmod 777 .; {prepare}"))?;
    let mut recorder = Recorder::new(share, Recorder::CHANGES)?;
    recorder.barrier()?;
    recorder.watch(Path::new("."))?;
    fs::metadata(share.mount().join("f"))?;
    share.run_in_mount(step)?;
    recorder.barrier()?;
    Ok(After {
        host: mode_of(&share.host().join("f"))?,
        mounted: mode_of(&share.mount().join("f"))?,
        events: render(&merge_allowed(&recorder.take_events())),
    })
}

fn mode_of(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.mode() & 0o7777)
}

fn file_capabilities(mount: &Mount) -> Result<()> {
    let (local, mounted) = (mount.local_twin("capabilities")?, mount.share("capabilities")?);
    let of_user = STEPS.iter().map(|step| format!("{ORDINARY_USER} '{step}'"));
    let of_root = STEPS.iter().chain(&STEPS_OF_ROOT).map(|step| (*step).to_owned());
    for step in of_user.chain(of_root) {
        let [expected, found] = [&local, &mounted].map(|share| -> Result<_> {
            share.run_on_host(&format!(
                "chmod 777 .; rm -f f read; echo content > f; touch read; chmod 777 f; chmod 666 read; {CAPABILITY}"
            ))?;
            fs::metadata(share.mount().join("f"))?;
            share.run_in_mount(&step)?;
            Ok([has_capability(share.host())?, has_capability(share.mount())?])
        });
        let (expected, found) = (expected?, found?);
        ensure!(expected == found, "{step}\n  local: {expected:?}, mounted: {found:?}");
    }
    Ok(())
}

fn has_capability(dir: &Path) -> Result<bool> {
    let output = std::process::Command::new("getfattr")
        .args(["-n", "security.capability", "f"])
        .current_dir(dir)
        .output()?;
    Ok(output.status.success())
}

/// The guest's kernel does not look at the mode of a file again that it has found to be an ordinary one (`S_NOSEC`).
fn unknown_set_id_bits(mount: &Mount) -> Result<()> {
    let share = mount.share("unknown")?;
    for step in ["printf x >&3", "truncate -s 2 /dev/fd/3", "fallocate -l 9000 /dev/fd/3"] {
        share.run_on_host("chmod 777 .; rm -f f; echo content > f; chmod 777 f")?;
        let host = share.host();
        // The host's change is made while a program has the file open, and without a look in between.
        let change = format!("chmod 6777 {}/f", host.display());
        share.run_in_mount(&format!(
            "exec 3<> f; printf x >&3; {change}; {ORDINARY_USER} '{step}'"
        ))?;
        let mode = mode_of(&host.join("f"))?;
        ensure!(mode == 0o777, "{step}: {mode:o}");
    }
    Ok(())
}
