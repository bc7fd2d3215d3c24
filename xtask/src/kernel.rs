// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask kernel [VERSION]`: applies the patches of `kernel/series/VERSION` to Debian's source of that
//! kernel, builds a User-mode Linux of it, which is a kernel that runs as a process, and boots it.
//!
//! It is kept in the cache under a name made of all that it depends on, and gets that name last: what is
//! there is whole, and has booted.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use farwatch_testkit::vm::{Guest, Series, Uml};

use crate::{cached, guest};

/// What the fragment is merged into.
const DEFAULTS: &str = "x86_64_defconfig";

/// Builds the kernels of these versions, or of all that there are patches for, where they have not been built.
pub(crate) fn run(root: &Path, versions: &[&str]) -> Result<bool> {
    let all = Series::all()?;
    for version in versions {
        let is_there = all.iter().any(|series| series.version == *version);
        ensure!(is_there, "there are no patches for Linux {version} in kernel/series");
    }
    let is_asked = |series: &&Series| versions.is_empty() || versions.contains(&&*series.version);
    for series in all.iter().filter(is_asked) {
        one(root, series)?;
    }
    Ok(true)
}

fn one(root: &Path, series: &Series) -> Result<()> {
    fetch(root, series)?;
    let built = series.built()?;
    let linux = built.join("linux");
    cached::build(
        &built,
        || linux.is_file(),
        |new| {
            guest::run(root)?;
            build(series, new)
        },
    )?;
    println!("{}", linux.display());
    Ok(())
}

/// Has `.ci/kernels.sh` fetch the source.
fn fetch(root: &Path, series: &Series) -> Result<()> {
    let source = series.source().context("no cache directory")?;
    if source.join("version").is_file() {
        return Ok(());
    }
    script(root, &format!("fetch_kernel_source {}", series.version))?;
    ensure!(source.join("version").is_file(), "the source of Linux {} is missing", series.version);
    Ok(())
}

/// Has `.ci/kernels.sh` do something, with what it needs installed.
pub(crate) fn script(root: &Path, what: &str) -> Result<()> {
    let mut bash = Command::new("bash");
    bash.current_dir(root).arg("-euc").arg(format!(
        "source .ci/packages.sh; source .ci/kernels.sh; need_kernel_tools; install_missing; {what}"
    ));
    succeed(&mut bash)
}

fn build(series: &Series, new: &Path) -> Result<()> {
    let tree = new.join("tree");
    fs::create_dir(&tree)?;
    println!("building Linux {} with {} patches, once", series.version, series.patches.len());
    let source = series.source().context("no cache directory")?.join("linux.tar.xz");
    succeed(
        Command::new("tar")
            .arg("-xJf")
            .arg(source)
            .arg("--strip-components=1")
            .arg("-C")
            .arg(&tree),
    )?;
    for patch in &series.patches {
        apply(patch, &tree)?;
    }
    make(&tree, &[DEFAULTS])?;
    let merge = tree.join("scripts/kconfig/merge_config.sh");
    let mut merge = Command::new(merge);
    merge.current_dir(&tree).env("ARCH", "um").args(["-m", "-Q", ".config"]).arg(&series.config);
    succeed(&mut merge)?;
    make(&tree, &["olddefconfig"])?;
    make(&tree, &["linux"])?;
    // With what it is debugged with, it would be eight times as large.
    let linux = new.join("linux");
    succeed(Command::new("strip").arg("-g").arg("-o").arg(&linux).arg(tree.join("linux")))?;
    fs::copy(tree.join(".config"), new.join("config"))?;
    fs::remove_dir_all(&tree)?;
    let version = boot(&linux)?;
    println!("it boots: {version}");
    Ok(())
}

/// Neither what has been applied in part nor what lies elsewhere than the patch says counts as applied.
fn apply(patch: &Path, tree: &Path) -> Result<()> {
    let mut command = Command::new("patch");
    command.current_dir(tree).args(["-p1", "--forward", "--batch", "--fuzz=0", "--quiet", "-i"]);
    succeed(command.arg(patch))
}

fn make(tree: &Path, targets: &[&str]) -> Result<()> {
    let jobs = std::thread::available_parallelism()?;
    let mut make = Command::new("make");
    make.current_dir(tree).args(["ARCH=um", "-s", &format!("-j{jobs}")]).args(targets);
    // The same kernel wherever and whenever it is built.
    make.env("KBUILD_BUILD_USER", "farwatch").env("KBUILD_BUILD_HOST", "localhost");
    make.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01");
    succeed(&mut make)
}

/// Returns what it says of itself.
fn boot(linux: &Path) -> Result<String> {
    let mut guest = Guest::boot_uml(&Uml::at(linux), &[])?;
    let version = guest.output(&["uname", "-r", "-v"])?.stdout;
    guest.power_off()?;
    Ok(version.trim().to_owned())
}

/// Runs a program, which must succeed.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{status} from {command:?}");
    Ok(())
}
