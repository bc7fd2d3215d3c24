// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch serve` as another program starts virtiofsd: under that name, and with a socket that it inherits.

use std::os::fd::{AsRawFd as _, IntoRawFd as _, RawFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use farwatch_testkit::Mount;
use rustix::io::{FdFlags, fcntl_setfd};

/// The program by a link called `name`, without arguments.
///
/// # Errors
/// When the link cannot be made.
pub fn under_the_name(name: &str, served: &Mount) -> Result<Command> {
    let farwatch = served.farwatch()?;
    let link = served.outside().join(name);
    symlink(farwatch.get_program(), &link)?;
    let mut command = Command::new(link);
    for (name, value) in farwatch.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Ok(command)
}

/// The number of a socket that listens at `path`. It stays open for the program that is about to be started.
///
/// # Errors
/// When it cannot be bound.
pub fn inherited(path: &Path) -> Result<RawFd> {
    let listener = UnixListener::bind(path)?;
    fcntl_setfd(&listener, FdFlags::empty())?;
    ensure!(listener.as_raw_fd() > 2, "a standard stream");
    Ok(listener.into_raw_fd())
}
