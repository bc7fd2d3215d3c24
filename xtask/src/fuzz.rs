// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask fuzz`: the targets of `fuzz/`, guided by coverage, on the stable compiler: what instruments the code are
//! passes of LLVM that it has.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{guest, processor_time};

/// As libFuzzer's documentation and cargo-fuzz have it, without sanitizers: our code has no unsafe block there.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1";
/// Named, so that programs which the build runs are not instrumented.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Minutes for each target.
const MINUTES: &str = "1";

/// `args` are targets, all if none is named, and `--minutes N` for each.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<bool> {
    let (minutes, targets) = match args {
        [targets @ .., "--minutes", minutes] => (*minutes, targets),
        targets => (MINUTES, targets),
    };
    let seconds = minutes.parse::<u64>().context("--minutes N, at the end")? * 60;
    let target_dir = guest::target_dir(root).join("fuzz");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.env("RUSTFLAGS", RUSTFLAGS).env("CARGO_TARGET_DIR", &target_dir).current_dir(root);
    build.args(["build", "--quiet", "--release", "--bins", "--target", TRIPLE]);
    build.args(["--manifest-path", "fuzz/Cargo.toml"]);
    ensure!(build.status()?.success(), "the targets cannot be built");
    let mut all = fs::read_dir(root.join("fuzz/fuzz_targets"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    all.sort();
    let mut passed = true;
    for path in all {
        let name = path.file_stem().and_then(|name| name.to_str()).context("a name")?;
        if targets.is_empty() || targets.contains(&name) {
            println!("── {name}, {minutes} min");
            passed &= fuzz(root, &target_dir, name, seconds)?;
        }
    }
    Ok(passed)
}

/// What is found grows a corpus beside the program; the committed one is only read.
fn fuzz(root: &Path, target_dir: &Path, name: &str, seconds: u64) -> Result<bool> {
    let found = target_dir.join("corpus").join(name);
    fs::create_dir_all(&found)?;
    let program = target_dir.join(TRIPLE).join("release").join(name);
    let mut fuzzer = if rustix::process::geteuid().is_root() {
        // What a target mounts goes with it, whatever ends it.
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--"]).arg(program);
        unshare
    } else {
        Command::new(program)
    };
    fuzzer.arg(&found).arg(root.join("fuzz/corpus").join(name));
    fuzzer.args([format!("-max_total_time={seconds}"), "-print_final_stats=1".to_owned()]);
    // What a target waits for it bounds itself, to say what it was.
    fuzzer.args(["-timeout=120", "-rss_limit_mb=4096"]);
    fuzzer.arg(format!("-artifact_prefix={}/{name}-", target_dir.display()));
    let before = processor_time::of_ended_children()?;
    let status = fuzzer.status().with_context(|| name.to_owned())?;
    let time = processor_time::of_ended_children()?.saturating_sub(before);
    println!("{name}: {} s of processor time", time.as_secs());
    Ok(status.success())
}
