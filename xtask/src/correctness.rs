// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask correctness`: the tests of file systems that are too long for each commit.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::testkit;

/// Installs what Debian has of them, keeps the rest in the cache, and prints where that is.
const FETCH: &str =
    "set -e; source .ci/packages.sh; source .ci/file_systems.sh; fetch_file_system_tests";

/// `args` are those of `farwatch-correctness`.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<bool> {
    let fetch = Command::new("bash")
        .args(["-c", FETCH])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("bash")?;
    ensure!(fetch.status.success(), "the tests cannot be had: {}", fetch.status);
    let programs = String::from_utf8(fetch.stdout)?;
    testkit::build(root)?;
    testkit::start(root, "farwatch-correctness", ["--programs", programs.trim()].iter().chain(args))
}
