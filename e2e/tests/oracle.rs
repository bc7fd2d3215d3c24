// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Some minutes of the oracle, and the cases in `e2e/oracle` that once failed. `cargo xtask oracle`
//! runs as much of it as one likes.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use e2e::oracle::{equal, kept_cases};
use farwatch_testkit::oracle::{Case, Delivery, Fault, Oracle, Plan, Report};
use farwatch_testkit::vm::{Kernel, Vm};
use farwatch_testkit::{Mount, Place};

/// Where `cargo xtask oracle` begins too. Any other number is as good.
const SEED: u64 = 1;

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[Need::Mount];
        kept_cases_are_equal,
        kept_cases_are_equal_through_fanotify,
        paced_operations_have_the_events_of_a_local_directory,
        paced_operations_have_the_events_of_a_local_directory_with_an_agent,
        unpaced_operations_have_the_events_of_a_local_directory,
        unpaced_operations_have_the_events_of_a_local_directory_with_an_agent,
        paced_operations_have_the_events_of_a_local_directory_through_fanotify,
        unpaced_operations_have_the_events_of_a_local_directory_through_fanotify,
        an_event_that_is_dropped_is_noticed,
        two_events_that_change_places_are_noticed,
        a_cookie_that_is_lost_is_noticed,
    ];
    for version in ["6.1", "6.12"] {
        let needs = [Need::Mount, Need::Vm(version)];
        trials.push(e2e::trial(&format!("operations_are_told_in_{version}"), &needs, move || {
            let vm = Vm::start(&Kernel::find(version).context("the kernel has gone")?)?;
            equal(&vm, Plan { ops: 600, in_mount: false, ..PACED })
        }));
    }
    e2e::run(trials)
}

const PACED: Plan = Plan {
    ops: 1500,
    seed: SEED,
    paced: true,
    in_mount: true,
    by_name: true,
    few: false,
    fault: None,
    shrink: true,
};
const UNPACED: Plan = Plan { ops: 10_000, paced: false, in_mount: false, ..PACED };

/// The default.
const BY_INOTIFY: [&str; 2] = ["--watch", "inotify"];
const BY_FANOTIFY: [&str; 2] = ["--watch", "fanotify"];

fn kept_cases_are_equal() -> Result<()> {
    // What inotify cannot tell: docs/SEMANTICS.md.
    let is_fair = |case: &Case| case.is_fair(Delivery { by_name: true, native: false });
    kept_cases(&Mount::start_with(&BY_INOTIFY)?, is_fair)
}

fn kept_cases_are_equal_through_fanotify() -> Result<()> {
    kept_cases(&Mount::start_with(&BY_FANOTIFY)?, |_| true)
}

fn paced_operations_have_the_events_of_a_local_directory() -> Result<()> {
    equal(&Mount::start_with(&BY_INOTIFY)?, PACED)
}

fn paced_operations_have_the_events_of_a_local_directory_with_an_agent() -> Result<()> {
    equal(&Mount::start_with_agent_and(&BY_INOTIFY)?, Plan { seed: SEED + 1000, ..PACED })
}

fn unpaced_operations_have_the_events_of_a_local_directory() -> Result<()> {
    equal(&Mount::start_with(&BY_INOTIFY)?, UNPACED)
}

fn unpaced_operations_have_the_events_of_a_local_directory_with_an_agent() -> Result<()> {
    equal(&Mount::start_with_agent_and(&BY_INOTIFY)?, Plan { seed: SEED + 1000, ..UNPACED })
}

fn paced_operations_have_the_events_of_a_local_directory_through_fanotify() -> Result<()> {
    let mount = Mount::start_with(&BY_FANOTIFY)?;
    equal(&mount, Plan { ops: 2000, seed: SEED + 2000, by_name: false, ..PACED })
}

fn unpaced_operations_have_the_events_of_a_local_directory_through_fanotify() -> Result<()> {
    let mount = Mount::start_with(&BY_FANOTIFY)?;
    equal(&mount, Plan { seed: SEED + 2000, by_name: false, ..UNPACED })
}

fn an_event_that_is_dropped_is_noticed() -> Result<()> {
    noticed(Fault::Drop)
}

fn two_events_that_change_places_are_noticed() -> Result<()> {
    noticed(Fault::Swap)
}

fn a_cookie_that_is_lost_is_noticed() -> Result<()> {
    noticed(Fault::Cookie)
}

/// The same operations pass when no rule is broken: the tests above.
fn noticed(fault: Fault) -> Result<()> {
    for plan in [PACED, UNPACED] {
        let report = run(&Mount::start_with(&BY_INOTIFY)?, Plan { fault: Some(fault), ..plan })?;
        let how = if plan.paced { "paced" } else { "unpaced" };
        ensure!(report.failure.is_some(), "{how}: {} events, and none is amiss", report.events);
    }
    Ok(())
}

fn run(place: &impl Place, plan: Plan) -> Result<Report> {
    Oracle::new(place).run(plan, |_| {})
}
