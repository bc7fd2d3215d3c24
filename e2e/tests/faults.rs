// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Some rounds of each kind of `cargo xtask faults`: nothing is lost when a part dies, stops or runs out of something
//! while both sides change files.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use e2e::Need;
use farwatch_testkit::converge::faults::{Kind, Rounds, run};

/// Rounds of each kind: about a second each.
const ROUNDS: u64 = 2;

fn main() -> ExitCode {
    let trials = Kind::all().iter().map(|kind| {
        let name = format!("nothing_is_lost_by_{}", kind.name().replace('-', "_"));
        let machine = [Need::Mount, Need::Vm("6.12"), Need::Migration];
        let needs = if kind.needs_machine() { &machine[..] } else { &[Need::Mount] };
        e2e::trial(&name, needs, move || nothing_is_lost(*kind))
    });
    e2e::run(trials.collect())
}

fn nothing_is_lost(kind: Kind) -> Result<()> {
    let rounds = Rounds { kinds: vec![kind], rounds: ROUNDS, seed: 1, stop: false, time_max: None };
    let mut failures = Vec::new();
    let table = run(&rounds, |failure| failures.push(failure.text.clone()))?;
    ensure!(table.failed() == 0, "{}\n{table}", failures.join("\n"));
    ensure!(table.judged() == ROUNDS, "{table}");
    Ok(())
}
