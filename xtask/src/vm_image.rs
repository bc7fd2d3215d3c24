// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask vm-image`: the initial file system of a virtual machine, as the tests make it, for
//! `./demo vm` and for whoever wants to look around in one.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use farwatch_testkit::vm::{Kernel, initrd};

/// Makes `initrd` in `dir`, for the kernel of that version. Standard input is a shell script: what the
/// machine's first process does when the modules are loaded.
pub(crate) fn run(root: &Path, kernel: &str, dir: &Path) -> Result<bool> {
    let found = Kernel::find(kernel).with_context(|| {
        format!("no kernel {kernel} in the cache or in FARWATCH_KERNELS: `./demo vm` fetches 6.12")
    })?;
    let mut script = String::new();
    std::io::stdin().read_to_string(&mut script).context("standard input")?;
    let initrd = initrd(&found, &crate::guest::dir(root), &script, dir)?;
    println!("{}", initrd.display());
    Ok(true)
}
