// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `mount.farwatch`, the helper that mount(8) starts for `-t farwatch`: has `farwatch mount` run in the background,
//! and returns when the share is mounted.
//!
//! Called by `cli` under that name. The background process is another one, started anew, and no fork of this one: what
//! it inherits is what is passed to it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, absolute};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use rustix::mount::{MountFlags, mount_remount};

use crate::options::{MountFlag, MountRequest};

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It is mounted.
    Mounted,
    /// It is not, and the background process has said why.
    Failed,
}

/// Mounts.
///
/// # Errors
/// One sentence for the user, and what caused it.
pub(crate) fn run(request: &MountRequest) -> anyhow::Result<Outcome> {
    if request.fake {
        return Ok(Outcome::Mounted);
    }
    let mount_point = absolute(&request.mount_point).context("the mount point")?;
    let mut child = start(request, &mount_point)?;
    if !is_mounted(&mut child)? {
        let mut said = String::new();
        let mut stderr = child.stderr.take().context("a pipe")?;
        stderr.read_to_string(&mut said).context("the background process")?;
        let status = child.wait().context("the background process")?;
        if said.is_empty() {
            bail!("{} is not mounted: {status}", mount_point.display());
        }
        drop(io::stderr().write_all(said.as_bytes()));
        return Ok(Outcome::Failed);
    }
    set_flags(&mount_point, &request.flags)
        .with_context(|| format!("the flags of {}", mount_point.display()))?;
    Ok(Outcome::Mounted)
}

fn start(request: &MountRequest, mount_point: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("the path of this program")?;
    let source = absolute(&request.source).context("the shared directory")?;
    let mut command = Command::new(program);
    command.args(&request.global).args(["mount", "--detach", "--syslog"]).args(&request.options);
    if request.is_socket {
        command.arg("--socket");
    }
    command.arg(source).arg(mount_point);
    // It must keep nothing of the caller's busy: no directory, no terminal, no pipe that somebody reads to its end.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("the background process cannot be started")
}

/// Waits until the child says so, or has ended.
fn is_mounted(child: &mut Child) -> anyhow::Result<bool> {
    let stdout = child.stdout.take().context("a pipe")?;
    let mut line = String::new();
    let len = BufReader::new(stdout).read_line(&mut line).context("the background process")?;
    Ok(len > 0)
}

fn set_flags(mount_point: &Path, flags: &[MountFlag]) -> io::Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    // A remount sets all flags of the mount: these two it has.
    let mut all = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    for flag in flags {
        all |= match flag {
            MountFlag::NoExec => MountFlags::NOEXEC,
            MountFlag::NoSymFollow => MountFlags::NOSYMFOLLOW,
            MountFlag::NoAtime => MountFlags::NOATIME,
            MountFlag::NoDirAtime => MountFlags::NODIRATIME,
            MountFlag::RelAtime => MountFlags::RELATIME,
            MountFlag::StrictAtime => MountFlags::STRICTATIME,
        };
    }
    mount_remount(mount_point, all, c"")?;
    Ok(())
}
