// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario again, with a host that is watched by inotify instead of fanotify (S12, S14).

use std::process::ExitCode;

use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run_scenarios(&[e2e::Need::Mount], || Mount::start_with(&["--watch", "inotify"]))
}
