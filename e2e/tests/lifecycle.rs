// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a mount begins and ends: whatever happens, no mount and no process is left behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::Need;
use farwatch_testkit::{Mount, PATIENCE, Process, child_of, is_mount_point};
use rustix::process::{Pid, Signal, kill_process};

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[Need::Mount];
        ctrl_c_ends_a_mount_cleanly,
        sigterm_ends_a_mount_cleanly,
        umount_ends_a_mount_cleanly,
        sigterm_ends_a_mount_that_a_program_is_inside_of,
        sigterm_ends_a_mount_whose_log_is_not_read,
        a_mount_ends_with_an_error_when_its_device_is_killed,
        a_mount_ends_with_an_error_when_the_device_that_serves_it_is_killed,
        sigterm_ends_a_mount_whose_device_is_stopped_and_its_waiting_programs,
        a_device_serves_the_next_mount_after_the_first_has_ended,
        a_mount_takes_the_place_of_the_dead_mount_that_a_killed_one_has_left,
        deletion_of_the_shared_directory_is_reported_by_sync_status_and_log,
        second_mount_on_one_mount_point_is_refused_and_the_first_still_works,
        a_missing_shared_directory_is_refused_by_name,
        a_missing_mount_point_is_refused_by_name,
        a_shared_file_is_refused_by_name,
        a_mount_point_that_is_a_file_is_refused_by_name,
        a_socket_without_a_device_is_refused_by_name,
    ];
    trials.extend(e2e::trials![
        &[Need::Mount, Need::StockVirtiofsd];
        a_stock_virtiofsd_is_mounted_with_the_word_that_it_sends_no_events,
    ]);
    e2e::run(trials)
}

fn ctrl_c_ends_a_mount_cleanly() -> Result<()> {
    ends_cleanly(|mount| mount.driver().signal(Signal::INT))
}

fn sigterm_ends_a_mount_cleanly() -> Result<()> {
    ends_cleanly(|mount| mount.driver().signal(Signal::TERM))
}

fn umount_ends_a_mount_cleanly() -> Result<()> {
    ends_cleanly(|mount| {
        let status = Command::new("umount").arg(mount.mount_point()).status()?;
        ensure!(status.success(), "umount failed: {status}");
        Ok(())
    })
}

fn sigterm_ends_a_mount_that_a_program_is_inside_of() -> Result<()> {
    let mut mount = Mount::start()?;
    let mut inside = Command::new("cat");
    inside.current_dir(mount.mount_point()).stdin(Stdio::piped());
    let mut inside = inside.spawn()?;
    mount.driver().signal(Signal::TERM)?;
    let ended = mount.ended();
    // Its standard input closes, and cat ends.
    drop(inside.stdin.take());
    inside.wait()?;
    let status = ended?;
    ensure!(status.success(), "exit code 0 was expected, not {status}");
    Ok(())
}

fn sigterm_ends_a_mount_whose_log_is_not_read() -> Result<()> {
    let mount = Mount::unmounted()?;
    let mut command = mount.farwatch()?;
    command.args(["--log", "info", "mount"]).arg(mount.host()).arg(mount.mount_point());
    let mut farwatch = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(farwatch.stdout.take().context("a pipe")?).read_line(&mut line)?;
    // What it logs from here on cannot be written (EPIPE).
    drop(farwatch.stderr.take());
    kill_process(Pid::from_child(&farwatch), Signal::TERM)?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = farwatch.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            farwatch.kill()?;
            bail!("it goes on");
        }
        std::thread::yield_now();
    };
    ensure!(status.success(), "{status}");
    ensure!(!is_mount_point(&mount.mount_point())?, "it is still mounted");
    Ok(())
}

fn a_mount_ends_with_an_error_when_its_device_is_killed() -> Result<()> {
    let mut mount = Mount::start_through_socket(serve)?;
    fs::write(mount.host().join("f"), "before")?;
    ensure!(fs::read_to_string(mount.mount_point().join("f"))? == "before", "not mounted");
    mount.device().signal(Signal::KILL)?;
    let status = mount.ended()?;
    ensure!(status.code() == Some(1), "an error was expected, not {status}");
    let device = mount.ended()?;
    ensure!(device.signal() == Some(Signal::KILL.as_raw()), "not killed: {device}");
    Ok(())
}

