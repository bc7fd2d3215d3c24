// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: what farwatch costs, measured on this machine, each figure beside the one
//! that it is to be compared with, from the same run. Needs root.
//!
//! `--quick` does a tenth of the work, to see that it runs. For I/O beside stock virtiofsd, name the
//! program in `FARWATCH_STOCK_VIRTIOFSD` (`./test` builds one).

mod burst;
mod io;
mod latency;
mod memory;
pub(crate) mod native;
mod share;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

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
    /// How often throughput is measured; the median counts.
    rounds: usize,
}

const FULL: Scale = Scale {
    changes: 5000,
    burst: 50_000,
    megabytes: 512,
    walked: 10_000,
    directories: 10_000,
    rounds: 5,
};
const QUICK: Scale =
    Scale { changes: 500, burst: 5000, megabytes: 64, walked: 1000, directories: 1000, rounds: 3 };

/// Builds the release binary and measures.
///
/// # Errors
/// When it is not run as root, or something does not work at all.
pub(crate) fn run(root: &Path, quick: bool) -> anyhow::Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("mounting needs root: run it with sudo");
    }
    let scale = if quick { QUICK } else { FULL };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "-p", "farwatch"])
        .current_dir(root)
        .status()?;
    if !built.success() {
        bail!("farwatch does not build");
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let farwatch = root.join(target).join("release/farwatch");
    let farwatch = farwatch.canonicalize().context("the release binary")?;
    latency::run(&farwatch, scale)?;
    burst::run(&farwatch, scale)?;
    io::run(&farwatch, scale)?;
    memory::run(&farwatch, scale)?;
    Ok(true)
}
