// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtual machine moves to another host while it runs: from one QEMU and one `farwatch serve` to
//! others. Its programs keep what they have open and what they watch, and its agent goes on by itself.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::Need;
use farwatch_testkit::vm::{Kernel, Qemu, Vm};
use farwatch_testkit::{Mount, Place as _, Record as _, Share, Submount, merge_allowed, render};

const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// The server has the mounts of this process.
const SUBMOUNTS: [&str; 3] = ["--announce-submounts", "--sandbox", "none"];

fn main() -> ExitCode {
    e2e::enter_own_mount_namespace();
    let mut trials = Vec::new();
    for version in KERNELS {
        let needs = [Need::Mount, Need::Vm(version), Need::Migration];
        for (name, test) in [
            ("an_agent_goes_on_after_a_migration", with_agent as fn(&Vm, &Path) -> Result<()>),
            ("a_guest_without_an_agent_moves_too", without_agent),
        ] {
            trials.push(e2e::trial(&format!("{name}_on_{version}"), &needs, move || {
                run(version, &[], test)
            }));
        }
    }
    let name = "watchers_in_an_announced_submount_receive_events_after_a_migration_on_6.12";
    let needs = [Need::Mount, Need::Vm("6.12"), Need::Migration];
    trials.push(e2e::trial(name, &needs, || run("6.12", &SUBMOUNTS, with_submount)));
    // Each boots a machine of its own, which fills a processor: one after the other.
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(version: &str, options: &[&str], test: fn(&Vm, &Path) -> Result<()>) -> Result<()> {
    let kernel = Kernel::find(version).context("the kernel has gone")?;
    let qemu = Qemu::that_migrates().context("QEMU has gone")?;
    let mut host = Mount::start_device(|mount, socket| serve(mount, socket, options))?;
    let (here, there) = (host.socket(), host.serve_again(options)?);
    let vm = Vm::boot_in(&qemu, &kernel, host, &here)?;
    test(&vm, &there).map_err(|error| anyhow!("{error:#}\n{}", vm.log()))
}

fn serve(mount: &Mount, socket: &Path, options: &[&str]) -> Result<Command> {
    let mut command = mount.farwatch()?;
    command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
    command.args(options);
    Ok(command)
}

fn with_agent(vm: &Vm, there: &Path) -> Result<()> {
    vm.start_agent()?;
    let share = vm.share("share")?;
    share
        .run_on_host("mkdir -p deep/deeper; echo kept > deep/held; echo old > deep/deeper/gone")?;
    let mut recorder = vm.remote_recorder(&share)?;
    for watched in [".", "deep", "deep/deeper"] {
        recorder.watch(Path::new(watched))?;
    }
    vm.run_in_mount(&share, "cat deep/deeper/gone")?;
    hold(vm, &share)?;
    recorder.barrier()?;
    share.run_on_host("echo x > f; mv f deep/g")?;
    recorder.barrier()?;
    let told = render(&merge_allowed(&recorder.take_events()?));
    ensure!(told.contains("CREATE f") && told.contains("MOVED_TO deep/g"), "before: {told}");

    vm.migrate(there)?;
    // Nobody is listening yet, or just so.
    share.run_on_host("rm deep/deeper/gone; mkdir deep/deeper/made")?;
    let mut told = String::new();
    for line in ["DELETE deep/deeper/gone\n", "CREATE,ISDIR deep/deeper/made\n"] {
        // Differences come a directory at a time; a barrier may be among the first.
        for _ in 0..100 {
            if told.contains(line) {
                break;
            }
            recorder.barrier()?;
            told += &render(&recorder.take_events()?);
        }
        ensure!(told.contains(line), "no {line} after the migration:\n{told}");
    }
    is_still_held(vm, &share)?;

    // From here on there are single events again.
    share.run_on_host("touch deep/h; mv deep/h deep/deeper/i; rm deep/deeper/i")?;
    recorder.barrier()?;
    let told = render(&recorder.take_events()?);
    for event in ["CREATE deep/h", "MOVED_FROM deep/h c", "MOVED_TO deep/deeper/i c"] {
        ensure!(told.contains(event), "no {event}:\n{told}");
    }
    Ok(())
}

fn without_agent(vm: &Vm, there: &Path) -> Result<()> {
    let share = vm.share("share")?;
    share.run_on_host("mkdir deep; echo kept > deep/held")?;
    hold(vm, &share)?;
    vm.migrate(there)?;
    is_still_held(vm, &share)?;
    // An agent that starts there finds a server, whatever the machine has been through.
    vm.start_agent()?;
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("deep"))?;
    recorder.barrier()?;
    share.run_on_host("echo x > deep/f")?;
    recorder.barrier()?;
    let told = render(&recorder.take_events()?);
    ensure!(told.contains("CREATE deep/f"), "{told}");
    Ok(())
}

fn with_submount(vm: &Vm, there: &Path) -> Result<()> {
    vm.start_agent()?;
    let share = vm.share("share")?;
    let below = share.host().join("below");
    fs::create_dir(&below)?;
    let _below = Submount::tmpfs(&below)?;
    share.run_on_host("mkdir below/dir")?;
    vm.run_in_mount(&share, "ls below/dir/")?;
    let mounted = vm.guest().shell(Path::new("/"), "cat /proc/mounts")?;
    ensure!(mounted.lines().any(|line| line.starts_with("none ")), "no submount:\n{mounted}");
    let mut recorder = vm.remote_recorder(&share)?;
    for watched in [".", "below", "below/dir"] {
        recorder.watch(Path::new(watched))?;
    }
    recorder.barrier()?;

    vm.migrate(there)?;
    // With the barrier, the agent has attached to the server there.
    recorder.barrier()?;
    recorder.take_events()?;
    share.run_on_host("touch below/f; mv below/f below/dir/g; rm below/dir/g")?;
    recorder.barrier()?;
    let told = render(&recorder.take_events()?);
    for event in ["CREATE below/f", "MOVED_FROM below/f c", "MOVED_TO below/dir/g c"] {
        ensure!(told.contains(event), "no {event}:\n{told}");
    }
    ensure!(told.contains("DELETE below/dir/g"), "{told}");
    Ok(())
}

/// A program opens `deep/held`, and will show it when it is told to.
fn hold(vm: &Vm, share: &Share) -> Result<()> {
    const SCRIPT: &str =
        "exec 3< deep/held; echo open; until [ -e /tmp/go ]; do sleep 0.1; done; cat <&3";
    let script = format!("cd {} && {SCRIPT}", share.mount().display());
    vm.guest().start("holder", &["sh", "-c", &script])?;
    vm.guest().wait_for_line("holder", "open").map(drop)
}

/// That program goes on, and another finds all as it was.
fn is_still_held(vm: &Vm, share: &Share) -> Result<()> {
    vm.guest().shell(Path::new("/"), "mkdir -p /tmp; touch /tmp/go")?;
    vm.guest().wait_for_line("holder", "kept")?;
    let script = "cat deep/held; echo new > deep/new; cat deep/new; mkdir deep/dir; rmdir deep/dir";
    let content = vm.guest().shell(share.mount(), script)?;
    ensure!(content == "kept\nnew\n", "{content}");
    Ok(())
}
