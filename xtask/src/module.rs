// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask module`: builds the module of `kernel/dkms` for the stock kernels that `./test` has fetched.
//!
//! What is in the cache under the name of its source and its kernel is whole.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use farwatch_testkit::vm::Module;

use crate::cached;
use crate::kernel::{script, succeed};

const VERSIONS: [&str; 2] = ["6.1", "6.12"];

/// Builds it where it has not been built.
pub(crate) fn run(root: &Path) -> Result<bool> {
    for version in VERSIONS {
        let module = Module::of(version)?;
        let fetch = format!("fetch_kernel {version}; fetch_kernel_headers {version}");
        script(root, &fetch)?;
        let built = module.built()?;
        let is_there = || Module::find(version).is_some();
        cached::build(&built, is_there, |new| build(&module, new))?;
        println!("{}", built.join(Module::NAME).with_extension("ko").display());
    }
    Ok(true)
}

fn build(module: &Module, new: &Path) -> Result<()> {
    let tree = new.join("tree");
    succeed(Command::new(module.maker()).arg(&tree))?;
    let headers = module.headers().context("no cache directory")?.join("build");
    let mut make = Command::new("make");
    make.current_dir(&tree).args(["-s", "W=1", &format!("KERNELDIR={}", headers.display())]);
    let output = make.output().context("make")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} from {make:?}\n{said}", output.status);
    // Neither the compiler nor the kernel's own checks may have anything to say.
    let warns = |line: &&str| line.contains("warning:") || line.contains("WARNING:");
    let warnings: Vec<&str> = said.lines().filter(warns).collect();
    ensure!(warnings.is_empty(), "{warnings:#?}");
    let name = format!("{}.ko", Module::NAME);
    succeed(Command::new("strip").arg("-g").arg("-o").arg(new.join(&name)).arg(tree.join(&name)))?;
    fs::remove_dir_all(&tree).with_context(|| tree.display().to_string())
}
