// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario in a virtual machine with Debian's stock kernel 6.12: changes on the host, read by
//! inotify in the guest.

use std::process::ExitCode;

use anyhow::Context as _;
use farwatch_testkit::vm::{Kernel, Vm};

const KERNEL: &str = "6.12";

fn main() -> ExitCode {
    e2e::run_scenarios_in_one_process(&[e2e::Need::Mount, e2e::Need::Vm(KERNEL)], || {
        Vm::start(&Kernel::find(KERNEL).context("no such kernel")?)
    })
}
