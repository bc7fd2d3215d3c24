// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask oracle`, `converge`, `faults` and `coherence`: build the product and a program of the test kit, and run that.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::guest;

/// `args` are those of `farwatch-oracle`, whose `run` need not be named.
pub(crate) fn oracle(root: &Path, args: &[&str]) -> Result<bool> {
    build(root)?;
    if args.iter().any(|arg| ["6.1", "6.12", "uml"].contains(arg)) {
        guest::run(root)?;
    }
    let run = (args.first() != Some(&"case")).then_some(&"run");
    start(root, "farwatch-oracle", run.into_iter().chain(args))
}

/// `args` are those of `farwatch-converge run`.
pub(crate) fn converge(root: &Path, args: &[&str]) -> Result<bool> {
    build(root)?;
    start(root, "farwatch-converge", ["run"].iter().chain(args))
}

/// `args` are those of `farwatch-faults`.
pub(crate) fn faults(root: &Path, args: &[&str]) -> Result<bool> {
    build(root)?;
    start(root, "farwatch-faults", args)
}

/// `args` are `--minutes N`, and others of `farwatch-faults`. Results go beside the temporary files, so that nothing is left
/// in the checkout.
pub(crate) fn soak(root: &Path, args: &[&str]) -> Result<bool> {
    build(root)?;
    let dir = std::env::temp_dir().join("farwatch-soak");
    let dir = dir.to_str().context("the directory of temporary files")?;
    let minutes: &[&str] = if args.contains(&"--minutes") { &[] } else { &["--minutes", "180"] };
    start(root, "farwatch-faults", ["--soak", dir].iter().chain(minutes).chain(args))
}

/// `args` are those of `farwatch-coherence`.
pub(crate) fn coherence(root: &Path, args: &[&str]) -> Result<bool> {
    build(root)?;
    start(root, "farwatch-coherence", args)
}

/// Builds the product and the programs of the test kit.
pub(crate) fn build(root: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root).args(["build", "--quiet", "--release", "--bins"]);
    build.args(["-p", "farwatch", "-p", "farwatch-guest", "-p", "farwatch-testkit"]);
    ensure!(build.status()?.success(), "the programs cannot be built");
    Ok(())
}

/// Runs one of them, after [`build`]. Returns whether it has succeeded.
pub(crate) fn start(
    root: &Path,
    program: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<bool> {
    let target = guest::target_dir(root);
    let program = target.join("release").join(program);
    let mut command = Command::new(&program);
    command.env("FARWATCH_GUEST_BIN", target.join("guest")).args(args);
    Ok(command.status().with_context(|| program.display().to_string())?.success())
}
