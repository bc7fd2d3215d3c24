// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask guest`: the programs that run in a virtual machine, linked statically, since it need
//! not have the C library of the machine that builds them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The package and the program, where the package has it.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("farwatch-guest", "farwatch-agent", "crates/farwatch-guest/src/main.rs"),
    ("farwatch-testkit", "farwatch-observer", "crates/farwatch-testkit/src/bin/observer.rs"),
    ("farwatch-testkit", "farwatch-converge", "crates/farwatch-testkit/src/bin/converge.rs"),
    ("farwatch-testkit", "farwatch-bench", "crates/farwatch-testkit/src/bin/bench.rs"),
    ("farwatch-testkit", "farwatch-hostile", "crates/farwatch-testkit/src/bin/hostile.rs"),
    ("e2e", "notify-client", "e2e/src/bin/notify-client.rs"),
];

/// What is larger is no small program any more, that somebody copies into a guest without a thought.
const SIZE_MAX: u64 = 3 << 20;

/// Builds them into `guest` in the target directory.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let target = target_dir(root);
    let dir = dir(root);
    let version = Command::new("rustc").arg("-vV").output().context("rustc")?;
    let version = String::from_utf8(version.stdout)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV")?;
    std::fs::create_dir_all(&dir)?;
    for (package, program, _) in PROGRAMS.iter().filter(|(.., path)| root.join(path).exists()) {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The target is named so that the flags are for these programs alone, not for build scripts.
        cargo.current_dir(root).args(["build", "--quiet", "--profile", "small", "--target", host]);
        cargo.args(["--package", package, "--bin", program]);
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
        ensure!(cargo.status()?.success(), "{program} cannot be built");
        let built = target.join(host).join("small").join(program);
        let to = dir.join(program);
        // Another name first: the one that is there may be running.
        let new = dir.join(format!(".{program}"));
        std::fs::copy(&built, &new).with_context(|| built.display().to_string())?;
        std::fs::rename(&new, &to)?;
        let size = to.metadata()?.len();
        println!("{} ({} KiB)", to.display(), size >> 10);
        ensure!(size <= SIZE_MAX, "{program} has more than {} KiB", SIZE_MAX >> 10);
    }
    Ok(true)
}

/// Where they are.
pub(crate) fn dir(root: &Path) -> PathBuf {
    target_dir(root).join("guest")
}

pub(crate) fn target_dir(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}
