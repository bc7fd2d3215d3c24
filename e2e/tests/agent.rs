// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How `farwatch-agent` begins and ends, on a mount of this machine. In a virtual machine: `vm_*`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::{Kind, Mount, PATIENCE, Process, Recorder, Share, render};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

/// How long an agent may take to exit after a signal.
const END_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[Need::Mount];
        sigterm_ends_an_agent_within_a_second_and_its_mount_still_works,
        agent_that_follows_a_killed_one_reports_changes_made_in_the_meantime,
        second_agent_is_refused_and_the_first_still_works,
        agent_whose_server_does_not_answer_reports_it_and_fails,
        agent_whose_mount_is_gone_reports_it_and_fails,
        an_agent_works_on_any_directory_of_the_mount_and_through_a_read_only_bind_mount,
        a_read_only_superblock_is_refused_with_what_to_do,
        other_mount_is_refused_with_advice,
        an_agent_needs_root_and_says_so,
        systemd_is_notified_when_delivery_begins_and_ends,
        one_agent_serves_several_mounts,
        the_capabilities_of_the_systemd_unit_are_enough_and_each_is_needed,
    ];
    trials.extend(e2e::trials![
        &[Need::Mount, Need::StockVirtiofsd];
        a_stock_virtiofsd_is_refused_with_what_to_do,
    ]);
    e2e::run(trials)
}

fn sigterm_ends_an_agent_within_a_second_and_its_mount_still_works() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    let (_share, mut recorder) = watched(&mount, "share")?;
    recorder.barrier()?;
    // The fastest counts: an agent that waits for anything before it exits does so each time, and a loaded
    // machine delays some of them only.
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let before = Instant::now();
        mount.agent().signal(Signal::TERM)?;
        let status = mount.agent().wait()?;
        ensure!(status.success(), "{status}:\n{}", mount.agent().log());
        fastest = fastest.min(before.elapsed());
        mount.start_agent(&[])?;
        recorder.barrier()?;
    }
    ensure!(fastest < END_MAX, "the fastest of three took {fastest:?}");
    Ok(())
}

fn agent_that_follows_a_killed_one_reports_changes_made_in_the_meantime() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    let share = mount.share("share")?;
    for file in ["written", "gone", "moved", "same"] {
        fs::write(share.host().join(file), "old")?;
        // What is within the grain of timestamps of the kill is told twice.
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().write(true).open(share.host().join(file))?.set_modified(long_ago)?;
    }
    fs::create_dir(share.host().join("dir"))?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    recorder.watch(Path::new("dir"))?;
    let listed = fs::read_dir(share.mount())?.count();
    ensure!(listed == 5, "{listed} entries");
    recorder.barrier()?;

    mount.agent().signal(Signal::KILL)?;
    let status = mount.agent().wait()?;
    ensure!(status.signal() == Some(Signal::KILL.as_raw()), "{status}");
    fs::write(share.host().join("new"), "new")?;
    fs::write(share.host().join("dir/inside"), "new")?;
    fs::remove_file(share.host().join("gone"))?;
    fs::rename(share.host().join("moved"), share.host().join("dir/moved"))?;
    fs::write(share.host().join("written"), "newer")?;
    recorder.take_events();
    mount.start_agent(&[])?;

    let wanted = [
        (Kind::Create, "new"),
        (Kind::Create, "dir/inside"),
        (Kind::Delete, "gone"),
        (Kind::Delete, "moved"),
        (Kind::Create, "dir/moved"),
        (Kind::Modify, "written"),
    ];
    let told = |recorder: &Recorder| {
        wanted.iter().all(|(kind, object)| {
            recorder.events().iter().any(|event| event.kind == *kind && event.object == *object)
        })
    };
    mount.sync()?;
    recorder.wait_until(Duration::ZERO, told)?;
    ensure!(fs::read_to_string(share.mount().join("written"))? == "newer", "old content");
    // In step again: what happens now is told once and exactly.
    recorder.barrier()?;
    recorder.take_events();
    fs::remove_file(share.host().join("new"))?;
    recorder.barrier()?;
    let told = render(recorder.events());
    ensure!(told == "    DELETE new\n", "not in step again:\n{told}");
    Ok(())
}

fn second_agent_is_refused_and_the_first_still_works() -> Result<()> {
    let mount = Mount::start_with_agent()?;
    let (_share, mut recorder) = watched(&mount, "share")?;
    refused(&mount, &mount.mount_point(), "another agent serves this mount: stop it first")?;
    recorder.barrier()
}

