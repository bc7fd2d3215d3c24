// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a program sees that asks, before it watches, whether a file system has events: its type, and the two ways to find
//! out that changes on the host are delivered (docs/TYPES.md).

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use e2e::{Need, until};
use farwatch_testkit::{Mount, mount_points};
use rustix::fs::{XattrFlags, getxattr, listxattr, major, minor, setxattr};
use rustix::io::Errno;

/// The attribute of docs/TYPES.md.
const ATTRIBUTE: &str = "user.farwatch.events";

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount];
        a_mount_has_the_type_that_programs_accept,
        attribute_shows_that_events_are_delivered,
        the_attribute_is_missing_without_an_agent_and_after_its_end,
        the_attribute_cannot_be_set_and_is_not_listed,
        a_locked_file_announces_the_mount_until_its_end,
        a_file_announces_the_mount_while_an_agent_is_attached,
        the_file_of_a_killed_agent_is_removed_by_its_supervisor,
    ])
}

fn attribute(path: &Path) -> Result<String, Errno> {
    let mut value = [0; 64];
    let len = getxattr(path, ATTRIBUTE, &mut value)?;
    Ok(String::from_utf8_lossy(&value[..len]).into_owned())
}

fn a_mount_has_the_type_that_programs_accept() -> Result<()> {
    let mount = Mount::start()?;
    ensure!(mount_points("fuse.virtiofs")?.contains(&mount.mount_point()));
    // `farwatch-agent --all` looks for these.
    ensure!(!mount_points("virtiofs")?.contains(&mount.mount_point()));
    Ok(())
}

fn attribute_shows_that_events_are_delivered() -> Result<()> {
    let mount = Mount::start()?;
    let file = mount.host().join("file");
    File::create(&file)?;
    for path in [mount.mount_point(), mount.mount_point().join("file")] {
        ensure!(attribute(&path)? == "changes", "{}", path.display());
    }
    ensure!(attribute(&file) == Err(Errno::NODATA), "it is stored on the host");
    let mount = Mount::start_with(&["--events", "all"])?;
    ensure!(attribute(&mount.mount_point())? == "all");
    let mount = Mount::start_with(&["--no-xattr"])?;
    ensure!(attribute(&mount.mount_point())? == "changes");
    Ok(())
}

fn the_attribute_is_missing_without_an_agent_and_after_its_end() -> Result<()> {
    let mut mount = Mount::start_with(&["--no-agent"])?;
    ensure!(attribute(&mount.mount_point()) == Err(Errno::NODATA));
    mount.start_agent(&[])?;
    ensure!(attribute(&mount.mount_point())? == "changes");
    mount.agent().signal(rustix::process::Signal::TERM)?;
    ensure!(mount.agent().wait()?.success());
    until("the attribute is missing", || Ok(attribute(&mount.mount_point()) == Err(Errno::NODATA)))
}

fn the_attribute_cannot_be_set_and_is_not_listed() -> Result<()> {
    let mount = Mount::start()?;
    let root = mount.mount_point();
    let set = setxattr(&root, ATTRIBUTE, b"all", XattrFlags::empty());
    ensure!(set == Err(Errno::PERM), "{set:?}");
    let mut names = vec![0; 1024];
    let len = listxattr(&root, &mut names[..])?;
    ensure!(len == 0, "{:?}", String::from_utf8_lossy(&names[..len]));
    Ok(())
}

/// The file that announces the file system that `path` is in.
fn announcement(mount: &Mount, path: &Path) -> Result<PathBuf> {
    let device = path.metadata()?.dev();
    let name = format!("{}:{}", major(device), minor(device));
    Ok(mount.state_dir().join("events").join(name))
}

fn a_locked_file_announces_the_mount_until_its_end() -> Result<()> {
    let mut mount = Mount::start()?;
    let file = announcement(&mount, &mount.mount_point())?;
    let opened = File::open(&file).with_context(|| file.display().to_string())?;
    ensure!(opened.try_lock_shared().is_err(), "nobody holds a lock on it");
    let mode = file.metadata()?.mode() & 0o777;
    ensure!(mode == 0o644, "others cannot read it: {mode:o}");
    let umount = Command::new("umount").arg(mount.mount_point()).status()?;
    ensure!(umount.success() && mount.ended()?.success());
    ensure!(!file.exists());
    let left = file.parent().context("a directory")?.read_dir()?.count();
    ensure!(left == 0, "{left} files are left");
    Ok(())
}

fn a_file_announces_the_mount_while_an_agent_is_attached() -> Result<()> {
    let mut mount = Mount::start_with(&["--no-agent"])?;
    let file = announcement(&mount, &mount.mount_point())?;
    ensure!(!file.exists());
    mount.start_agent(&[])?;
    ensure!(file.exists());
    mount.agent().signal(rustix::process::Signal::TERM)?;
    ensure!(mount.agent().wait()?.success());
    until("the file is removed", || Ok(!file.exists()))
}

fn the_file_of_a_killed_agent_is_removed_by_its_supervisor() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    let file = announcement(&mount, &mount.mount_point())?;
    let pid = || -> Result<i32> {
        let text = std::fs::read_to_string(&file)?;
        Ok(text.trim().strip_prefix("pid ").context("a process id")?.parse()?)
    };
    let first = pid()?;
    let worker = rustix::process::Pid::from_raw(first).context("a process id is never 0")?;
    rustix::process::kill_process(worker, rustix::process::Signal::KILL)?;
    // Its supervisor starts another one.
    until("another worker announces the mount", || Ok(pid().is_ok_and(|pid| pid != first)))?;
    mount.agent().signal(rustix::process::Signal::TERM)?;
    ensure!(mount.agent().wait()?.success());
    until("the file is removed", || Ok(!file.exists()))
}
