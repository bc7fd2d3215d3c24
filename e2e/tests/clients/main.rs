// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Real clients, each in a real release, watch a mount while the host side is changed. Each must report
//! what it reports of a local directory. `docs/CLIENTS.md` has the versions.

mod client;
mod debian;
mod javascript;
mod languages;
mod long;
mod long_services;
mod recursive;
mod services;
mod tool;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os(long::LONG_VARIABLE).is_some() {
        return e2e::run(long::trials());
    }
    let trials = [
        debian::trials(),
        javascript::trials(),
        languages::trials(),
        services::trials(),
        tools::trials(),
    ];
    // Each needs a processor for a moment, while it starts.
    e2e::run(trials.into_iter().flatten().collect())
}