fn a_mount_ends_with_an_error_when_the_device_that_serves_it_is_killed() -> Result<()> {
    let mut mount = Mount::start()?;
    kill_process(child_of(mount.driver().id())?, Signal::KILL)?;
    let status = mount.ended()?;
    ensure!(status.code() == Some(1), "an error was expected, not {status}");
    Ok(())
}

fn sigterm_ends_a_mount_whose_device_is_stopped_and_its_waiting_programs() -> Result<()> {
    let mut mount = Mount::start()?;
    let mut waits = Command::new("stat");
    waits.arg(mount.mount_point().join("missing")).stdout(Stdio::null()).stderr(Stdio::null());
    kill_process(child_of(mount.driver().id())?, Signal::STOP)?;
    // The agent waits for an answer, and so does a program.
    fs::write(mount.host().join("f"), "changed")?;
    let mut waits = waits.spawn()?;
    mount.driver().signal(Signal::TERM)?;
    let status = mount.ended()?;
    ensure!(status.code() == Some(1), "an error was expected, not {status}");
    ensure!(!waits.wait()?.success(), "the program has got an answer");
    Ok(())
}

fn a_device_serves_the_next_mount_after_the_first_has_ended() -> Result<()> {
    let mut mount = Mount::start_through_socket(serve)?;
    for round in ["first", "second"] {
        fs::write(mount.host().join("f"), round)?;
        ensure!(fs::read_to_string(mount.mount_point().join("f"))? == round, "{round} mount");
        mount.driver().signal(Signal::TERM)?;
        ensure!(mount.ended()?.success(), "{round} mount did not end cleanly");
        if round == "first" {
            mount.mount_through_socket()?;
        }
    }
    Ok(())
}

fn a_mount_takes_the_place_of_the_dead_mount_that_a_killed_one_has_left() -> Result<()> {
    let mut mount = Mount::start()?;
    for round in ["first", "second"] {
        // The kernel goes on to answer from its cache about a directory that is watched.
        let watcher = inotify::Inotify::init()?;
        watcher.watches().add(mount.mount_point(), inotify::WatchMask::CREATE)?;
        mount.kill_driver()?;
        // Its device may still be about to notice.
        mount = mount.started_with(&[])?;
        fs::write(mount.host().join("f"), round)?;
        ensure!(fs::read_to_string(mount.mount_point().join("f"))? == round, "{round} mount");
    }
    mount.driver().signal(Signal::TERM)?;
    ensure!(mount.ended()?.success(), "not ended cleanly");
    ensure!(!is_mount_point(&mount.mount_point())?, "a mount is left");
    Ok(())
}

fn deletion_of_the_shared_directory_is_reported_by_sync_status_and_log() -> Result<()> {
    let mut mount = Mount::start()?;
    mount.sync()?;
    fs::remove_dir(mount.host())?;
    fs::create_dir(mount.host())?;
    let sync = mount.farwatch()?.arg("sync").arg(mount.mount_point()).output()?;
    let said = String::from_utf8_lossy(&sync.stderr);
    ensure!(sync.status.code() == Some(1) && said.contains("has been deleted"), "{said}");
    let status = mount.farwatch()?.arg("status").arg(mount.mount_point()).output()?;
    let said = String::from_utf8_lossy(&status.stdout);
    ensure!(status.status.code() == Some(3) && said.contains("has been deleted"), "{said}");
    mount.driver().signal(Signal::TERM)?;
    let log = mount.driver().log();
    ensure!(mount.ended()?.success(), "not ended cleanly");
    ensure!(log.contains("the shared directory has been deleted"), "{log}");
    Ok(())
}

fn second_mount_on_one_mount_point_is_refused_and_the_first_still_works() -> Result<()> {
    let mount = Mount::start()?;
    refused(&mount, &mount.host(), &mount.mount_point(), &mount.mount_point())?;
    fs::write(mount.host().join("f"), "still here")?;
    ensure!(fs::read_to_string(mount.mount_point().join("f"))? == "still here", "the first mount");
    Ok(())
}

