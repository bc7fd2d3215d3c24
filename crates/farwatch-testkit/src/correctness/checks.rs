// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our own table of checks. It is in Python, which has the calls that only unsafe code has in Rust: mappings, locks of
//! each kind, fallocate(2). Each check is a process with a directory of its own.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Found;
use crate::mount::Mount;

/// The files, in this order, are one program.
const PROGRAM: [&str; 7] = [
    include_str!("checks/harness.py"),
    include_str!("checks/locks.py"),
    include_str!("checks/data.py"),
    include_str!("checks/attributes.py"),
    include_str!("checks/names.py"),
    include_str!("checks/databases.py"),
    "main()\n",
];

pub(super) fn run(mount: &Mount) -> Result<Found> {
    let output = Command::new("python3")
        .arg("-c")
        .arg(PROGRAM.concat())
        .arg(mount.mount_point())
        .env("FARWATCH_CHECKED_HOST", mount.host())
        .output()
        .context("python3")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let mut found = Found::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (name, result) =
            line.split_once('\t').with_context(|| format!("not a result: {line}"))?;
        ensure!(!result.is_empty(), "{name} has failed:\n{said}");
        found.insert(name.to_owned(), result.to_owned());
    }
    ensure!(!found.is_empty(), "no check was run");
    Ok(found)
}