fn agent_whose_server_does_not_answer_reports_it_and_fails() -> Result<()> {
    let mut mount = Mount::start_through_socket(|mount, socket| {
        let mut command = mount.farwatch()?;
        command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
        // One process, which can be stopped.
        command.args(["--sandbox", "none"]);
        Ok(command)
    })?;
    mount.driver().signal(Signal::TERM)?;
    ensure!(mount.ended()?.success(), "the driver with an agent of its own did not end");
    mount.mount_through_socket_without_agent()?;
    mount.start_agent(&["--server-timeout", "2"])?;
    mount.device().signal(Signal::STOP)?;
    let said = mount.agent().wait_for_line(|line| line.contains("has not answered for 2 s"));
    // Its worker still waits for the server, and nothing can end that.
    let status = said.and_then(|_| mount.agent().exited());
    mount.device().signal(Signal::CONT)?;
    let status = status?;
    ensure!(status.code() == Some(1), "{status}");
    Ok(())
}

fn agent_whose_mount_is_gone_reports_it_and_fails() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    mount.driver().signal(Signal::TERM)?;
    failed(&mut mount, "receiving notifications failed")?;
    ensure!(mount.ended()?.success(), "the mount did not end cleanly");
    Ok(())
}

fn an_agent_works_on_any_directory_of_the_mount_and_through_a_read_only_bind_mount() -> Result<()> {
    let mut mount = Mount::start_with(&["--no-agent"])?;
    let (share, mut recorder) = watched(&mount, "share")?;
    fs::create_dir(share.host().join("sub"))?;
    for target in [share.mount().join("sub"), mount.outside()] {
        if target == mount.outside() {
            rustix::mount::mount_bind(share.mount().join("sub"), &target)?;
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(&target, flags, c"")?;
        }
        let mut command = mount.farwatch_agent()?;
        command.arg(&target);
        let mut agent = Process::start(command)?;
        let told = agent.wait_for_line(|line| line.starts_with("events are delivered on "));
        let barrier = told.and_then(|_| {
            // Moves out of the share need the root of the mount.
            fs::write(share.host().join("f"), "")?;
            recorder.barrier()?;
            recorder.take_events();
            fs::rename(share.host().join("f"), mount.host().join("../moved"))?;
            recorder.barrier()?;
            let told = render(recorder.events());
            ensure!(told.trim_start().starts_with("MOVED_FROM f "), "{told}");
            Ok(())
        });
        agent.signal(Signal::TERM)?;
        agent.wait()?;
        if target == mount.outside() {
            rustix::mount::unmount(&target, UnmountFlags::DETACH)?;
        }
        barrier?;
    }
    mount.driver().signal(Signal::TERM)?;
    ensure!(mount.ended()?.success(), "the mount did not end cleanly");
    Ok(())
}

fn a_read_only_superblock_is_refused_with_what_to_do() -> Result<()> {
    let mount = Mount::start_with(&["--no-agent"])?;
    rustix::mount::mount_remount(mount.mount_point(), MountFlags::RDONLY, c"")?;
    refused(&mount, &mount.mount_point(), "mounted read-only, where the kernel raises no events")
}

fn other_mount_is_refused_with_advice() -> Result<()> {
    let mount = Mount::unmounted()?;
    let no_directory = mount.host().join("missing");
    refused(&mount, &no_directory, "no such directory: name a mount point, or a tag")?;
    refused(&mount, &mount.host(), "not a virtiofs mount: name the mount point of one")
}

fn an_agent_needs_root_and_says_so() -> Result<()> {
    let mount = Mount::start_with(&["--no-agent"])?;
    let agent = mount.farwatch_agent()?;
    // Where anybody may start it.
    let program = mount.mount_point().with_file_name("farwatch-agent");
    fs::copy(agent.get_program(), &program)?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(program.parent().unwrap_or(&program), open)?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(&program).arg(mount.mount_point());
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("needs root"), "{said}");
    Ok(())
}

fn systemd_is_notified_when_delivery_begins_and_ends() -> Result<()> {
    let mount = Mount::start_with(&["--no-agent"])?;
    let path = mount.outside().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let told = || -> Result<String> {
        let mut message = [0; 256];
        let len = socket.recv(&mut message)?;
        Ok(String::from_utf8_lossy(message.get(..len).unwrap_or_default()).into_owned())
    };
    let mut command = mount.farwatch_agent()?;
    command.env("NOTIFY_SOCKET", &path).arg(mount.mount_point());
    let mut agent = Process::start(command)?;
    let ready = told()?;
    ensure!(ready.contains("READY=1"), "{ready}");
    agent.signal(Signal::TERM)?;
    let stopping = told()?;
    ensure!(stopping.contains("STOPPING=1"), "{stopping}");
    ensure!(agent.wait()?.success(), "{}", agent.log());
    Ok(())
}

