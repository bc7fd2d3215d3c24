// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the cases of many seeds, and shortens one that fails.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::ops::{Case, Family, Op, Who};
use crate::rng::Rng;
use crate::sim::{AGENT, End, Task, World, run};

/// Task names, for the trace.
const HOSTS: [&str; 3] = ["host 1", "host 2", "host 3"];
const GUESTS: [&str; 3] = ["guest 1", "guest 2", "guest 3"];

/// What came of one case.
pub(crate) struct Outcome {
    pub(crate) steps: u64,
    pub(crate) failure: Option<String>,
    pub(crate) trace: Vec<String>,
}

/// Runs one case to its end.
pub(crate) fn run_case(case: &Case, traced: bool) -> Outcome {
    let world = World::new(case.config.clone(), traced);
    let result = catch_unwind(AssertUnwindSafe(|| play(&world, case)));
    let failure = match result {
        Ok(End::Rest) => {
            let checks = || world.check().and_then(|()| world.check_references());
            match catch_unwind(AssertUnwindSafe(checks)) {
                Ok(checked) => world.failure().or_else(|| checked.err()),
                Err(panic) => Some(said(&*panic)),
            }
        }
        Ok(end) => Some(format!("{end:?}")),
        Err(panic) => Some(said(&*panic)),
    };
    Outcome { steps: world.steps(), failure, trace: world.take_trace() }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("?"))
}

fn play(world: &World, case: &Case) -> End {
    let mut programs: BTreeMap<Who, Vec<Op>> = BTreeMap::new();
    for (who, op) in &case.ops {
        programs.entry(*who).or_default().push(*op);
    }
    world.running.set(programs.len());
    let mut tasks = vec![
        Task::new("set-up", world.set_up()),
        Task::new("watcher", world.watch()),
        Task::new(AGENT, world.agent()),
        Task::new("forgets", world.forgets()),
        Task::new("device", world.pump()),
    ];
    for (who, ops) in programs {
        let name = match who {
            Who::Host(nth) => HOSTS[usize::from(nth)],
            Who::Guest(nth) => GUESTS[usize::from(nth)],
        };
        tasks.push(Task::new(name, world.program(who, ops)));
    }
    run(world, tasks, &case.schedule)
}

/// Runs the cases of so many seeds, or of the one that `WORLD_SEED` names, and panics with the
/// shortest form of the first that fails.
#[expect(clippy::print_stdout, reason = "shown for a test that fails, and with --nocapture")]
pub(crate) fn run_family(name: &str, family: &Family, seeds: u64) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let steps = number("WORLD_STEPS").and_then(|steps| usize::try_from(steps).ok());
    let (first, count) = match number("WORLD_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("WORLD_SEEDS").unwrap_or(seeds)),
    };
    let survey = std::env::var_os("WORLD_SURVEY").is_some();
    let mut failures: BTreeMap<String, (u64, u64, Case)> = BTreeMap::new();
    let mut made = 0;
    for seed in first..first + count {
        let case = Case::draw(family, seed, steps);
        let outcome = run_case(&case, false);
        made += outcome.steps;
        let Some(failure) = outcome.failure else { continue };
        if !survey {
            panic!("{}", report(name, seed, &shrink(case, &failure)));
        }
        let kind = kind_of(&failure);
        let known = failures.get(&kind);
        let shorter = known.is_none_or(|(.., known)| case.ops.len() < known.ops.len());
        let times = known.map_or(0, |(times, ..)| *times) + 1;
        if shorter {
            failures.insert(kind, (times, seed, case));
        } else if let Some(known) = failures.get_mut(&kind) {
            known.0 = times;
        }
    }
    println!("{name}: {count} cases, {made} steps");
    for (kind, (times, seed, case)) in &failures {
        let case = shrink(case.clone(), kind);
        println!("{times} of {count} fail so: {kind}\n{}\n", report(name, *seed, &case));
    }
    assert!(failures.is_empty(), "{name}: {} kinds of failures", failures.len());
}

/// The same for a family that is known to fail: it is run with `WORLD_SURVEY` alone.
#[expect(clippy::print_stdout, reason = "shown with --nocapture")]
pub(crate) fn survey_family(name: &str, family: &Family, seeds: u64) {
    if std::env::var_os("WORLD_SURVEY").is_some() {
        run_family(name, family, seeds);
    } else {
        println!("{name}: not run, since it is known to fail; set WORLD_SURVEY to count how often");
    }
}

/// A failure without its numbers and names, to compare it with another.
fn kind_of(failure: &str) -> String {
    let text: String = failure.chars().filter(|c| !c.is_ascii_digit()).collect();
    let end = text.find(['{', '[', '"']).unwrap_or(text.len());
    text[..end].to_owned()
}

/// Whether a case of one of so many seeds fails.
pub(crate) fn fails_within(family: &Family, seeds: u64) -> bool {
    let fails = |seed| run_case(&Case::draw(family, seed, None), false).failure.is_some();
    (0..seeds).any(fails)
}

/// A shorter case that fails in the same way: every operation that can be left out is.
fn shrink(mut case: Case, failure: &str) -> Case {
    let kind = kind_of(failure);
    let mut budget = 6000;
    let mut len = case.ops.len();
    while len > 0 {
        let mut at = 0;
        while at < case.ops.len() && budget > 0 {
            let mut shorter = case.clone();
            shorter.ops.drain(at..(at + len).min(case.ops.len()));
            match fails_somehow(&shorter, &kind, &mut budget) {
                Some(failing) => case = failing,
                None => at += len,
            }
        }
        len /= 2;
    }
    // The fewer changes from one task to the other, the easier to read.
    for stick in [15, 14, 12, 8] {
        let mut steadier = case.clone();
        steadier.schedule.stick = stick;
        if stick > case.schedule.stick
            && let Some(failing) = fails_somehow(&steadier, &kind, &mut 600)
        {
            return failing;
        }
    }
    case
}

/// The case in some order of its steps in which it fails so.
fn fails_somehow(case: &Case, kind: &str, budget: &mut u32) -> Option<Case> {
    let mut rng = Rng::new(case.schedule.seed);
    let mut case = case.clone();
    for _ in 0..150 {
        *budget = budget.saturating_sub(1);
        if run_case(&case, false).failure.is_some_and(|failure| kind_of(&failure) == kind) {
            return Some(case);
        }
        case.schedule.seed = rng.next();
    }
    None
}

fn report(name: &str, seed: u64, case: &Case) -> String {
    let outcome = run_case(case, true);
    let failure = outcome.failure.unwrap_or_default();
    let trace = outcome.trace.join("\n");
    let ops: Vec<_> = case.ops.iter().map(|(who, op)| format!("  {who:?}: {op:?}")).collect();
    let (ops, config, schedule) = (ops.join("\n"), &case.config, &case.schedule);
    format!("{trace}\n\n{name}, WORLD_SEED={seed}: {failure}\n{config:?}\n{schedule:?}\n{ops}")
}
