// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The oracle: random operations, and the question whether a program that watches the mount is told
//! what the kernel's own inotify tells of a local directory.
//!
//! A *paced* run does each operation on the shared directory and on a local twin, waits until it has
//! been told, and compares the two streams as they are. Programs in the mount do some of them. In an
//! *unpaced* run several processes work on the shared directory, on the same names and at the same
//! time, and nobody waits. No twin could follow that, so the directory is its own: it is watched on
//! the host's side and in the mount, and the streams are compared after what docs/SEMANTICS.md allows.
//!
//! A run is made of [`Case`]s of some hundred operations, each in a directory of its own, all in one
//! mount. One that fails is cut smaller and written down.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of some thirty operations most are of no interest to any one question"
)]

mod case;
mod compare;
mod generate;
mod merged;
mod model;
mod op;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;

pub use case::{Case, Who};
pub use compare::Fault;
use compare::Saboteur;
pub use generate::{Generator, Shape};
pub use model::Delivery;
pub use op::{Actor, OUTSIDE, Op};

use crate::event::Event;
use crate::place::{Place, Record};
use crate::recorder::Recorder;
use crate::share::Share;

/// Processes of an unpaced run.
pub const PROCESSES: u8 = 4;
/// Operations of a paced case.
const PACED_LEN: u64 = 250;
/// Operations of each process of an unpaced case. What they cause must fit into the queue of a
/// program that reads later: 16,384 events.
const UNPACED_LEN: u64 = 400;
/// How many smaller cases are tried.
const SHRINK_TRIES_MAX: u32 = 600;
/// How long that may take. A case in which an event is missing waits for it each time.
const SHRINK_TIME_MAX: Duration = Duration::from_secs(180);
/// How often an unpaced one is run before it counts as one that does not fail.
const UNPACED_TRIES: u32 = 3;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The least number of operations.
    pub ops: u64,
    /// Where the random numbers begin. Case number n of a run is case number 0 of seed + n.
    pub seed: u64,
    /// Whether each operation is waited for.
    pub paced: bool,
    /// Whether programs in the mount do some of them; only in a paced run, and where the mount is of
    /// this machine.
    pub in_mount: bool,
    /// Whether the host is watched by inotify, which tells names and not objects.
    pub by_name: bool,
    /// Whether operations are to meet: four names in two directories.
    pub few: bool,
    /// Break a rule in what the mount tells.
    pub fault: Option<Fault>,
    /// Whether a case that fails is cut smaller, which takes minutes.
    pub shrink: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases that were run.
    pub cases: u64,
    /// Operations that were done, with those that failed as they had to.
    pub ops: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Operations that were drawn and not made: see [`Generator::left_out`].
    pub left_out: u64,
    /// Events that were compared.
    pub events: u64,
    /// The first case that failed, cut smaller.
    pub failure: Option<Failure>,
}

/// A case in which the streams differ.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of the case.
    pub seed: u64,
    /// Cut smaller, if it fails when it is run alone.
    pub case: Case,
    /// In words.
    pub difference: String,
}

/// Runs the oracle's cases in one place.
#[derive(Debug)]
pub struct Oracle<'a, P> {
    place: &'a P,
    saboteur: Option<Saboteur>,
    delivery: Delivery,
    merges: bool,
    /// Directories so far, for their names.
    made: u64,
    report: Report,
}

impl<'a, P: Place> Oracle<'a, P> {
    /// An oracle of `place`, which breaks no rule.
    pub fn new(place: &'a P) -> Self {
        let report = Report::default();
        let delivery = Delivery { by_name: false, native: place.is_native() };
        Self { place, saboteur: None, delivery, merges: false, made: 0, report }
    }

    /// The host is watched by fanotify, which merges equal renames though others lie between
    /// (`fanotify_should_merge()`): of an entry in an unpaced case, such a one may be missing, if what follows leads to
    /// the same in the end.
    pub fn expect_merges(&mut self) {
        self.merges = true;
    }

    /// Runs a plan, to its end or to the first failure. `progress` is told after each case.
    ///
    /// # Errors
    /// When a case cannot be run at all.
    pub fn run(mut self, plan: Plan, mut progress: impl FnMut(&Report)) -> Result<Report> {
        self.saboteur = plan.fault.map(Saboteur::new);
        self.delivery.by_name = plan.by_name;
        self.merges = !plan.by_name;
        while self.report.ops < plan.ops {
            let seed = plan.seed + self.report.cases;
            let (case, left_out) = generate(seed, plan, self.delivery);
            self.report.left_out += left_out;
            let difference = self.run_case(&case).with_context(|| format!("seed {seed}"))?;
            self.report.cases += 1;
            progress(&self.report);
            if let Some(difference) = difference {
                let failure = Failure { seed, case, difference };
                // When a rule is broken on purpose, it is not the case that is at fault.
                let shrink = plan.shrink && self.saboteur.is_none();
                self.report.failure = Some(if shrink { self.shrunk(failure) } else { failure });
                break;
            }
        }
        Ok(self.report)
    }

