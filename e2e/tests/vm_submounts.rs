// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is mounted in the share, with a server that announces it (`--announce-submounts`, which Proxmox and libvirt set): the
//! guest's kernel makes a superblock of each, and programs that watch there are told as in a local directory.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::vm::{Kernel, Uml, Vm};
use farwatch_testkit::{
    Event, Mount, PATIENCE, Place as _, Record as _, Recorder, Share, Submount, merge_allowed,
};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// The patches that are tested.
const SERIES: &str = "6.12";
/// Where the share is mounted once more in the guest.
const AGAIN: &str = "/again";
const WATCHED: [&str; 4] = ["below", "below/dir", "below/f", "below/g"];

/// On the host. Nobody in the guest has seen `deep`.
const STEPS: [&str; 15] = [
    "echo new > below/new; chmod 600 below/new",
    "mv below/new below/dir/new",
    "echo more >> below/f",
    "chmod 700 below/f",
    "ln below/f below/h",
    "rm below/h",
    "mv below/f below/deep/f",
    "mv below/deep/f below/f",
    "mv below/dir/new below/g",
    "mkdir below/made; rmdir below/made",
    "ln -s f below/link; rm below/link",
    "chmod 755 below",
    "rm below/f",
    "mv below/dir below/moved; rmdir below/moved",
    "rm below/g",
];

/// The names are looked up again each time, and the server has the mounts of this process.
const OPTIONS: [&str; 5] = ["--announce-submounts", "--cache", "never", "--sandbox", "none"];

type Test = fn(&Kernel) -> Result<()>;

fn main() -> ExitCode {
    e2e::enter_own_mount_namespace();
    let on = |version: &'static str, name: &str, test: Test| {
        let run = move || test(&Kernel::find(version).context("the kernel has gone")?);
        let needs = [Need::Mount, Need::Vm(version)];
        e2e::trial(&format!("{name}_on_{version}"), &needs, run)
    };
    let told = "watchers_in_an_announced_submount_receive_the_events_of_a_local_directory";
    let goes = "an_announced_submount_comes_and_goes";
    let needs = [Need::Mount, Need::Uml(SERIES)];
    let name = "kernel_that_raises_events_raises_those_of_an_announced_submount";
    let trials = vec![
        on("6.1", told, told_as_locally),
        on("6.12", told, told_as_locally),
        on("6.12", goes, comes_and_goes),
        e2e::trial(name, &needs, told_by_its_kernel),
    ];
    // Each boots a machine of its own, which fills a processor: one after the other.
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// In the guest's mount of the share, and in a bind mount of it, where the kernel makes a superblock of its own.
fn told_as_locally(kernel: &Kernel) -> Result<()> {
    let vm = Vm::boot(kernel, Mount::start_device(serve)?)?;
    let share = vm.share("share")?;
    let _below = filled(&share)?;
    // An agent that finds the submount when it starts is that of the share, and there is no other.
    vm.run_in_mount(&share, "ls below/")?;
    vm.guest().start("agent", &["farwatch-agent", "--all"])?;
    vm.guest().wait_for_line("agent", "events are delivered on ")?;
    let share_at = vm.mount_point().display().to_string();
    let bind = format!("mkdir {AGAIN}; mount --bind {share_at} {AGAIN}; ls {AGAIN}/share/below/");
    vm.guest().shell(Path::new("/"), &bind)?;
    vm.guest().recorder("again", &Path::new(AGAIN).join("share"))?;
    let mut recorder = vm.remote_recorder(&share)?;
    for path in WATCHED {
        recorder.watch(Path::new(path))?;
        vm.guest().watch("again", Path::new(path))?;
    }
    let mounted = vm.guest().shell(Path::new("/"), "cat /proc/mounts")?;
    let submounts = mounted.lines().filter(|line| line.starts_with("none ")).count();
    ensure!(submounts == 2, "not a submount for each mount of the share:\n{mounted}");
    for (n, (step, wanted)) in steps_locally(&vm)?.into_iter().enumerate() {
        share.run_on_host(&format!("{step}; > ../share.barrier/after{n}"))?;
        recorder.wait_for_sentinel(&format!("after{n}"))?;
        vm.guest().wait_for_sentinel("again", &format!("after{n}"))?;
        let (told, again) = (recorder.take_events()?, vm.guest().events("again")?);
        for (place, told) in [("the mount", told), ("the bind mount", again)] {
            let told = line(&told);
            ensure!(told == wanted, "{step}, in {place}: {told}\nlocally: {wanted}");
        }
    }
    let log = vm.log();
    ensure!(!log.contains("another agent") && !log.contains("WARN"), "{log}");
    Ok(())
}

