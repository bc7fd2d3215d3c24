// SPDX-License-Identifier: Apache-2.0 OR MIT
//! User-mode Linux with the patches of `kernel/series`, whose kernel raises the events. For each series: every
//! scenario, the kept cases and convergence. For the first one also a server that lies, the oracle, scenarios with
//! a notification queue of one buffer, and what else such a kernel meets: `farwatch mount` in it, an agent, a mount
//! that is read-only. No process of ours delivers events in the guest, and its kernel finds no fault in itself.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use e2e::oracle::{equal, kept_cases};
use e2e::{Need, hostile};
use farwatch_testkit::oracle::{Delivery, Plan};
use farwatch_testkit::vm::{Guest, Uml, Vm};
use farwatch_testkit::{Mount, Place, Scenario};
use libtest_mimic::Trial;

/// The series that is tested to the full.
const FIRST: &str = "6.12";
const OTHERS: [&str; 1] = ["7.3"];

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

/// Set for this program in a guest, where it runs the scenarios through `farwatch mount`.
const IN_GUEST: &str = "FARWATCH_TEST_IN_GUEST";
/// The guest's tmpfs keeps no attributes of users, and its memory is too little for npm.
const NOT_IN_GUEST: [&str; 2] = ["attrib-setxattr", "tool-npm-install"];

