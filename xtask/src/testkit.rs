// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask oracle`: builds the product and the test kit's oracle, and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::guest;

/// `args` are those of `farwatch-oracle`, whose `run` need not be named.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<bool> {
    build(root)?;
    if args.iter().any(|arg| ["6.1", "6.12", "uml"].contains(arg)) {
        guest::run(root)?;
    }
    let program = guest::target_dir(root).join("release/farwatch-oracle");
    let mut oracle = Command::new(&program);
    oracle.env("FARWATCH_GUEST_BIN", guest::target_dir(root).join("guest"));
    if args.first() != Some(&"case") {
        oracle.arg("run");
    }
    let status = oracle.args(args).status();
    Ok(status.with_context(|| program.display().to_string())?.success())
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
