// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario with `--cache never`: the client's kernel keeps no name and no attribute, so it has
//! to find every directory anew for which an event comes.

use std::process::ExitCode;

use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run_scenarios(&[e2e::Need::Mount], || Mount::start_with(&["--cache", "never"]))
}
