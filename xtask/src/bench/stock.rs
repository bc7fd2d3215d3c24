// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench stock`: what a share costs in a virtual machine with a stock kernel, beside stock virtiofsd. Builds
//! the product and the test kit's `farwatch-bench`, and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::{guest, oracle};

/// `args` are those of `farwatch-bench stock`, but for the virtiofsd.
pub(crate) fn run(root: &Path, args: &[&str]) -> anyhow::Result<bool> {
    let virtiofsd = std::env::var_os("FARWATCH_STOCK_VIRTIOFSD")
        .context("FARWATCH_STOCK_VIRTIOFSD names no virtiofsd 1.14 (`./test` builds one)")?;
    oracle::build(root)?;
    guest::run(root)?;
    let program = guest::target_dir(root).join("release/farwatch-bench");
    let status = Command::new(&program).arg("stock").args(args).arg(virtiofsd).status();
    Ok(status.with_context(|| program.display().to_string())?.success())
}