    /// Runs one case; returns what is different, in words.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn run_case(&mut self, case: &Case) -> Result<Option<String>> {
        self.made += 1;
        let name = format!("case{}", self.made);
        let share = self.place.share(&name)?;
        let difference = if case.is_paced() {
            let twin = self.place.local_twin(&name)?;
            let difference = self.run_paced(case, &share, &twin)?;
            remove(&twin)?;
            difference
        } else {
            self.run_unpaced(case, &share)?
        };
        remove(&share)?;
        Ok(difference)
    }

    /// What is left of a case may do what a mount is known to tell otherwise.
    fn run_fair(&mut self, case: &Case) -> Result<Option<String>> {
        if !case.is_fair(self.delivery) {
            return Ok(None);
        }
        // Among processes it also takes luck.
        let tries = if case.is_paced() { 1 } else { UNPACED_TRIES };
        for _ in 0..tries {
            if let Some(difference) = self.run_case(case)? {
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }

    fn run_paced(&mut self, case: &Case, share: &Share, twin: &Share) -> Result<Option<String>> {
        for share in [share, twin] {
            set_up(case, share);
        }
        let mut local = Recorder::new(twin, Recorder::CHANGES)?;
        let mut remote = self.place.recorder(share)?;
        local.watch_recursively(Path::new("."))?;
        remote.watch_recursively(Path::new("."))?;
        for path in watches(&case.setup) {
            watch(path, &mut local, &mut *remote)?;
        }
        remote.barrier()?;
        remote.take_events()?;
        let mut actors: BTreeMap<Who, [Actor; 2]> = BTreeMap::new();
        for (nth, (who, op)) in case.ops.iter().enumerate() {
            let base = if *who == Who::Mount { share.mount() } else { share.host() };
            let [here, there] = actors.entry(*who).or_insert_with(|| {
                [Actor::new(base, share.outside()), Actor::new(twin.host(), twin.outside())]
            });
            let results = [here.apply(op), there.apply(op)];
            self.report.ops += 1;
            self.report.failed += u64::from(results[0].is_err());
            if let Op::Watch(path) = op {
                watch(path, &mut local, &mut *remote)?;
            }
            remote.barrier().with_context(|| format!("operation {nth}: {who} {op}"))?;
            local.wait_until(Duration::ZERO, |_| true)?;
            let (wanted, told) = (local.take_events(), self.told(remote.take_events()?));
            if let Some(difference) = self.paced_difference(&results, &wanted, &told) {
                return Ok(Some(format!("operation {nth}: {who} {op}\n{difference}")));
            }
        }
        Ok(None)
    }

    fn paced_difference(
        &self,
        results: &[Result<(), Errno>; 2],
        wanted: &[Event],
        told: &[Event],
    ) -> Option<String> {
        let [here, there] = results;
        if here != there {
            return Some(format!("  it gave {here:?}, and {there:?} locally\n"));
        }
        compare::paced(wanted, told, self.delivery.native)
    }

    fn run_unpaced(&mut self, case: &Case, share: &Share) -> Result<Option<String>> {
        set_up(case, share);
        let mut local = Recorder::new(&share.mounted_at(share.host()), Recorder::CHANGES)?;
        let mut remote = self.place.recorder(share)?;
        for path in case.directories() {
            // A case that was cut may lack the directory above.
            watch(&path, &mut local, &mut *remote)?;
        }
        for path in watches(&case.setup) {
            watch(path, &mut local, &mut *remote)?;
        }
        remote.barrier()?;
        local.wait_until(Duration::ZERO, |_| true)?;
        local.take_events();
        remote.take_events()?;
        let processes = start(case, share)?;
        for process in processes {
            let output = process.wait_with_output()?;
            ensure!(output.status.success(), "a process of the run: {}", output.status);
            let failed = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>();
            self.report.failed += failed.context("a process says how many operations failed")?;
        }
        self.report.ops += case.ops.len() as u64;
        remote.barrier()?;
        local.wait_until(Duration::ZERO, |_| true)?;
        let (wanted, told) = (local.take_events(), self.told(remote.take_events()?));
        Ok(compare::unpaced(&wanted, &told, self.merges))
    }

    fn told(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        self.report.events += events.len() as u64;
        if let Some(saboteur) = &mut self.saboteur {
            saboteur.pass(&mut events);
        }
        events
    }

    fn shrunk(&mut self, failure: Failure) -> Failure {
        let Failure { seed, case, difference: mut last } = failure;
        let report = self.report.clone();
        let begin = Instant::now();
        let case = case.shrink(SHRINK_TRIES_MAX, |smaller| {
            if begin.elapsed() > SHRINK_TIME_MAX {
                return false;
            }
            match self.run_fair(smaller) {
                Ok(Some(difference)) => {
                    last = difference;
                    true
                }
                // A case that cannot be run is another trouble.
                Ok(None) | Err(_) => false,
            }
        });
        self.report = report;
        Failure { seed, case, difference: last }
    }
}

/// The case of a seed, and how many operations were left out of it.
fn generate(seed: u64, plan: Plan, delivery: Delivery) -> (Case, u64) {
    let mut sizes = fastrand::Rng::with_seed(seed);
    let wide = sizes.u8(..16) == 0;
    let directories = sizes.usize(1..if wide { 80 } else { 16 });
    let files = sizes.usize(1..if wide { 300 } else { 30 });
    let shape = Shape {
        directories: if plan.few { 2 } else { directories },
        files: if plan.few { 4 } else { files },
        // Among directories that come and go, some of which the guest does not know: docs/SEMANTICS.md
        // says what a watched file is not told there.
        watches_files: plan.paced && sizes.bool(),
        shared: !plan.paced,
        in_mount: plan.paced && plan.in_mount,
        delivery,
        few: plan.few,
    };
    let mut generator = Generator::new(sizes.u64(..), shape);
    let setup = generator.setup();
    let mut ops = Vec::new();
    let mut left_out = 0;
    if plan.paced {
        for _ in 0..PACED_LEN {
            let op = generator.next_op();
            let who = if generator.is_for_mount(&op) { Who::Mount } else { Who::Host };
            ops.push((who, op));
        }
    } else {
        for process in 0..PROCESSES {
            let mut generator = generator.other(sizes.u64(..));
            let own = (0..UNPACED_LEN).map(|_| (Who::Process(process), generator.next_op()));
            ops.extend(own);
            left_out += generator.left_out();
        }
    }
    (Case { setup, ops }, left_out + generator.left_out())
}

fn set_up(case: &Case, share: &Share) {
    let mut actor = Actor::new(share.host(), share.outside());
    for op in &case.setup {
        // In a case that was cut some fail, the same in both places.
        let _errno = actor.apply(op);
    }
}

fn watches(ops: &[Op]) -> impl Iterator<Item = &Path> {
    ops.iter().filter_map(|op| match op {
        Op::Watch(path) => Some(path.as_path()),
        _ => None,
    })
}

/// Watches in both places or, where a case was cut and there is nothing, in neither.
fn watch(path: &Path, local: &mut Recorder, remote: &mut dyn Record) -> Result<()> {
    match local.watch(path) {
        Ok(()) => remote.watch(path),
        Err(_) => Ok(()),
    }
}

/// Starts the processes of an unpaced case: programs, since who writes to a file is known by its
/// process.
fn start(case: &Case, share: &Share) -> Result<Vec<Child>> {
    let mut scripts: BTreeMap<Who, String> = BTreeMap::new();
    for (who, op) in &case.ops {
        let script = scripts.entry(*who).or_default();
        script.push_str(&op.to_string());
        script.push('\n');
    }
    let mut processes = Vec::new();
    for _ in &scripts {
        let mut command = crate::mount::own_program("farwatch-oracle")?;
        command.arg("process").arg(share.host()).arg(share.outside());
        processes.push(spawn(command)?);
    }
    // They begin when they have all.
    for (process, script) in processes.iter_mut().zip(scripts.values()) {
        let mut stdin = process.stdin.take().context("a pipe")?;
        stdin.write_all(script.as_bytes())?;
    }
    Ok(processes)
}

fn spawn(mut command: Command) -> Result<Child> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))
}

/// What a process of an unpaced run does: reads operations to the end, and then does them. Returns how
/// many failed.
///
/// # Errors
/// When a line is no operation.
pub fn process(script: &str, base: &Path, outside: &Path) -> Result<u64> {
    let ops = script.lines().map(Op::parse).collect::<Result<Vec<_>>>()?;
    let mut actor = Actor::new(base, outside);
    // What others have done in the meantime makes some fail.
    Ok(ops.iter().map(|op| u64::from(actor.apply(op).is_err())).sum())
}

fn remove(share: &Share) -> Result<()> {
    for dir in [share.host(), &share.barrier_on_host(), share.outside()] {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}
