// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario through `farwatch mount`: changes made in SRC, read by inotify in MNT.

use std::process::ExitCode;

use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run_scenarios(&[e2e::Need::Mount], Mount::start)
}
