// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-agent --all`, which serves mounts as they come and go. In a mount namespace of its own, so that it finds
//! those of these trials only; and one trial at a time, so that it finds its own only.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use e2e::Need;
use farwatch_testkit::{Mount, Process, Recorder};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::Signal;

const FS_TYPE: &str = "fuse.virtiofs";

static ALONE: Mutex<()> = Mutex::new(());

fn main() -> ExitCode {
    e2e::enter_own_mount_namespace();
    forget_mounts_of_other_tests();
    e2e::run(e2e::trials![
        &[Need::Mount];
        a_share_gets_an_agent_when_it_is_mounted_and_loses_it_when_it_is_unmounted,
        a_share_mounted_before_the_agent_starts_is_served_and_a_bind_mount_of_it_needs_no_other,
        a_share_that_has_an_agent_is_left_alone_and_others_are_served,
    ])
}

/// A new mount namespace is a copy. What other tests have mounted at the moment is not for this agent.
fn forget_mounts_of_other_tests() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let table = farwatch_testkit::mount_points(FS_TYPE).expect("there is a mount table");
    for mount_point in table {
        unmount(&mount_point, UnmountFlags::DETACH).expect("it can be unmounted in a copy");
    }
}

fn a_share_gets_an_agent_when_it_is_mounted_and_loses_it_when_it_is_unmounted() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut agent = start()?;
    for round in ["first", "second"] {
        let mut mount = Mount::start_with(&["--no-agent"])?;
        served(&mut agent, &mount)?;
        works(&mount, round)?;
        unmount(mount.mount_point(), UnmountFlags::empty())?;
        // The driver ends when the worker has let go of the file system.
        ensure!(mount.ended()?.success(), "{}", agent.log());
    }
    finish(agent)
}

fn a_share_mounted_before_the_agent_starts_is_served_and_a_bind_mount_of_it_needs_no_other()
-> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mount = Mount::start_with(&["--no-agent"])?;
    let bound = mount.outside().join("bound");
    std::fs::create_dir(&bound)?;
    let mut agent = start()?;
    served(&mut agent, &mount)?;
    mount_bind(mount.mount_point(), &bound)?;
    works(&mount, "share")?;
    unmount(&bound, UnmountFlags::empty())?;
    works(&mount, "again")?;
    let said = agent.log();
    finish(agent)?;
    ensure!(said.matches("events are delivered on").count() == 1, "{said}");
    Ok(())
}

fn a_share_that_has_an_agent_is_left_alone_and_others_are_served() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let served_already = Mount::start()?;
    let mut agent = start()?;
    agent.wait_for_line(|line| line.contains("another agent serves this mount"))?;
    let mount = Mount::start_with(&["--no-agent"])?;
    served(&mut agent, &mount)?;
    works(&mount, "share")?;
    works(&served_already, "share")?;
    finish(agent)
}

fn start() -> Result<Process> {
    let mut command = farwatch_testkit::farwatch_agent()?;
    command.args(["--all", "--fs-type", FS_TYPE]);
    Process::start(command)
}

fn served(agent: &mut Process, mount: &Mount) -> Result<()> {
    let wanted = format!("events are delivered on {}", mount.mount_point().display());
    agent.wait_for_line(|line| line == wanted)?;
    Ok(())
}

fn works(mount: &Mount, share: &str) -> Result<()> {
    let share = mount.share(share)?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    recorder.barrier()
}

fn finish(mut agent: Process) -> Result<()> {
    agent.signal(Signal::TERM)?;
    ensure!(agent.wait()?.success(), "{}", agent.log());
    Ok(())
}
