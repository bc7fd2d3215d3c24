// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask clients`: the clients that are too large, or too slow to start, for each commit.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Installs what Debian has of them, keeps the rest in the cache, and prints where that is.
const FETCH: &str = "source .ci/packages.sh && source .ci/clients.sh && use_long_clients && \
    install_missing >&2 && fetch_long_clients >&2 && echo \"$clients\"";

/// Runs each on a local directory and in a mount (needs root); `Ok(false)` when one reacts otherwise there.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let fetch = Command::new("bash")
        .args(["-c", FETCH])
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("bash")?;
    ensure!(fetch.status.success(), "the clients cannot be had: {}", fetch.status);
    let clients = String::from_utf8(fetch.stdout)?;
    let cargo = || {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root);
        cargo
    };
    // The tests run the programs that lie beside them.
    let built = cargo().args(["build", "-p", "farwatch", "-p", "e2e", "--bins"]).status()?;
    ensure!(built.success(), "cargo build: {built}");
    let tests = cargo()
        .args(["test", "-p", "e2e", "--test", "clients", "--", "--test-threads", "1"])
        .env("FARWATCH_CLIENTS", clients.trim())
        .env("FARWATCH_CLIENTS_LONG", "1")
        .status()?;
    Ok(tests.success())
}
