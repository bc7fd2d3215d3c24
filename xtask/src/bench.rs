// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: what farwatch costs, measured on this machine, each figure beside the ones
//! that it is to be compared with, from the same run and in turns. Needs root.
//!
//! Groups that are named are measured alone. `--quick` does a tenth of the work, to see that it runs. For stock
//! virtiofsd, name the program in `FARWATCH_STOCK_VIRTIOFSD` (`./test` builds one). `FARWATCH_BIN` names another
//! `farwatch` than this checkout's. The tables are kept in `target/bench.md`.

mod behind;
mod burst;
mod git;
mod io;
mod latency;
mod memory;
pub(crate) mod native;
mod programs;
mod share;
mod speed;
pub(crate) mod stock;
mod table;
mod tree;
mod writes;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::guest;
use share::{Programs, Site};
use table::Report;

/// How much of everything.
#[derive(Clone, Copy)]
struct Scale {
    /// Changes whose latency is taken.
    changes: usize,
    /// Files created at once.
    burst: usize,
    /// MiB written and read in one piece.
    megabytes: usize,
    /// Files of the tree that is walked.
    walked: usize,
    /// Directories made known.
    directories: usize,
    /// Files of the repository.
    repository: usize,
    /// Small writes.
    writes: usize,
    /// Operations of one kind at full speed.
    operations: usize,
    /// Operations that are too many to be replayed while they happen.
    behind: usize,
    /// Files of the large tree, ten to a directory.
    tree: usize,
    /// Modules of the programs that are run.
    modules: usize,
    /// How often everything that is compared is measured; the median counts.
    rounds: usize,
}

const FULL: Scale = Scale {
    changes: 5000,
    burst: 50_000,
    megabytes: 128,
    walked: 10_000,
    directories: 20_000,
    repository: 20_000,
    writes: 20_000,
    operations: 2000,
    behind: 100_000,
    tree: 200_000,
    modules: 2000,
    rounds: 5,
};
const QUICK: Scale = Scale {
    changes: 500,
    burst: 5000,
    megabytes: 64,
    walked: 1000,
    directories: 1000,
    repository: 2000,
    writes: 2000,
    operations: 500,
    behind: 20_000,
    tree: 20_000,
    modules: 200,
    rounds: 5,
};

type Group = fn(&Programs, Scale, &mut Report) -> anyhow::Result<()>;

/// By name, in the order in which they are measured.
const GROUPS: [(&str, Group); 11] = [
    ("git", git::run),
    ("writes", writes::run),
    ("latency", latency::run),
    ("speed", speed::run),
    ("burst", burst::run),
    ("behind", behind::run),
    ("io", io::run),
    ("find", tree::find),
    ("busy", tree::busy),
    ("programs", programs::run),
    ("memory", |programs, scale, _| memory::run(programs, scale)),
];

/// Builds the release binary and measures the groups that `args` names, or all.
///
/// # Errors
/// When it is not run as root, or something does not work at all.
pub(crate) fn run(root: &Path, args: &[&str]) -> anyhow::Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("mounting needs root: run it with sudo");
    }
    let scale = if args.contains(&"--quick") { QUICK } else { FULL };
    let wanted: Vec<_> = args.iter().filter(|arg| **arg != "--quick").collect();
    if let Some(unknown) = wanted.iter().find(|arg| GROUPS.iter().all(|(name, _)| *name != ***arg))
    {
        let names: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
        bail!("{unknown} is none of the groups: {}", names.join(", "));
    }
    let programs = Programs {
        farwatch: farwatch(root)?,
        stock: std::env::var_os("FARWATCH_STOCK_VIRTIOFSD").map(Into::into),
    };
    if programs.stock.is_none() {
        println!(
            "FARWATCH_STOCK_VIRTIOFSD is not set: nothing is measured beside stock virtiofsd\n"
        );
    }
    let mut report = Report::new(guest::target_dir(root).join("bench.md"));
    for (name, group) in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|arg| **arg == name) {
            group(&programs, scale, &mut report).with_context(|| name)?;
        }
    }
    println!("the tables are in {}", report.path().display());
    Ok(true)
}

fn farwatch(root: &Path) -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("FARWATCH_BIN") {
        return Ok(given.into());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "-p", "farwatch"])
        .current_dir(root)
        .status()?;
    if !built.success() {
        bail!("farwatch does not build");
    }
    let farwatch = guest::target_dir(root).join("release/farwatch");
    farwatch.canonicalize().context("the release binary")
}

impl Programs {
    /// Those of `sites` where there is something to measure.
    fn sites(&self, sites: &[Site]) -> Vec<Site> {
        let has = |site: &Site| self.stock.is_some() || !site.is_stock();
        sites.iter().copied().filter(has).collect()
    }
}
