// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs cases: those of many seeds, and when one fails, shorter ones until none is shorter.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::ops::{Case, Family, Op, Who};
use crate::rng::Rng;
use crate::sim::{End, Task, World, run};

/// Names of tasks, for the trace.
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
        Ok(End::Rest) => match catch_unwind(AssertUnwindSafe(|| world.check())) {
            Ok(checked) => checked.err(),
            Err(panic) => Some(said(&*panic)),
        },
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
        Task::new("agent", world.agent()),
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
pub(crate) fn run_family(name: &str, family: &Family, seeds: u64) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("WORLD_SEED");
    let steps = number("WORLD_STEPS").and_then(|steps| usize::try_from(steps).ok());
    let count = if first.is_some() { 1 } else { number("WORLD_SEEDS").unwrap_or(seeds) };
    let first = first.unwrap_or(0);
    let mut made = 0;
    for seed in first..first + count {
        let case = Case::draw(family, seed, steps);
        let outcome = quietly(|| run_case(&case, false));
        made += outcome.steps;
        if outcome.failure.is_some() {
            let case = quietly(|| shrink(case));
            panic!("{}", report(name, seed, &case));
        }
    }
    println!("{name}: {count} cases, {made} steps");
}

/// Without a message for each panic that is caught.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// The shortest case that fails, as far as leaving out operations makes one.
fn shrink(mut case: Case) -> Case {
    let mut budget = 4000;
    let mut len = case.ops.len();
    while len > 0 {
        let mut at = 0;
        while at < case.ops.len() && budget > 0 {
            let mut shorter = case.clone();
            shorter.ops.drain(at..(at + len).min(case.ops.len()));
            match fails_somehow(&shorter, &mut budget) {
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
            && let Some(failing) = fails_somehow(&steadier, &mut 600)
        {
            return failing;
        }
    }
    case
}

/// The case in some order of its steps in which it fails.
fn fails_somehow(case: &Case, budget: &mut u32) -> Option<Case> {
    let mut rng = Rng::new(case.schedule.seed);
    let mut case = case.clone();
    for _ in 0..100 {
        *budget = budget.saturating_sub(1);
        if run_case(&case, false).failure.is_some() {
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
