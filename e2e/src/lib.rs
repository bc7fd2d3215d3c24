// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The harness of the end-to-end tests: named trials, and what each needs of the machine.
//!
//! A need that this machine does not meet makes the trial a skipped one, with the reason in its
//! name. `./test` installs what is missing, so that nothing is skipped there.
#![forbid(unsafe_code)]

pub mod hostile;
pub mod limited;
pub mod oracle;
pub mod started;
pub mod transcript;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use farwatch_testkit::vm::{Kernel, Module, Qemu, Uml, Vm};
use farwatch_testkit::{FsType, Mount, PATIENCE, Place, Scenario, kernel_has};
use libtest_mimic::{Arguments, Failed, Trial};

/// Names the stock virtiofsd program; without it, the usual places are searched.
const STOCK_VARIABLE: &str = "FARWATCH_STOCK_VIRTIOFSD";

/// Names the directory where `./test` keeps the clients that Debian has not.
const CLIENTS_VARIABLE: &str = "FARWATCH_CLIENTS";

/// What a trial needs of the machine.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// To be root, and `/dev/fuse`: a mount.
    Mount,
    /// The `inotifywait` program.
    Inotifywait,
    /// The Rust virtiofsd program.
    StockVirtiofsd,
    /// QEMU, the stock kernel of this version, and what the guest's file system is made with.
    Vm(&'static str),
    /// What `cargo xtask kernel` builds of this version, and what the guest's file system is made with.
    Uml(&'static str),
    /// What `cargo xtask module` builds for that kernel.
    Module(&'static str),
    /// A QEMU that moves machines with shares to another one.
    Migration,
    /// The `python3` program: what only unsafe code can do in Rust, a test does with it.
    Python,
    /// A kernel with this file system, what makes one, and loop devices.
    FileSystem(FsType),
    /// A kernel that can have directories automounted.
    Autofs,
    /// `setpriv`, and a kernel that lets ordinary users have user namespaces.
    UserNamespaces,
    /// A program in the path.
    Program(&'static str),
    /// What `./test` installs of the npm registry, PyPI and crates.io for the tests of clients: a file in that directory.
    Client(&'static str),
}

impl Need {
    fn missing(self) -> Option<String> {
        const UML_PROGRAMS: [&str; 3] = ["busybox", "unshare", "setpriv"];
        const VM_PROGRAMS: [&str; 4] = ["qemu-system-x86_64", "busybox", "cpio", "xz"];
        let (met, reason) = match self {
            Self::Program(program) => {
                return in_path(program).is_none().then(|| format!("needs {program}"));
            }
            Self::Client(file) => {
                let is_there = clients().is_some_and(|clients| clients.join(file).exists());
                return (!is_there).then(|| format!("needs {file} in ${CLIENTS_VARIABLE}"));
            }
            Self::Mount if !rustix::process::geteuid().is_root() => (false, "needs root"),
            Self::Mount => (Path::new("/dev/fuse").exists(), "needs /dev/fuse"),
            Self::Inotifywait => (in_path("inotifywait").is_some(), "needs inotifywait"),
            Self::StockVirtiofsd => (stock_virtiofsd().is_some(), "needs virtiofsd"),
            Self::Vm(_) if VM_PROGRAMS.iter().any(|program| in_path(program).is_none()) => {
                (false, "needs QEMU, busybox, cpio and xz")
            }
            Self::Vm(version) => (Kernel::find(version).is_some(), "needs the kernel's package"),
            Self::Uml(_) if UML_PROGRAMS.iter().any(|program| in_path(program).is_none()) => {
                (false, "needs busybox, unshare and setpriv")
            }
            Self::Uml(version) => (Uml::find(version).is_some(), "needs `cargo xtask kernel`"),
            Self::Module(version) => {
                (Module::find(version).is_some(), "needs `cargo xtask module`")
            }
            Self::FileSystem(fs_type) => return fs_type.missing(),
            Self::Migration => (Qemu::that_migrates().is_some(), "needs QEMU 8.2"),
            Self::Python => (in_path("python3").is_some(), "needs python3"),
            Self::Autofs => (kernel_has("autofs"), "needs a kernel with autofs"),
            Self::UserNamespaces => {
                (has_user_namespaces(), "needs setpriv, and user namespaces for ordinary users")
            }
        };
        (!met).then(|| reason.to_owned())
    }
}

/// A trial called `name`, skipped where a need is not met.
pub fn trial(
    name: &str,
    needs: &[Need],
    run: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    named(name, needs.iter().find_map(|need| need.missing()).as_deref(), run)
}

/// A trial of a scenario, skipped where one of `needs` or of its own needs is not met.
pub fn scenario_trial(
    scenario: Scenario,
    needs: &[Need],
    run: impl FnOnce(&Scenario) -> Result<()> + Send + 'static,
) -> Trial {
    let own = scenario.missing_need().map(|need| format!("needs {need}"));
    let missing = needs.iter().find_map(|need| need.missing()).or(own);
    let name = scenario.name.clone();
    named(&name, missing.as_deref(), move || run(&scenario))
}

/// Waits until `done`, which is asked again and again.
///
/// # Errors
/// When it fails, and when it is not so after [`PATIENCE`]; the message then has `what`.
pub fn until(what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "not so in time: {what}");
        thread::yield_now();
    }
    Ok(())
}

/// All scenario files.
pub fn scenarios() -> Vec<Scenario> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let scenarios = Scenario::load_all(&dir)
        .unwrap_or_else(|error| panic!("a scenario cannot be read: {error:#}"));
    for scenario in &scenarios {
        let has_local_stream = scenario.steps.iter().any(|step| step.locally.is_some());
        assert!(!has_local_stream, "{}: `locally:` is for e2e/differences", scenario.name);
    }
    scenarios
}

/// Scenarios that a mount whose host is watched by inotify, as by default, is known to fail:
/// docs/SEMANTICS.md has a row for each, and e2e/tests/inotify.rs checks what happens instead.
const DIFFERENT: [&str; 1] = ["write-to-replaced-file"];

/// The scenarios that hold where the host is watched by inotify.
fn scenarios_by_inotify() -> Vec<Scenario> {
    let mut scenarios = scenarios();
    scenarios.retain(|scenario| !DIFFERENT.contains(&scenario.name.as_str()));
    scenarios
}

/// Runs the scenarios through mounts that `start` makes, whose host is watched by inotify. The
/// scenarios of one process share a mount, each in a directory of its own, and run side by side; one
/// that says `mount: fresh` gets its own.
#[must_use]
pub fn run_scenarios<P: Place + Send + Sync + 'static>(
    needs: &[Need],
    start: fn() -> Result<P>,
) -> ExitCode {
    run_these(scenarios_by_inotify(), needs, start)
}

