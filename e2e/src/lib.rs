// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The harness of the end-to-end tests: named trials, and what each needs of the machine.
//!
//! A need that this machine does not meet makes the trial a skipped one, with the reason in its
//! name. `./test` installs what is missing, so that nothing is skipped there.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use farwatch_testkit::{Mount, Scenario};
use libtest_mimic::{Arguments, Failed, Trial};

/// Names the stock virtiofsd program; without it, the usual places are searched.
const STOCK_VARIABLE: &str = "FARWATCH_STOCK_VIRTIOFSD";

/// What a trial needs of the machine.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// To be root, and `/dev/fuse`: a mount.
    Mount,
    /// The `inotifywait` program.
    Inotifywait,
    /// The Rust virtiofsd program.
    StockVirtiofsd,
    /// The `python3` program: what only unsafe code can do in Rust, a test does with it.
    Python,
}

impl Need {
    fn missing(self) -> Option<&'static str> {
        let (met, reason) = match self {
            Self::Mount if !rustix::process::geteuid().is_root() => (false, "needs root"),
            Self::Mount => (Path::new("/dev/fuse").exists(), "needs /dev/fuse"),
            Self::Inotifywait => (in_path("inotifywait").is_some(), "needs inotifywait"),
            Self::StockVirtiofsd => (stock_virtiofsd().is_some(), "needs virtiofsd"),
            Self::Python => (in_path("python3").is_some(), "needs python3"),
        };
        (!met).then_some(reason)
    }
}

/// A trial called `name`, skipped where a need is not met.
pub fn trial(
    name: &str,
    needs: &[Need],
    run: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    named(name, needs.iter().find_map(|need| need.missing()), run)
}

/// A trial of a scenario, skipped where a need or one of its programs is missing.
pub fn scenario_trial(
    scenario: Scenario,
    needs: &[Need],
    run: impl FnOnce(&Scenario) -> Result<()> + Send + 'static,
) -> Trial {
    let program = scenario.missing_program().map(|program| format!("needs {program}"));
    let missing = needs.iter().find_map(|need| need.missing()).or(program.as_deref());
    let name = scenario.name.clone();
    named(&name, missing, move || run(&scenario))
}

/// All scenario files.
pub fn scenarios() -> Vec<Scenario> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    Scenario::load_all(&dir).unwrap_or_else(|error| panic!("a scenario cannot be read: {error:#}"))
}

/// Runs every scenario through mounts that `start` makes. The scenarios of one process share a
/// mount, each in a directory of its own, and run side by side; one that says `mount: fresh` gets
/// its own.
#[must_use]
pub fn run_scenarios(start: fn() -> Result<Mount>) -> ExitCode {
    let shared = Arc::new(Shared::default());
    let trials = scenarios()
        .into_iter()
        .map(|scenario| {
            let shared = Arc::clone(&shared);
            scenario_trial(scenario, &[Need::Mount], move |scenario| {
                if scenario.fresh_mount {
                    scenario.run(&start()?)
                } else {
                    scenario.run(&*shared.mount(start)?)
                }
            })
        })
        .collect();
    let code = run(trials);
    // Dropped here, so that a mount or process left behind fails the run.
    drop(shared);
    code
}

/// The mount of this process, started by the first scenario that wants it.
#[derive(Default)]
struct Shared(Mutex<Option<Arc<Mount>>>);

impl Shared {
    fn mount(&self, start: fn() -> Result<Mount>) -> Result<Arc<Mount>> {
        let mut mount = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mount) = &*mount {
            return Ok(Arc::clone(mount));
        }
        Ok(Arc::clone(mount.insert(Arc::new(start()?))))
    }
}

/// Runs the trials as the command line says.
#[must_use]
pub fn run(trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The trials of functions of one file, each named like its function.
#[macro_export]
macro_rules! trials {
    ($needs:expr; $($function:ident),+ $(,)?) => {
        vec![$($crate::trial(stringify!($function), $needs, $function)),+]
    };
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
