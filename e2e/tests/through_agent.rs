// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario with the events delivered by `farwatch-agent`, which reads the control node as it
//! does in a virtual machine, here on the kernel of this machine.

use std::process::ExitCode;

use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run_scenarios(&[e2e::Need::Mount], Mount::start_with_agent)
}
