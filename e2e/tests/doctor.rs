// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch doctor MOUNT`: a healthy mount is told from one with a link of the chain broken, and nothing stays behind.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount];
        every_kind_of_change_reaches_a_healthy_mount,
        a_mount_without_an_agent_is_named_as_such,
        a_mount_in_a_foreign_process_is_probed_by_its_shared_directory,
        programs_that_watch_and_those_that_poll_are_named,
    ])
}

/// The doctor's report, and whether it says that nothing is missing.
fn doctor(mount: &Mount, args: &[&str]) -> Result<(String, bool)> {
    let mut command = mount.farwatch()?;
    let output = command.arg("doctor").arg(mount.mount_point()).args(args).output()?;
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok((String::from_utf8(output.stdout)?, output.status.success()))
}

const EVENTS: [&str; 6] =
    ["CREATE, ISDIR", "CREATE, CLOSE_WRITE", "MODIFY", "ATTRIB", "MOVED_FROM, MOVED_TO", "DELETE"];

fn all_delivered(report: &str) -> bool {
    let delivered = |events: &str| {
        report
            .lines()
            .any(|line| line.starts_with("ok") && line.contains(events) && line.contains("after"))
    };
    EVENTS.iter().all(|events| delivered(events))
}

fn nothing_stays(host: &Path) -> Result<()> {
    let left = fs::read_dir(host)?.count();
    ensure!(left == 0, "{left} entries stay in the shared directory");
    Ok(())
}

fn every_kind_of_change_reaches_a_healthy_mount() -> Result<()> {
    let mount = Mount::start()?;
    let (report, healthy) = doctor(&mount, &[])?;
    ensure!(healthy && all_delivered(&report), "{report}");
    nothing_stays(&mount.host())
}

fn a_mount_without_an_agent_is_named_as_such() -> Result<()> {
    let mount = Mount::start_with(&["--no-agent"])?;
    let (report, healthy) = doctor(&mount, &[])?;
    ensure!(!healthy && report.contains("no agent is attached"), "{report}");
    ensure!(!report.contains("after"), "a change was made: {report}");
    nothing_stays(&mount.host())
}

fn a_mount_in_a_foreign_process_is_probed_by_its_shared_directory() -> Result<()> {
    let serve = |mount: &Mount, socket: &Path| {
        let mut serve = mount.farwatch()?;
        serve.args(["serve", "--once", "--socket"]).arg(socket).arg("--shared-dir");
        serve.arg(mount.host());
        Ok(serve)
    };
    let mount = Mount::start_through_socket(serve)?;
    let host = mount.host();
    let shared = ["--shared-dir", host.to_str().context("UTF-8")?];
    let (report, healthy) = doctor(&mount, &shared)?;
    ensure!(healthy && all_delivered(&report), "{report}");
    nothing_stays(&host)
}

fn programs_that_watch_and_those_that_poll_are_named() -> Result<()> {
    let mount = Mount::start()?;
    fs::write(mount.host().join("log"), "")?;
    let mut watcher = Command::new("inotifywait");
    watcher.arg("-m").arg(mount.mount_point()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut watcher = watcher.spawn().context("inotifywait")?;
    let mut tail = Command::new("tail");
    tail.arg("-f").arg(mount.mount_point().join("log")).stdout(Stdio::null());
    let mut tail = tail.spawn().context("tail")?;
    let report = programs(&mount, watcher.id(), tail.id());
    for process in [&mut watcher, &mut tail] {
        process.kill()?;
        process.wait()?;
    }
    report
}

/// Until both have begun: nothing says when that is.
fn programs(mount: &Mount, watcher: u32, tail: u32) -> Result<()> {
    let deadline = std::time::Instant::now() + farwatch_testkit::PATIENCE;
    loop {
        let (report, _) = doctor(mount, &[])?;
        let watches = report.contains(&format!("inotifywait ({watcher}) with 1 watch"));
        let polls = report.contains(&format!("tail ({tail}) polls"));
        if watches && polls {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < deadline, "{report}");
    }
}
