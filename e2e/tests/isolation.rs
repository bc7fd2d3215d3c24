// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the processes of a mount may still do once it is mounted: each thread has the capabilities that it needs and no
//! other, no program that they execute gets more, and the device process sees the shared directory and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_guest::{CAPABILITIES as REPLAYING, CAPABILITIES_IN_GUEST};
use farwatch_sys::thread::CapabilitySet;
use farwatch_testkit::{Mount, child_of};

/// What a file server for users of all kinds takes, by file handle.
const SERVING: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// The longest that the threads of a replay take to come together.
const PATIENCE: Duration = Duration::from_secs(15);

/// What mounting and unmounting takes.
const MOUNTING: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_READ_SEARCH);

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount];
        each_thread_of_a_mount_has_the_capabilities_that_it_needs,
        the_device_process_sees_the_shared_directory_alone,
        the_agent_of_a_guest_has_the_capabilities_that_replaying_needs,
        the_sandbox_of_the_device_process_can_be_left_out,
        the_threads_of_a_replay_stay_on_one_cpu_and_the_others_on_all,
    ])
}

/// What `/proc/PID/task/TID/status` says of a thread.
#[derive(Clone, Debug)]
struct Thread {
    name: String,
    fields: BTreeMap<String, String>,
}

impl Thread {
    fn all(pid: impl Display) -> Result<Vec<Self>> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
        tasks.map(|task| Self::read(&task?.path().join("status"))).collect()
    }

    fn read(status: &Path) -> Result<Self> {
        let text = fs::read_to_string(status)?;
        let fields = text.lines().filter_map(|line| line.split_once(":\t"));
        let fields: BTreeMap<_, _> =
            fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { name: fields["Name"].clone(), fields })
    }

    fn capabilities(&self, set: &str) -> Result<CapabilitySet> {
        let bits = u64::from_str_radix(&self.fields[set], 16)?;
        CapabilitySet::from_bits(bits).context("a capability without a name")
    }

    /// Has at most these, and cannot get others by executing a program.
    fn keeps(&self, most: CapabilitySet) -> Result<()> {
        for set in ["CapPrm", "CapEff", "CapInh", "CapBnd"] {
            let has = self.capabilities(set)?;
            ensure!(most.contains(has), "{} has {has:?} in {set}", self.name);
        }
        ensure!(self.fields["NoNewPrivs"] == "1", "{} can gain privileges", self.name);
        Ok(())
    }
}

fn each_thread_of_a_mount_has_the_capabilities_that_it_needs() -> Result<()> {
    let mut mount = Mount::start()?;
    let driver = mount.driver().id();
    let threads = Thread::all(driver)?;
    ensure!(threads.iter().any(|thread| thread.name == "agent"), "{threads:?}");
    for thread in &threads {
        thread.keeps(if thread.name == "agent" { REPLAYING } else { MOUNTING })?;
    }
    let device = Thread::all(child_of(driver)?)?;
    ensure!(device.iter().any(|thread| thread.name == "watch"), "{device:?}");
    for thread in &device {
        thread.keeps(SERVING)?;
        ensure!(thread.fields["Seccomp"] == "2", "{} has no filter", thread.name);
    }
    Ok(())
}

fn the_threads_of_a_replay_stay_on_one_cpu_and_the_others_on_all() -> Result<()> {
    let mut mount = Mount::start()?;
    fs::read_dir(mount.mount_point())?.for_each(drop);
    let driver = mount.driver().id();
    let device = child_of(driver)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        for nth in 0..10 {
            fs::write(mount.host().join(nth.to_string()), "")?;
        }
        mount.sync()?;
        let threads = [Thread::all(driver)?, Thread::all(device)?].concat();
        let stays = |thread: &&Thread| thread.fields["Cpus_allowed_list"].parse::<usize>().is_ok();
        let (names, cpus): (BTreeSet<_>, BTreeSet<_>) = threads
            .iter()
            .filter(stays)
            .map(|thread| (&*thread.name, &*thread.fields["Cpus_allowed_list"]))
            .unzip();
        let replays = |name: &str| name == "agent" || name == "watch" || name.starts_with("fuse_");
        if available_parallelism()?.get() > 1 {
            ensure!(names.iter().all(|name| replays(name)), "on one CPU: {names:?}");
        }
        // Once a second the watch thread looks for another CPU; the others follow with the next event.
        let all = ["agent", "watch"].iter().all(|name| names.contains(name));
        if all && names.iter().any(|name| name.starts_with("fuse_")) && cpus.len() == 1 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "on one CPU: {names:?} on {cpus:?}");
    }
}

fn the_device_process_sees_the_shared_directory_alone() -> Result<()> {
    let mut mount = Mount::start()?;
    let device = child_of(mount.driver().id())?;
    let root = fs::read_link(format!("/proc/{device}/root"))?;
    ensure!(root == mount.host(), "its root is {}", root.display());
    let working_dir = fs::read_link(format!("/proc/{device}/cwd"))?;
    ensure!(working_dir.starts_with(mount.host()), "it works in {}", working_dir.display());
    for fd in fs::read_dir(format!("/proc/{device}/fd"))? {
        let path = fd?.path();
        // A request may have ended in the meantime.
        let (Ok(target), Ok(found)) = (fs::read_link(&path), fs::metadata(&path)) else { continue };
        let inside = target.starts_with(mount.host()) || target.starts_with("/proc");
        ensure!(!found.is_dir() || inside, "it has {} open", target.display());
    }
    Ok(())
}

fn the_agent_of_a_guest_has_the_capabilities_that_replaying_needs() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    let worker = child_of(mount.agent().id())?;
    let threads = Thread::all(worker)?;
    let replaying = threads.iter().find(|thread| thread.name == "replay");
    replaying.with_context(|| format!("{threads:?}"))?.keeps(CAPABILITIES_IN_GUEST)?;
    ensure!(threads.iter().all(|thread| thread.fields["NoNewPrivs"] == "1"), "{threads:?}");
    Ok(())
}

fn the_sandbox_of_the_device_process_can_be_left_out() -> Result<()> {
    let options = ["--sandbox", "none", "--seccomp", "none", "--modcaps", "+sys_admin"];
    let mut mount = Mount::start_with(&options)?;
    let device = child_of(mount.driver().id())?;
    ensure!(fs::read_link(format!("/proc/{device}/root"))? == Path::new("/"), "it has a root");
    for thread in Thread::all(device)? {
        ensure!(thread.fields["Seccomp"] == "0", "{} has a filter", thread.name);
        let has = thread.capabilities("CapEff")?;
        ensure!(has.contains(CapabilitySet::SYS_ADMIN), "{} has {has:?}", thread.name);
    }
    Ok(())
}