type Test = fn(&'static str) -> Result<()>;

/// The tests that are functions of this file, each named like its function.
macro_rules! tests {
    ($($function:ident),+ $(,)?) => { &[$((stringify!($function), $function as Test)),+] };
}

const EACH: &[(&str, Test)] = tests![
    scenarios,
    kept_cases_are_equal,
    model_is_true_after_renames,
    model_is_true_after_changes_of_one_process,
    model_is_true_after_changes_on_both_sides,
];
const FULL_WITHOUT_MOUNT: &[(&str, Test)] = tests![
    kernel_survives_forbidden_messages_of_a_hostile_server,
    kernel_survives_random_messages_of_a_hostile_server,
    hostile_server_stops_to_answer,
];
const FULL: &[(&str, Test)] = tests![
    scenarios_with_one_buffer,
    paced_operations_are_reported_as_locally,
    paced_operations_are_reported_as_locally_through_fanotify,
    unpaced_operations_are_reported_as_locally,
    unpaced_operations_are_reported_as_locally_through_fanotify,
    farwatch_mount_hands_the_events_to_the_kernel,
    agent_is_refused_where_the_kernel_raises_the_events,
    agent_raises_the_events_where_the_kernel_may_not,
    read_only_mount_has_its_events,
];

fn main() -> ExitCode {
    if std::env::var_os(IN_GUEST).is_some() {
        return e2e::run_scenarios(&[Need::Mount], mount_here);
    }
    let (_, lacking) = e2e::scenarios_by_readiness();
    let run = |_: &Scenario| Ok(());
    let needs = [Need::Mount, Need::Uml(FIRST)];
    let lacking = lacking.into_iter().map(|one| e2e::scenario_trial(one, &needs, run));
    let mut trials: Vec<Trial> = lacking.collect();
    trials.extend(trials_of(FIRST, &needs, FULL));
    trials.extend(trials_of(FIRST, &[Need::Uml(FIRST)], FULL_WITHOUT_MOUNT));
    for version in [FIRST].into_iter().chain(OTHERS) {
        trials.extend(trials_of(version, &[Need::Mount, Need::Uml(version)], EACH));
    }
    e2e::run(trials)
}

fn trials_of(
    version: &'static str,
    needs: &[Need],
    tests: &[(&str, Test)],
) -> impl Iterator<Item = Trial> {
    tests.iter().map(move |&(name, test)| {
        e2e::trial(&format!("{name}::{version}"), needs, move || test(version))
    })
}

fn kernel(version: &str) -> Result<Uml> {
    Uml::find(version).context("the kernel has gone")
}

fn start(version: &str) -> Result<Vm> {
    start_with(version, &[])
}

fn start_with(version: &str, options: &[&str]) -> Result<Vm> {
    Vm::start_uml(&kernel(version)?, options)
}

fn scenarios(version: &'static str) -> Result<()> {
    let (ready, _) = e2e::scenarios_by_readiness();
    e2e::run_all(&ready, || start(version))
}

fn scenarios_with_one_buffer(version: &'static str) -> Result<()> {
    let (ready, _) = e2e::scenarios_by_readiness();
    let kernel = kernel(version)?.with_notification_buffers(1);
    e2e::run_all(&ready, || Vm::start_uml(&kernel, &[]))
}

fn kept_cases_are_equal(version: &'static str) -> Result<()> {
    let delivery = Delivery { by_name: true, native: true };
    // What programs do in the mount needs a mount that is here.
    kept_cases(&start(version)?, |case| case.is_fair(delivery) && case.is_of_the_host())
}

fn paced_operations_are_reported_as_locally(version: &'static str) -> Result<()> {
    equal(&start(version)?, PACED)
}

/// The host's watcher tells of objects then.
fn paced_operations_are_reported_as_locally_through_fanotify(version: &'static str) -> Result<()> {
    let vm = start_with(version, &["--watch", "fanotify"])?;
    equal(&vm, Plan { ops: 1000, seed: SEED + 2000, by_name: false, ..PACED })
}

fn unpaced_operations_are_reported_as_locally(version: &'static str) -> Result<()> {
    equal(&start(version)?, UNPACED)
}

fn unpaced_operations_are_reported_as_locally_through_fanotify(
    version: &'static str,
) -> Result<()> {
    let vm = start_with(version, &["--watch", "fanotify"])?;
    equal(&vm, Plan { ops: 10_000, seed: SEED + 4000, by_name: false, ..UNPACED })
}

fn model_is_true_after_renames(version: &'static str) -> Result<()> {
    converges(version, &["renames", "--renames", "3,7,51", "--trials", "6"], "names,listing,count")
}

fn model_is_true_after_changes_of_one_process(version: &'static str) -> Result<()> {
    converges(version, &["solo", "--trials", "24"], "names,listing")
}

fn model_is_true_after_changes_on_both_sides(version: &'static str) -> Result<()> {
    converges(version, &["both", "--trials", "24"], "names,listing")
}

/// The judges of convergence, in the guest: it has the shared directory too, past the server.
fn converges(version: &str, kind: &[&str], judges: &str) -> Result<()> {
    let vm = start(version)?;
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

fn mount_here() -> Result<Mount> {
    const NATIVE: &str = "this kernel raises the events itself";
    let mut mount = Mount::start()?;
    // It says that before it is mounted, but not on the same output.
    if !mount.log().contains(NATIVE) {
        mount.driver().wait_for_line(|line| line.contains(NATIVE))?;
    }
    Ok(mount)
}

/// This program in the guest, with the programs and libraries of this machine, which the guest has read-only.
fn farwatch_mount_hands_the_events_to_the_kernel(version: &'static str) -> Result<()> {
    const SCENARIOS: &str = "scenarios";
    let program = std::env::current_exe()?;
    let script = format!(
        "mkdir -p /all && mount -t hostfs -o ro,/ all /all
         for dir in proc sys dev; do mount -o bind /$dir /all/$dir; done
         mount -t tmpfs run /all/run
         export TMPDIR=/run HOME=/run FARWATCH_LOG=info {IN_GUEST}=1
         exec chroot /all {} --test-threads 1 {}",
        program.display(),
        NOT_IN_GUEST.map(|name| format!("--skip {name}")).join(" "),
    );
    let mut guest = alone(version)?;
    guest.start(SCENARIOS, &["sh", "-c", &script])?;
    // Each line comes in time, not all of them.
    while !guest.wait_for_line(SCENARIOS, "")?.starts_with("test result: ") {}
    let code = guest.exited(SCENARIOS)?;
    ensure!(code == 0, "{}", guest.log(SCENARIOS)?);
    guest.is_sound()
}

fn agent_is_refused_where_the_kernel_raises_the_events(version: &'static str) -> Result<()> {
    let vm = start(version)?;
    let at = vm.mount_point();
    let agent = vm.guest().output(&["farwatch-agent".as_ref(), at.as_os_str()])?;
    let is_refused =
        agent.code == 1 && agent.stderr.contains("the kernel raises the events itself");
    ensure!(is_refused, "{agent:?}");
    e2e::tells_once(&vm, "both")
}

fn agent_raises_the_events_where_the_kernel_may_not(version: &'static str) -> Result<()> {
    let (mut ready, _) = e2e::scenarios_by_readiness();
    ready.retain(|scenario| scenario.name.starts_with("rename-"));
    ensure!(!ready.is_empty(), "no scenario of a rename");
    e2e::run_all(&ready, || {
        let vm = Vm::start_uml(&kernel(version)?.that_raises_nothing(), &[])?;
        vm.start_agent()?;
        Ok(vm)
    })
}

fn read_only_mount_has_its_events(version: &'static str) -> Result<()> {
    let vm = start(version)?;
    e2e::mount_again(&vm, "ro")?;
    e2e::tells_once(&vm, "read-only")
}

fn alone(version: &str) -> Result<Guest> {
    Guest::boot_uml(&kernel(version)?, &[])
}

fn kernel_survives_forbidden_messages_of_a_hostile_server(version: &'static str) -> Result<()> {
    hostile::cases(&mut alone(version)?, hostile::Way::Device)
}

fn kernel_survives_random_messages_of_a_hostile_server(version: &'static str) -> Result<()> {
    hostile::random(&mut alone(version)?, hostile::Way::Device, SEED, 50_000)
}

fn hostile_server_stops_to_answer(version: &'static str) -> Result<()> {
    hostile::stops(&mut alone(version)?, hostile::Way::Device)
}