fn one_agent_serves_several_mounts() -> Result<()> {
    let mounts = [Mount::start_with(&["--no-agent"])?, Mount::start_with(&["--no-agent"])?];
    let mut command = mounts[0].farwatch_agent()?;
    command.args(mounts.iter().map(Mount::mount_point));
    let mut agent = Process::start(command)?;
    for _ in &mounts {
        agent.wait_for_line(|line| line.starts_with("events are delivered on "))?;
    }
    for mount in &mounts {
        watched(mount, "share")?.1.barrier()?;
    }
    agent.signal(Signal::TERM)?;
    ensure!(agent.wait()?.success(), "{}", agent.log());
    Ok(())
}

fn the_capabilities_of_the_systemd_unit_are_enough_and_each_is_needed() -> Result<()> {
    const UNIT: &str = include_str!("../../contrib/farwatch-agent@.service");
    let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let line = line.context("the unit bounds no capabilities")?.to_lowercase();
    let all: Vec<&str> =
        line.split_whitespace().filter_map(|name| name.strip_prefix("cap_")).collect();
    // Only who follows another agent is told a difference.
    let mut mount = Mount::start_with_agent()?;
    mount.agent().signal(Signal::TERM)?;
    mount.agent().wait()?;
    ensure!(tells_all(&mount, &all, "all")?, "with all of them events are missing");
    for without in &all {
        let rest: Vec<&str> = all.iter().filter(|name| *name != without).copied().collect();
        ensure!(!tells_all(&mount, &rest, without)?, "{without} is not needed");
    }
    Ok(())
}

/// Whether an agent with these capabilities works, and tells of changes that need some of them.
fn tells_all(mount: &Mount, names: &[&str], share: &str) -> Result<bool> {
    let share = mount.share(share)?;
    // What is measured is not the way to the barrier.
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o777));
    open(share.host())?;
    open(&share.host().with_extension("barrier"))?;
    share.run_on_host("umask 022; mkdir closed; touch foreign; chown 1000 foreign")?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    for watched in [".", "closed"] {
        recorder.watch(Path::new(watched))?;
    }
    // In a difference the type of an object is known; `witness` comes after `device`.
    share.run_on_host("mknod device b 7 0; touch witness")?;

    let agent = mount.farwatch_agent()?;
    let bounds = names.iter().map(|name| format!(",+{name}")).collect::<String>();
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--inh-caps=-all"]).arg(format!("--bounding-set=-all{bounds}"));
    command.arg("--").arg(agent.get_program()).arg(mount.mount_point());
    let mut agent = Process::start(command)?;
    if agent.wait_for_line(|line| line.starts_with("events are delivered on ")).is_err() {
        let status = agent.wait()?;
        ensure!(status.code() == Some(1), "{status}:\n{}", agent.log());
        return Ok(false);
    }
    let told = |recorder: &Recorder, wanted: &str| {
        recorder.events().iter().any(|event| event.to_string() == wanted)
    };
    recorder
        .wait_until(PATIENCE, |recorder| told(recorder, "CREATE witness"))
        .with_context(|| format!("with {names:?}"))?;
    share.run_on_host("truncate -s 1 foreign; mkfifo closed/made")?;
    recorder.barrier()?;
    let wanted = ["CREATE device", "MODIFY foreign", "CREATE closed/made"];
    let all = wanted.iter().all(|wanted| told(&recorder, wanted));
    agent.signal(Signal::TERM)?;
    agent.wait()?;
    Ok(all)
}

fn a_stock_virtiofsd_is_refused_with_what_to_do() -> Result<()> {
    let mount = Mount::start_through_socket(|mount, socket| {
        let Some(program) = e2e::stock_virtiofsd() else { anyhow::bail!("no virtiofsd") };
        let mut command = Command::new(program);
        command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(mount.host());
        command.args(["--sandbox", "none", "--seccomp", "none"]);
        Ok(command)
    })?;
    refused(&mount, &mount.mount_point(), "no farwatch server behind this mount")
}

/// A share of the mount, and a recorder that watches it.
fn watched(mount: &Mount, name: &str) -> Result<(Share, Recorder)> {
    let share = mount.share(name)?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    Ok((share, recorder))
}

/// An agent for `target` must fail at once, with one sentence that holds `why`.
fn refused(mount: &Mount, target: &Path, why: &str) -> Result<()> {
    let output = mount.farwatch_agent()?.arg(target).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains(why) && said.lines().count() == 1, "another error was expected: {said}");
    let target = target.display().to_string();
    ensure!(said.contains(&target), "it does not say of what: {said}");
    Ok(())
}

/// The mount's agent must fail and say `why`.
fn failed(mount: &mut Mount, why: &str) -> Result<()> {
    let status = mount.agent().wait()?;
    let log = mount.agent().log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains(why), "another error was expected: {log}");
    Ok(())
}