/// The same with every scenario, for mounts whose host is watched by fanotify.
#[must_use]
pub fn run_every_scenario<P: Place + Send + Sync + 'static>(
    needs: &[Need],
    start: fn() -> Result<P>,
) -> ExitCode {
    run_these(scenarios(), needs, start)
}

fn run_these<P: Place + Send + Sync + 'static>(
    scenarios: Vec<Scenario>,
    needs: &[Need],
    start: fn() -> Result<P>,
) -> ExitCode {
    let shared = Arc::new(Shared::new());
    let trials = scenarios
        .into_iter()
        .map(|scenario| {
            let shared = Arc::clone(&shared);
            scenario_trial(scenario, needs, move |scenario| shared.run(scenario, start))
        })
        .collect();
    let code = run(trials);
    // Dropped here, so that a mount or process left behind fails the run.
    drop(shared);
    code
}

/// The same for a place that takes seconds to start, such as a virtual machine. nextest gives each
/// trial a process, which would start one each: there, all scenarios are a single trial.
#[must_use]
pub fn run_scenarios_in_one_process<P: Place + Send + Sync + 'static>(
    needs: &[Need],
    start: fn() -> Result<P>,
) -> ExitCode {
    if std::env::var_os("NEXTEST").is_none() {
        return run_scenarios(needs, start);
    }
    let (ready, lacking) = scenarios_by_readiness();
    let all = trial("scenarios", needs, move || run_all(&ready, start));
    let lacking = lacking.into_iter().map(|scenario| scenario_trial(scenario, needs, |_| Ok(())));
    run(lacking.chain([all]).collect())
}

/// The scenarios of [`run_scenarios`] whose needs are met, and the others.
pub fn scenarios_by_readiness() -> (Vec<Scenario>, Vec<Scenario>) {
    scenarios_by_inotify().into_iter().partition(|scenario| scenario.missing_need().is_none())
}

/// Runs them one after the other, to the end even when one fails.
pub fn run_all<P: Place>(scenarios: &[Scenario], start: impl Fn() -> Result<P>) -> Result<()> {
    let shared = Shared::new();
    let mut failures = String::new();
    for scenario in scenarios {
        if let Err(error) = shared.run(scenario, &start) {
            failures += &format!("---- {} ----\n{error:#}\n", scenario.name);
        }
    }
    if let Err(error) = shared.is_sound() {
        failures += &format!("{error:#}\n");
    }
    if failures.is_empty() { Ok(()) } else { Err(anyhow!(failures)) }
}

/// The mount of this process, started by the first scenario that wants it. One that cannot be
/// started fails all of them, and is not tried again.
struct Shared<P>(Mutex<Option<Result<Arc<P>, String>>>);

impl<P> Shared<P> {
    fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn run(&self, scenario: &Scenario, start: impl Fn() -> Result<P>) -> Result<()>
    where
        P: Place,
    {
        if scenario.fresh_mount {
            scenario.run(&start()?)
        } else {
            scenario.run(&*self.mount(start)?)
        }
    }