/// Who has gone into it once: there may be several superblocks of it, of which one is told.
fn told_by_its_kernel() -> Result<()> {
    let kernel = Uml::find(SERIES).context("the kernel has gone")?;
    let vm = Vm::start_uml(&kernel, &OPTIONS)?;
    let share = vm.share("share")?;
    let _below = filled(&share)?;
    vm.run_in_mount(&share, "ls below/")?;
    let mut recorder = vm.remote_recorder(&share)?;
    for path in WATCHED {
        recorder.watch(Path::new(path))?;
    }
    for (step, wanted) in steps_locally(&vm)? {
        share.run_on_host(step)?;
        recorder.barrier()?;
        let told = line(&recorder.take_events()?);
        ensure!(told == wanted, "{step}: {told}\nlocally: {wanted}");
    }
    vm.is_sound()
}

fn comes_and_goes(kernel: &Kernel) -> Result<()> {
    let vm = Vm::boot(kernel, Mount::start_device(serve)?)?;
    vm.start_agent()?;
    let share = vm.share("share")?;
    let below = filled(&share)?;
    // The guest knows that it is there, and has not mounted it: nobody can watch in it, only what is beneath.
    vm.run_in_mount(&share, "ls -ld below")?;
    let mut beneath = vm.remote_recorder(&share)?;
    beneath.watch(Path::new("below"))?;
    share.run_on_host("echo new > below/new; mv below/new below/newer; rm below/newer")?;
    vm.sync()?;
    // Looked up again and again, it stays mounted.
    vm.run_in_mount(&share, "cd below; for n in 1 2 3; do ls ../below/; done; test -e dir")?;
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("below"))?;
    vm.run_in_mount(&share, "cd below; for n in 1 2 3; do ls ../below/; done; test -e dir")?;
    share.run_on_host("mkdir below/new")?;
    recorder.barrier()?;
    let told = line(&recorder.take_events()?);
    ensure!(told == "CREATE,ISDIR below/new", "{told}");
    vm.run_in_mount(&share, "rmdir below/new")?;
    recorder.barrier()?;
    beneath.barrier()?;
    let told = line(&beneath.take_events()?);
    ensure!(told.is_empty(), "beneath: {told}");
    drop(beneath);
    // The guest's mount can go, and then the host's: the agent keeps neither.
    drop(recorder);
    vm.run_in_mount(&share, "umount below")?;
    let deadline = Instant::now() + PATIENCE;
    let dir = share.host().join("below");
    loop {
        vm.run_in_mount(&share, "echo 2 > /proc/sys/vm/drop_caches")?;
        match unmount(&dir, UnmountFlags::empty()) {
            Err(Errno::BUSY) if Instant::now() < deadline => {}
            unmounted => break unmounted.context("umount")?,
        }
    }
    drop(below);
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("below"))?;
    share.run_on_host("mkdir below/beneath")?;
    recorder.barrier()?;
    let told = line(&recorder.take_events()?);
    ensure!(told == "CREATE,ISDIR below/beneath", "{told}");
    ends_with_its_mount(&vm, &share)
}

/// As that of any file system does, whoever it is that unmounts it.
fn ends_with_its_mount(vm: &Vm, share: &Share) -> Result<()> {
    let _below = Submount::tmpfs(&share.host().join("below"))?;
    vm.run_in_mount(share, "ls below/")?;
    let mut recorder = vm.remote_recorder(share)?;
    recorder.watch(Path::new("below"))?;
    share.run_on_host("mkdir below/dir")?;
    recorder.barrier()?;
    vm.run_in_mount(share, "umount below")?;
    let deadline = Instant::now() + PATIENCE;
    let mut told = recorder.take_events()?;
    while told.len() < 3 && Instant::now() < deadline {
        recorder.barrier()?;
        told.extend(recorder.take_events()?);
    }
    let told = line(&told);
    let wanted = "CREATE,ISDIR below/dir|UNMOUNT,ISDIR [below]|IGNORED [below]";
    ensure!(told == wanted, "{told}");
    Ok(())
}

/// What a watcher in a local directory is told of each step.
fn steps_locally(vm: &Vm) -> Result<Vec<(&'static str, String)>> {
    let share = vm.local_twin("share")?;
    let _below = filled(&share)?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    for path in WATCHED {
        recorder.watch(Path::new(path))?;
    }
    let mut steps = Vec::new();
    for step in STEPS {
        share.run_on_host(step)?;
        recorder.barrier()?;
        steps.push((step, line(&recorder.take_events())));
    }
    Ok(steps)
}

/// A file system on `below`, with something in it.
fn filled(share: &Share) -> Result<Submount> {
    let below = share.host().join("below");
    fs::create_dir(&below)?;
    let below = Submount::tmpfs(&below)?;
    share.run_on_host("mkdir below/dir below/deep; echo f > below/f; echo g > below/g")?;
    Ok(below)
}

/// Events in a line, without the numbers of cookies.
fn line(events: &[Event]) -> String {
    let text = |event: &Event| event.to_string().trim_end_matches(char::is_numeric).to_owned();
    merge_allowed(events).iter().map(text).collect::<Vec<_>>().join("|")
}

fn serve(mount: &Mount, socket: &Path) -> Result<Command> {
    let mut command = mount.farwatch()?;
    command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
    command.args(OPTIONS);
    Ok(command)
}
