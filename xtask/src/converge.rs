// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask converge`: builds the product and the test kit's `farwatch-converge`, and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{guest, oracle};

/// `args` are those of `farwatch-converge run`.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<bool> {
    oracle::build(root)?;
    let program = guest::target_dir(root).join("release/farwatch-converge");
    let status = Command::new(&program).arg("run").args(args).status();
    Ok(status.with_context(|| program.display().to_string())?.success())
}
