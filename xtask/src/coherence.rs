// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask coherence`: builds the product and the test kit's `farwatch-coherence`, and runs that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{guest, oracle};

/// `args` are those of `farwatch-coherence`.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<bool> {
    oracle::build(root)?;
    let program = guest::target_dir(root).join("release/farwatch-coherence");
    let status = Command::new(&program).args(args).status();
    Ok(status.with_context(|| program.display().to_string())?.success())
}
