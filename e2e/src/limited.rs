// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch serve` as an ordinary user, and in a user namespace in which a limit of the kernel is low.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use farwatch_testkit::Mount;

/// An ordinary user; it needs no entry in the password file.
pub const USER: u32 = 1000;

/// `farwatch serve` as an ordinary user, to whom the directories belong, behind the command `before`.
///
/// # Errors
/// When the program cannot be put where that user may start it.
pub fn as_user(
    served: &Mount,
    socket: &Path,
    before: &[&str],
    options: &[&str],
) -> Result<Command> {
    let dir = socket.parent().context("a socket is in a directory")?;
    let program = dir.join("farwatch");
    let farwatch = served.farwatch()?;
    // Where anybody may start it.
    fs::copy(farwatch.get_program(), &program)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for path in [dir, &served.host()] {
        chown(path, Some(USER), Some(USER))?;
    }
    let mut command = Command::new("setpriv");
    for (name, value) in farwatch.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.args([format!("--reuid={USER}"), format!("--regid={USER}")]);
    command.args(["--clear-groups", "--"]).args(before).arg(&program).arg("serve");
    command.arg("--socket").arg(socket).arg("--shared-dir").arg(served.host()).args(options);
    Ok(command)
}

/// The same in a user namespace in which a limit is `value`, `user.max_*` (namespaces(7)).
///
/// # Errors
/// Those of [`as_user`].
pub fn as_user_limited(
    served: &Mount,
    socket: &Path,
    (limit, value): (&str, usize),
    options: &[&str],
) -> Result<Command> {
    let script = format!("echo {value} > /proc/sys/user/{limit} && exec \"$@\"");
    let before = ["unshare", "--user", "--map-root-user", "sh", "-c", &script, "sh"];
    as_user(served, socket, &before, &[&["--sandbox", "none"], options].concat())
}

/// Starts and mounts that.
///
/// # Errors
/// When it does not come up.
pub fn start_limited(limit: (&str, usize), options: &[&str]) -> Result<Mount> {
    Mount::start_through_socket(|served, socket| as_user_limited(served, socket, limit, options))
}

/// Sets a limit in the user namespace of a server.
///
/// # Errors
/// When it cannot be set.
pub fn set_limit(served: &mut Mount, (limit, value): (&str, usize)) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.args(["--user", "--setuid=0", "--setgid=0"]);
    command.arg(format!("--target={}", served.device().id())).args(["sh", "-c"]);
    command.arg(format!("echo {value} > /proc/sys/user/{limit}"));
    let status = command.status().context("nsenter")?;
    ensure!(status.success(), "{limit} cannot be set: {status}");
    Ok(())
}
