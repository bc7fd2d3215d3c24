// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario again, with a notification queue of one buffer (S10): a half that waits for its
//! mate must not keep the buffer in which the mate is to come.

use std::process::ExitCode;

use farwatch_testkit::Mount;

fn main() -> ExitCode {
    e2e::run_scenarios(&[e2e::Need::Mount], || Mount::start_with(&["--notification-buffers", "1"]))
}
