// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario on a local directory: keeps the expectations honest. If one fails here, the
//! file is wrong, not the product.

use std::process::ExitCode;

use farwatch_testkit::Mount;

fn main() -> ExitCode {
    let trials = e2e::scenarios()
        .into_iter()
        .map(|scenario| e2e::scenario_trial(scenario, &[], |s| s.run(&Mount::local()?)))
        .collect();
    e2e::run(trials)
}
