// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario again, with a host that is watched by fanotify instead of inotify (S11, S13).

use std::process::ExitCode;

use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run_every_scenario(&[e2e::Need::Mount], || Mount::start_with(&["--watch", "fanotify"]))
}
