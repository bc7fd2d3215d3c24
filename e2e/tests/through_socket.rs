// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario through a device as a virtual machine has it: `farwatch serve` on a socket, in its
//! namespaces, without root's capabilities, and killed at any system call that it should not need.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use e2e::Need;
use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run_scenarios(&[Need::Mount], || Mount::start_through_socket(serve))
}

fn serve(mount: &Mount, socket: &Path) -> Result<Command> {
    let mut command = mount.farwatch()?;
    command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
    command.args(["--sandbox", "namespace", "--seccomp", "kill"]);
    Ok(command)
}
