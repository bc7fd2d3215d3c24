// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Some trials of each kind of `cargo xtask converge`: what a program in a mount believes is true once
//! the changes have ended. On a local directory the judges find nothing, and each rule that is broken on
//! purpose is noticed.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use e2e::Need;
use farwatch_testkit::Mount;
use farwatch_testkit::converge::{Fault, Judge, Kind, Knobs, Plan, Report, Settle, run};

/// Where `cargo xtask converge` begins too. Any other number is as good.
const SEED: u64 = 1;

/// Trials of each kind in a mount; a quarter of them for each number of renames.
const TRIALS: u64 = 24;

/// Renames of a trial. More take longer than a second to be delivered where nothing is optimised.
const RENAMES: [usize; 3] = [3, 7, 51];

/// Failures that are printed.
const SHOWN_MAX: usize = 2;

type Start = fn() -> Result<Mount>;

const PATHS: [(&str, Start); 4] = [
    ("inotify", || Mount::start_with(&["--watch", "inotify"])),
    ("fanotify", || Mount::start_with(&["--watch", "fanotify"])),
    ("inotify_and_agent", || Mount::start_with_agent_and(&["--watch", "inotify"])),
    ("fanotify_and_agent", || Mount::start_with_agent_and(&["--watch", "fanotify"])),
];

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[];
        model_of_a_local_directory_is_true,
        dropped_event_is_noticed,
        two_swapped_events_are_noticed,
        lost_cookie_is_noticed,
        merged_renames_are_noticed,
        skipped_repair_is_noticed,
    ];
    type Test = (&'static str, fn() -> Vec<Kind>);
    let tests: [Test; 3] = [
        ("model_is_true_after_renames", renames),
        ("model_is_true_after_changes_of_one_process", || vec![Kind::Solo]),
        ("model_is_true_after_changes_on_both_sides", || vec![Kind::Both]),
    ];
    for (test, kinds) in tests {
        for (path, start) in PATHS {
            let name = format!("{test}::{path}");
            let is_exact = !path.starts_with("fanotify");
            let test = move || model_is_true(kinds(), start, is_exact);
            trials.push(e2e::trial(&name, &[Need::Mount], test));
        }
    }
    // Each keeps both processors of a small machine busy.
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn renames() -> Vec<Kind> {
    let of = |inside| RENAMES.map(|len| Kind::Renames { len, inside });
    [of(false), of(true)].concat()
}

fn plan(kinds: Vec<Kind>) -> Plan {
    Plan {
        kinds,
        knobs: Knobs::default(),
        trials: TRIALS,
        seed: SEED,
        repeat: false,
        stop: false,
        settle: Settle::Within,
        judges: Judge::ALL.into(),
        blind: false,
        fault: None,
        local: false,
    }
}

/// Judged when `farwatch sync` returns, which takes as long as it takes on a busy machine: names always, and the
/// stream of renames where the kernel merges nothing. The other judges find faults now and then, which
/// docs/SEMANTICS.md names; `cargo xtask converge` asks them all.
fn model_is_true(kinds: Vec<Kind>, start: Start, is_exact: bool) -> Result<()> {
    let mount = start()?;
    let mut plan = plan(kinds);
    let renames = plan.kinds.len() > 1;
    plan.trials = if renames { TRIALS / 4 } else { TRIALS };
    plan.settle = Settle::Sync;
    plan.judges = [Judge::Names, Judge::Listing].into();
    if renames && is_exact {
        plan.judges.insert(Judge::Count);
    }
    nothing_is_wrong(&mount, &plan)
}

fn nothing_is_wrong(mount: &Mount, plan: &Plan) -> Result<()> {
    let (report, text) = run_and_describe(mount, plan)?;
    ensure!(report.failed() == 0, "{:?}:\n{report}\n{text}\n{}", plan.settle, mount.log());
    Ok(())
}

fn run_and_describe(mount: &Mount, plan: &Plan) -> Result<(Report, String)> {
    let mut failures = Vec::new();
    let report = run(mount, plan, |failure| {
        if failures.len() < SHOWN_MAX {
            failures.push(format!("seed {}, {}", failure.seed, failure.text));
        }
    })?;
    Ok((report, failures.join("\n")))
}

fn model_of_a_local_directory_is_true() -> Result<()> {
    let mount = Mount::local()?;
    let kinds = [renames(), vec![Kind::Solo, Kind::Both, Kind::Many]].concat();
    let plan = Plan { local: true, ..plan(kinds) };
    nothing_is_wrong(&mount, &plan)?;
    let knobs = Knobs { exchange: true, ..plan.knobs };
    nothing_is_wrong(&mount, &Plan { knobs, ..plan })
}

fn dropped_event_is_noticed() -> Result<()> {
    noticed(Fault::Drop, &[(Kind::Solo, Judge::Count), (Kind::Both, Judge::Names)])
}

fn two_swapped_events_are_noticed() -> Result<()> {
    noticed(Fault::Swap, &[(Kind::Solo, Judge::Count), (SHORT, Judge::Names)])
}

fn lost_cookie_is_noticed() -> Result<()> {
    noticed(Fault::Cookie, &[(Kind::Solo, Judge::Count), (SHORT, Judge::Count)])
}

fn merged_renames_are_noticed() -> Result<()> {
    noticed(Fault::Merge, &[(SHORT, Judge::Names), (SHORT, Judge::Count)])
}

fn skipped_repair_is_noticed() -> Result<()> {
    noticed(
        Fault::SkipRepair,
        &[(Kind::Both, Judge::Names), (Kind::Both, Judge::Content), (Kind::Many, Judge::Names)],
    )
}

/// Few enough events that a fault in them changes what they add up to.
const SHORT: Kind = Kind::Renames { len: 3, inside: true };

/// The same operations pass when no rule is broken: `model_of_a_local_directory_is_true`.
fn noticed(fault: Fault, judges: &[(Kind, Judge)]) -> Result<()> {
    let mount = Mount::local()?;
    for (kind, judge) in judges {
        let settle = Settle::Sync;
        let plan = Plan { fault: Some(fault), local: true, settle, ..plan(vec![*kind]) };
        let report = run(&mount, &plan, |_| {})?;
        ensure!(report.wrong(*judge) > 0, "{kind:?}: {judge} notices nothing:\n{report}");
    }
    Ok(())
}