    fn is_sound(&self) -> Result<()>
    where
        P: Place,
    {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(place)) => place.is_sound(),
            _ => Ok(()),
        }
    }

    fn mount(&self, start: impl Fn() -> Result<P>) -> Result<Arc<P>> {
        let mut mount = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let started = || start().map(Arc::new).map_err(|error| format!("{error:#}"));
        match mount.get_or_insert_with(started) {
            Ok(mount) => Ok(Arc::clone(mount)),
            Err(error) => Err(anyhow!(std::mem::replace(error, "as above".to_owned()))),
        }
    }
}

/// What happens to a file on the host is told in the guest of a machine, once.
pub fn tells_once(vm: &Vm, share: &str) -> Result<()> {
    let share = vm.share(share)?;
    let mut recorder = vm.recorder(&share)?;
    recorder.watch(Path::new("."))?;
    share.run_on_host("echo new > f; mv f g; rm g")?;
    recorder.barrier()?;
    let told: Vec<String> = recorder.take_events()?.iter().map(ToString::to_string).collect();
    let wanted =
        ["CREATE f", "MODIFY f", "CLOSE_WRITE f", "MOVED_FROM f c1", "MOVED_TO g c1", "DELETE g"];
    ensure!(told == wanted, "{told:?}\n{}", vm.log());
    vm.is_sound()
}

/// Mounts the share of a machine once more, with these options.
pub fn mount_again(vm: &Vm, options: &str) -> Result<()> {
    let at = vm.mount_point();
    let again =
        format!("umount {0}; mount -t virtiofs -o {options} {1} {0}", at.display(), vm.tag());
    vm.guest().shell(Path::new("/"), &again).map(drop)
}

/// Runs the trials as the command line says.
#[must_use]
pub fn run(trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// What is done with one mount.
pub type Test = fn(&Mount) -> Result<()>;

/// Runs tests on each way in which events reach programs of this machine: with the host watched by fanotify
/// or by inotify, and through `farwatch-agent`. A trial is called like its test, and after that the way.
#[must_use]
pub fn run_on_each_path(tests: &[(&str, Test)]) -> ExitCode {
    type Start = fn() -> Result<Mount>;
    let starts: [(&str, Start); 3] = [
        ("fanotify", || Mount::start_with(&["--watch", "fanotify"])),
        ("inotify", || Mount::start_with(&["--watch", "inotify"])),
        ("agent", Mount::start_with_agent),
    ];
    let on = |&(name, test): &(&str, Test)| {
        starts.map(|(path, start)| {
            trial(&format!("{name}::{path}"), &[Need::Mount], move || test(&start()?))
        })
    };
    run(tests.iter().flat_map(on).collect())
}

/// The trials of functions of one file, each named like its function.
#[macro_export]
macro_rules! trials {
    ($needs:expr; $($function:ident),+ $(,)?) => {
        vec![$($crate::trial(stringify!($function), $needs, $function)),+]
    };
}

/// Goes on in a mount namespace of its own, which the kernel takes down with its last process: nothing
/// that a trial mounts outlives it, whatever ends it. To be called first in `main`. Without root all
/// stays as it is.
pub fn enter_own_mount_namespace() {
    const INSIDE: &str = "FARWATCH_TEST_MOUNT_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() || !rustix::process::geteuid().is_root() {
        return;
    }
    let program = std::env::current_exe().expect("this program has a path");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "--"]).arg(program);
    let error = unshare.args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
    panic!("unshare(1) cannot be started: {error}");
}

/// The Rust virtiofsd of the distribution or of `./test`. (QEMU's former one, in C, is not meant.)
#[must_use]
pub fn stock_virtiofsd() -> Option<PathBuf> {
    std::env::var_os(STOCK_VARIABLE)
        .map(PathBuf::from)
        .or_else(|| in_path("virtiofsd"))
        .or_else(|| Some(PathBuf::from("/usr/libexec/virtiofsd")))
        .filter(|program| program.is_file())
}

/// Where `./test` keeps the clients that Debian has not.
#[must_use]
pub fn clients() -> Option<PathBuf> {
    std::env::var_os(CLIENTS_VARIABLE).map(PathBuf::from)
}

fn has_user_namespaces() -> bool {
    let mut unshare = Command::new("setpriv");
    unshare.args(["--reuid=1000", "--regid=1000", "--clear-groups", "--"]);
    unshare.args(["unshare", "--user", "true"]);
    unshare.output().is_ok_and(|output| output.status.success())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|program| program.is_file())
}

fn named(
    name: &str,
    missing: Option<&str>,
    run: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    let name = match missing {
        Some(reason) => format!("{name} ({reason})"),
        None => name.to_owned(),
    };
    Trial::test(name, move || run().map_err(|error| Failed::from(format!("{error:#}"))))
        .with_ignored_flag(missing.is_some())
}
