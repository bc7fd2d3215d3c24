// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario again, with a host that is watched by inotify instead of fanotify (S12, S14).

use std::process::ExitCode;

use farwatch_testkit::Mount;

/// What inotify cannot tell: docs/SEMANTICS.md has a row for each, and `e2e/differences` what happens.
const DIFFERENT: [&str; 1] = ["write-to-replaced-file"];

fn main() -> ExitCode {
    e2e::run_scenarios_but(&DIFFERENT, &[e2e::Need::Mount], || {
        Mount::start_with(&["--watch", "inotify"])
    })
}