fn a_missing_shared_directory_is_refused_by_name() -> Result<()> {
    let mount = Mount::unmounted()?;
    let missing = mount.host().join("missing");
    refused(&mount, &missing, &mount.mount_point(), &missing)
}

fn a_missing_mount_point_is_refused_by_name() -> Result<()> {
    let mount = Mount::unmounted()?;
    let missing = mount.mount_point().join("missing");
    refused(&mount, &mount.host(), &missing, &missing)
}

fn a_shared_file_is_refused_by_name() -> Result<()> {
    let mount = Mount::unmounted()?;
    let file = mount.host().join("file");
    fs::write(&file, "")?;
    refused(&mount, &file, &mount.mount_point(), &file)
}

fn a_mount_point_that_is_a_file_is_refused_by_name() -> Result<()> {
    let mount = Mount::unmounted()?;
    let file = mount.mount_point().join("file");
    fs::write(&file, "")?;
    refused(&mount, &mount.host(), &file, &file)
}

fn a_socket_without_a_device_is_refused_by_name() -> Result<()> {
    let mount = Mount::unmounted()?;
    let socket = mount.host().join("socket");
    let mut command = mount.farwatch()?;
    command.arg("mount").arg("--socket").arg(&socket).arg(mount.mount_point());
    fails_naming(command, &socket)
}

fn a_stock_virtiofsd_is_mounted_with_the_word_that_it_sends_no_events() -> Result<()> {
    let virtiofsd = e2e::stock_virtiofsd().context("virtiofsd was there a moment ago")?;
    let mut mount = Mount::start_through_socket(|mount, socket| {
        let mut command = Command::new(virtiofsd);
        command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(mount.host());
        command.args(["--sandbox", "none", "--cache", "auto"]);
        Ok(command)
    })?;
    fs::write(mount.host().join("f"), "content")?;
    ensure!(fs::read_to_string(mount.mount_point().join("f"))? == "content", "not mounted");
    mount.driver().signal(Signal::TERM)?;
    mount.driver().wait()?;
    let said = mount.driver().log();
    ensure!(mount.ended()?.success(), "not a clean end:\n{said}");
    ensure!(said.contains("no events"), "it did not say that there are no events:\n{said}");
    // virtiofsd ends by itself when its frontend has gone.
    let device = mount.ended()?;
    ensure!(device.success(), "virtiofsd: {device}");
    Ok(())
}

/// `farwatch serve` for [`Mount::start_through_socket`].
fn serve(mount: &Mount, socket: &Path) -> Result<Command> {
    let mut command = mount.farwatch()?;
    command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
    Ok(command)
}

fn ends_cleanly(end: impl FnOnce(&mut Mount) -> Result<()>) -> Result<()> {
    let mut mount = Mount::start()?;
    fs::write(mount.host().join("f"), "content")?;
    ensure!(fs::read_to_string(mount.mount_point().join("f"))? == "content", "not mounted");
    end(&mut mount)?;
    let status = mount.ended()?;
    ensure!(status.success(), "exit code 0 was expected, not {status}");
    ensure!(fs::read_to_string(mount.host().join("f"))? == "content", "the host's file changed");
    Ok(())
}

/// `farwatch mount source target` must fail and name `culprit`; where nothing was mounted before,
/// nothing is mounted after.
fn refused(mount: &Mount, source: &Path, target: &Path, culprit: &Path) -> Result<()> {
    let mounted_before = is_mount_point(target)?;
    let mut command = mount.farwatch()?;
    command.arg("mount").arg(source).arg(target);
    fails_naming(command, culprit)?;
    ensure!(is_mount_point(target)? == mounted_before, "something is mounted now");
    Ok(())
}

fn fails_naming(command: Command, culprit: &Path) -> Result<()> {
    let mut process = Process::start(command)?;
    let status: ExitStatus = process.wait()?;
    let said = process.log().lines().skip(1).collect::<Vec<_>>().join("\n");
    ensure!(status.code() == Some(1), "exit code 1 was expected, not {status}:\n{said}");
    ensure!(said.contains(&culprit.display().to_string()), "the culprit is not named:\n{said}");
    Ok(())
}
