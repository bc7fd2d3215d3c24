// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A User-mode Linux with the patches of `kernel/series`, whose kernel raises the events: every scenario,
//! some of them with a notification queue of one buffer, and the oracle. No process of ours runs in the
//! guest, and its kernel finds no fault in itself.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::Need;
use farwatch_testkit::oracle::{Case, Delivery, Oracle, Plan};
use farwatch_testkit::vm::{Uml, Vm};
use farwatch_testkit::{Place, Scenario};

const VERSION: &str = "6.12";
const NEEDS: [Need; 2] = [Need::Mount, Need::Uml(VERSION)];

/// Another number is as good.
const SEED: u64 = 1;
const PACED: Plan = Plan {
    ops: 3000,
    seed: SEED,
    paced: true,
    in_mount: false,
    by_name: true,
    few: false,
    fault: None,
    shrink: true,
};
const UNPACED: Plan = Plan { ops: 20_000, paced: false, ..PACED };

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &NEEDS;
        kept_cases_are_equal,
        paced_operations_are_reported_as_locally,
        paced_operations_are_reported_as_locally_through_fanotify,
        unpaced_operations_are_reported_as_locally,
        model_is_true_after_renames,
        model_is_true_after_changes_of_one_process,
        model_is_true_after_changes_on_both_sides,
    ];
    let (ready, lacking) = e2e::scenarios_by_readiness();
    let lacking = lacking.into_iter().map(|scenario| {
        let run = |_: &Scenario| Ok(());
        e2e::scenario_trial(scenario, &NEEDS, run)
    });
    trials.extend(lacking);
    trials.push(e2e::trial("scenarios", &NEEDS, move || e2e::run_all(&ready, start)));
    trials.push(e2e::trial("scenarios_with_one_buffer", &NEEDS, || {
        let (ready, _) = e2e::scenarios_by_readiness();
        e2e::run_all(&ready, || Vm::start_uml(&kernel()?.with_notification_buffers(1), &[]))
    }));
    e2e::run(trials)
}

fn start() -> Result<Vm> {
    start_with(&[])
}

fn start_with(options: &[&str]) -> Result<Vm> {
    Vm::start_uml(&kernel()?, options)
}

fn kernel() -> Result<Uml> {
    Uml::find(VERSION).context("the kernel has gone")
}

fn kept_cases_are_equal() -> Result<()> {
    let vm = start()?;
    let mut oracle = Oracle::new(&vm);
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle"))? {
        let file = file?.path();
        let case = Case::parse(&std::fs::read_to_string(&file)?)
            .with_context(|| file.display().to_string())?;
        // What programs do in the mount needs a mount that is here.
        if !case.is_fair(Delivery { by_name: true, native: true }) || !case.is_of_the_host() {
            continue;
        }
        if let Some(difference) = oracle.run_case(&case)? {
            return Err(anyhow!("{}:\n{difference}", file.display()));
        }
    }
    vm.is_sound()
}

fn paced_operations_are_reported_as_locally() -> Result<()> {
    equal(&start()?, PACED)
}

/// The host's watcher tells of objects then.
fn paced_operations_are_reported_as_locally_through_fanotify() -> Result<()> {
    let vm = start_with(&["--watch", "fanotify"])?;
    equal(&vm, Plan { ops: 1000, seed: SEED + 2000, by_name: false, ..PACED })
}

fn unpaced_operations_are_reported_as_locally() -> Result<()> {
    equal(&start()?, UNPACED)
}

fn equal(vm: &Vm, plan: Plan) -> Result<()> {
    let report = Oracle::new(vm).run(plan, |_| {})?;
    ensure!(report.events > 0, "nothing was compared");
    if let Some(failure) = report.failure {
        return Err(anyhow!(
            "seed {}: {}\nthe case:\n{}\n{}",
            failure.seed,
            failure.difference,
            failure.case,
            vm.log()
        ));
    }
    vm.is_sound()
}

fn model_is_true_after_renames() -> Result<()> {
    converges(&["renames", "--renames", "3,7,51", "--trials", "6"], "names,listing,count")
}

fn model_is_true_after_changes_of_one_process() -> Result<()> {
    converges(&["solo", "--trials", "24"], "names,listing")
}

fn model_is_true_after_changes_on_both_sides() -> Result<()> {
    converges(&["both", "--trials", "24"], "names,listing")
}

/// The judges of convergence, in the guest: it has the shared directory too, past the server.
fn converges(kind: &[&str], judges: &str) -> Result<()> {
    let vm = start()?;
    let (host, mount) = (vm.mount_host()?, vm.mount_point());
    let mut argv = vec!["farwatch-converge", "run"];
    argv.extend(kind);
    argv.extend(["--settle", "sync", "--judge", judges, "--at"]);
    let (host, mount) = (host.display().to_string(), mount.display().to_string());
    argv.extend([host.as_str(), &mount]);
    let output = vm.guest().output(&argv)?;
    ensure!(output.code == 0, "{}{}{}", output.stdout, output.stderr, vm.log());
    vm.is_sound()
}
