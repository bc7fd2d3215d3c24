// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a program in a mount reads, by `stat(2)`, from listings and from files, beside what is on the host: `cargo xtask
//! coherence` measures more of it. What events keep true is cached for the lease (`--cache events`).

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::Need;
use farwatch_testkit::coherence::{Plan, run, run_paced};
use farwatch_testkit::{Mount, PATIENCE, child_of};
use rustix::process::{Signal, kill_process};

/// What is old for no longer than this is as fresh as with `--cache auto`, whatever else the machine does.
const OLD_MAX: Duration = Duration::from_secs(1);

type Start = fn() -> Result<Mount>;

const PATHS: [(&str, Start); 3] = [
    ("inotify", || Mount::start_with(&["--watch", "inotify"])),
    ("fanotify", || Mount::start_with(&["--watch", "fanotify"])),
    ("agent", || Mount::start_with_agent_and(&["--watch", "inotify"])),
];

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[Need::Mount];
        caches_that_are_not_invalidated_are_noticed,
        agent_that_is_stopped_leaves_nothing_old_for_longer_than_the_lease,
        worker_that_is_killed_is_replaced_and_the_caches_are_true,
        name_that_was_missing_is_found_when_it_is_made,
    ];
    type Test = (&'static str, fn(&Mount) -> Result<()>);
    let tests: [Test; 3] = [
        ("read_after_sync_is_never_stale", read_when_sync_returns),
        ("read_at_any_moment_is_at_most_a_second_old", read_at_any_moment),
        ("effect_is_not_seen_before_its_cause", effect_after_cause),
    ];
    for (name, test) in tests {
        for (path, start) in PATHS {
            let name = format!("{name}::{path}");
            trials.push(e2e::trial(&name, &[Need::Mount], move || test(&start()?)));
        }
    }
    // Each keeps both processors of a small machine busy.
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn read_when_sync_returns(mount: &Mount) -> Result<()> {
    let plan = Plan { changes: 200, ..Plan::default() };
    let report = run_paced(&mount.host(), &mount.mount_point(), &plan, || mount.sync())?;
    ensure!(report.reads() >= plan.changes, "{report:?}");
    ensure!(report.oldest().is_zero() && report.before_cause() == 0, "{report:?}");
    Ok(())
}

fn read_at_any_moment(mount: &Mount) -> Result<()> {
    let plan = Plan { changes: 1000, ..Plan::default() };
    let report = run(&mount.host(), &mount.mount_point(), &plan)?;
    ensure!(report.reads() >= plan.changes / 4, "{report:?}");
    ensure!(report.oldest() < OLD_MAX, "{report:?}");
    Ok(())
}

/// One file is written on the host, then another one is made. Whoever finds the second, which was never looked up
/// before, finds what was written.
fn effect_after_cause(mount: &Mount) -> Result<()> {
    const TRIALS: usize = 100;
    /// On a machine that has no processor left for the agent, the wait can be over before. Without one it is a third.
    const WRONG_MAX: usize = 10;
    let (host, seen) = (mount.host(), mount.mount_point());
    let mut wrong = 0;
    for nth in 1..=TRIALS {
        let cause = format!("cause-{nth}");
        fs::write(host.join(&cause), "")?;
        mount.sync()?;
        fs::metadata(seen.join(&cause))?;
        let effect = format!("effect-{nth}");
        fs::write(host.join(&cause), "written")?;
        fs::write(host.join(&effect), "")?;
        fs::metadata(seen.join(&effect))?;
        wrong += usize::from(fs::metadata(seen.join(&cause))?.len() == 0);
    }
    ensure!(wrong <= WRONG_MAX, "{wrong} of {TRIALS} effects were seen before their cause");
    Ok(())
}

/// Without an agent what is cached for a day is old as soon as something changes.
fn caches_that_are_not_invalidated_are_noticed() -> Result<()> {
    let mut mount = Mount::start_device(|mount, socket| {
        let mut device = mount.farwatch()?;
        device.args(["serve", "--cache", "always", "--shared-dir"]).arg(mount.host());
        device.arg("--socket").arg(socket);
        Ok(device)
    })?;
    mount.mount_through_socket_without_agent()?;
    let plan = Plan { changes: 30, ..Plan::default() };
    let report = run_paced(&mount.host(), &mount.mount_point(), &plan, || Ok(()))?;
    ensure!(!report.oldest().is_zero() && report.before_cause() > 0, "{report:?}");
    let report = run(&mount.host(), &mount.mount_point(), &plan)?;
    ensure!(!report.oldest().is_zero(), "{report:?}");
    Ok(())
}

fn agent_that_is_stopped_leaves_nothing_old_for_longer_than_the_lease() -> Result<()> {
    const LEASE: Duration = Duration::from_secs(1);
    let mut mount = Mount::start_with_agent_and(&["--lease", "1"])?;
    let name = cached(&mount)?;
    let worker = child_of(mount.agent().id())?;
    kill_process(worker, Signal::STOP)?;
    let changed = Instant::now();
    fs::write(mount.host().join(name), "changed")?;
    let seen_after = wait_for_size(&mount.mount_point().join(name), "changed".len())?;
    kill_process(worker, Signal::CONT)?;
    ensure!(seen_after < LEASE + OLD_MAX, "it was seen {seen_after:?} after {changed:?}");
    Ok(())
}

fn worker_that_is_killed_is_replaced_and_the_caches_are_true() -> Result<()> {
    let mut mount = Mount::start_with_agent_and(&["--lease", "86400"])?;
    let name = cached(&mount)?;
    let worker = child_of(mount.agent().id())?;
    kill_process(worker, Signal::KILL)?;
    fs::write(mount.host().join(name), "changed")?;
    wait_for_size(&mount.mount_point().join(name), "changed".len())?;
    mount.agent().wait_for_line(|line| line.starts_with("events are delivered on "))?;
    ensure!(child_of(mount.agent().id())? != worker, "no other worker");
    mount.sync()
}

fn name_that_was_missing_is_found_when_it_is_made() -> Result<()> {
    let mount = Mount::start_with(&["--lease", "86400"])?;
    let seen = mount.mount_point().join("made");
    for _ in 0..2 {
        ensure!(!seen.try_exists()?, "nobody has made it");
    }
    fs::write(mount.host().join("made"), "")?;
    mount.sync()?;
    ensure!(seen.try_exists()?, "it is still missing");
    fs::remove_file(mount.host().join("made"))?;
    mount.sync()?;
    ensure!(!seen.try_exists()?, "it is still there");
    Ok(())
}

/// The name of an empty file of which the mount has cached that.
fn cached(mount: &Mount) -> Result<&'static str> {
    let name = "file";
    fs::write(mount.host().join(name), "")?;
    mount.sync()?;
    // What comes with a replay is kept for a tick, which is 10 ms at most; what is asked for after that for the lease.
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(20) {
        ensure!(fs::metadata(mount.mount_point().join(name))?.len() == 0, "nothing was written");
    }
    Ok(name)
}

/// Waits until a file has a size in the mount, and says how long that took.
fn wait_for_size(path: &Path, size: usize) -> Result<Duration> {
    let start = Instant::now();
    while usize::try_from(fs::metadata(path)?.len())? != size {
        ensure!(start.elapsed() < PATIENCE, "{} is old", path.display());
        std::thread::yield_now();
    }
    Ok(start.elapsed())
}
