// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A User-mode Linux with the patches of `kernel/series`, whose kernel raises the events: every scenario,
//! some of them with a notification queue of one buffer, and the oracle. No process of ours delivers events in the
//! guest, and its kernel finds no fault in itself: not with a server that lies either. And what else such a kernel
//! meets: `farwatch mount` in it, an agent, a mount that is read-only.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::{Need, hostile};
use farwatch_testkit::oracle::{Case, Delivery, Oracle, Plan};
use farwatch_testkit::vm::{Guest, Uml, Vm};
use farwatch_testkit::{Mount, Place, Scenario};

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

/// Set for this program in a guest, where it runs the scenarios through `farwatch mount`.
const IN_GUEST: &str = "FARWATCH_TEST_IN_GUEST";
/// The guest's tmpfs keeps no attributes of users, and its memory is too little for npm.
const NOT_IN_GUEST: [&str; 2] = ["attrib-setxattr", "tool-npm-install"];

fn main() -> ExitCode {
    if std::env::var_os(IN_GUEST).is_some() {
        return e2e::run_scenarios(&[Need::Mount], mount_here);
    }
    let mut trials = e2e::trials![
        &NEEDS;
        farwatch_mount_hands_the_events_to_the_kernel,
        agent_is_refused_where_the_kernel_raises_the_events,
        agent_raises_the_events_where_the_kernel_may_not,
        read_only_mount_has_its_events,
        kept_cases_are_equal,
        paced_operations_are_reported_as_locally,
        paced_operations_are_reported_as_locally_through_fanotify,
        unpaced_operations_are_reported_as_locally,
        unpaced_operations_are_reported_as_locally_through_fanotify,
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
    trials.extend(e2e::trials![
        &[Need::Uml(VERSION)];
        hostile_server_tells_what_it_should_not,
        hostile_server_tells_at_random,
        hostile_server_stops_to_answer,
    ]);
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

fn unpaced_operations_are_reported_as_locally_through_fanotify() -> Result<()> {
    let vm = start_with(&["--watch", "fanotify"])?;
    equal(&vm, Plan { ops: 10_000, seed: SEED + 4000, by_name: false, ..UNPACED })
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
fn farwatch_mount_hands_the_events_to_the_kernel() -> Result<()> {
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
    let mut guest = alone()?;
    guest.start(SCENARIOS, &["sh", "-c", &script])?;
    // Each line comes in time, not all of them.
    while !guest.wait_for_line(SCENARIOS, "")?.starts_with("test result: ") {}
    let code = guest.exited(SCENARIOS)?;
    ensure!(code == 0, "{}", guest.log(SCENARIOS)?);
    let complaints = guest.complaints()?;
    ensure!(complaints.is_empty(), "the guest's kernel: {complaints:#?}");
    Ok(())
}

fn agent_is_refused_where_the_kernel_raises_the_events() -> Result<()> {
    let vm = start()?;
    let at = vm.mount_point();
    let agent = vm.guest().output(&["farwatch-agent".as_ref(), at.as_os_str()])?;
    let is_refused =
        agent.code == 1 && agent.stderr.contains("the kernel raises the events itself");
    ensure!(is_refused, "{agent:?}");
    e2e::tells_once(&vm, "both")
}

fn agent_raises_the_events_where_the_kernel_may_not() -> Result<()> {
    let (mut ready, _) = e2e::scenarios_by_readiness();
    ready.retain(|scenario| scenario.name.starts_with("rename-"));
    ensure!(!ready.is_empty(), "no scenario of a rename");
    e2e::run_all(&ready, || {
        let vm = Vm::start_uml(&kernel()?.that_raises_nothing(), &[])?;
        vm.start_agent()?;
        Ok(vm)
    })
}

fn read_only_mount_has_its_events() -> Result<()> {
    let vm = start()?;
    e2e::mount_again(&vm, "ro")?;
    e2e::tells_once(&vm, "read-only")
}

fn alone() -> Result<Guest> {
    Guest::boot_uml(&kernel()?, &[])
}

fn hostile_server_tells_what_it_should_not() -> Result<()> {
    hostile::cases(&mut alone()?, hostile::Way::Device)
}

fn hostile_server_tells_at_random() -> Result<()> {
    hostile::random(&mut alone()?, hostile::Way::Device, SEED, 50_000)
}

fn hostile_server_stops_to_answer() -> Result<()> {
    hostile::stops(&mut alone()?, hostile::Way::Device)
}
