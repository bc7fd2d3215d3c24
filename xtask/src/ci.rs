// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask ci`: all checks and all tests, to the end even when one fails, and the sum.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use farwatch_testkit::SKIPPED_VARIABLE;
use tempfile::NamedTempFile;

use crate::tally::Tally;
use crate::tidy;
use crate::{clients, docs, guest, package};

/// How much to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Length {
    /// What must pass before a commit.
    Usual,
    /// Also what takes too long for each.
    Long,
}

/// Runs everything; `Ok(false)` when something failed. The last line of the output is the sum.
pub(crate) fn run(root: &Path, length: Length) -> Result<bool> {
    let mut tally = Tally::default();
    tally.gate("fmt", cargo(root, &["fmt", "--all", "--check"]).status()?.success());
    tally.gate("tidy", tidy::run(root)?);
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    tally.gate("clippy", cargo(root, &clippy).status()?.success());
    let mut doc = cargo(root, &["doc", "--workspace", "--no-deps", "--document-private-items"]);
    tally.gate("doc", doc.env("RUSTDOCFLAGS", "-D warnings").status()?.success());
    // The end-to-end tests run the programs that lie beside them.
    let built = cargo(root, &["build", "--workspace", "--bins"]).status()?.success();
    tally.gate("build", built);
    if built {
        tally.gate("guest", guest::run(root)?);
        tally.gate("docs", docs::run(root)?);
        tests(root, &mut tally)?;
    }
    if length == Length::Long {
        long(root, &mut tally);
    }
    println!("{}", tally.report());
    Ok(tally.failed == 0)
}

/// A task of `--long`: its name, and what runs it.
type Task = (&'static str, fn(&Path) -> Result<bool>);

/// What takes too long for each commit. One that cannot be run has failed, and the next is run.
fn long(root: &Path, tally: &mut Tally) {
    const TASKS: [Task; 6] = [
        ("package", |root| package::run(root, &[])),
        ("package check", package::check),
        ("package boot", |root| package::boot(root, "6.12")),
        ("package callers", |root| package::callers(root, "6.12")),
        ("clients", clients::run),
        ("package reproduce", |root| package::reproduce(root, &[])),
    ];
    for (name, run) in TASKS {
        println!("── cargo xtask {name}");
        let passed = run(root).unwrap_or_else(|error| {
            println!("{error:#}");
            false
        });
        tally.gate(name, passed);
    }
}

fn tests(root: &Path, tally: &mut Tally) -> Result<()> {
    let has_nextest = cargo(root, &["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let tests: &[&str] = if has_nextest {
        &["nextest", "run", "--workspace", "--no-tests", "pass"]
    } else {
        &["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]
    };
    count(&mut as_root(cargo(root, tests))?, "tests", tally)?;
    count(&mut cargo(root, &["test", "--workspace", "--doc", "--no-fail-fast"]), "doctests", tally)
}

/// Runs a test command, passing its output on, and adds what it reports, and which of its tests have
/// skipped themselves.
fn count(command: &mut Command, name: &str, tally: &mut Tally) -> Result<()> {
    let skipped = NamedTempFile::new().context("a file for the names of skipped tests")?;
    // A test may run as another user.
    skipped.as_file().set_permissions(Permissions::from_mode(0o666))?;
    command.env(SKIPPED_VARIABLE, skipped.path());
    // nextest reports on stderr, libtest on stdout: one pipe takes both.
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    // The command holds the pipe's other end open: without it, the reading below can end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let failed_before = tally.failed;
    for line in BufReader::new(reader).lines() {
        let line = line?;
        println!("{line}");
        tally.add_line(&line);
    }
    let status = child.wait()?;
    for line in std::fs::read_to_string(skipped.path())?.lines() {
        println!("{line}");
        tally.add_skipped(line);
    }
    if !status.success() && tally.failed == failed_before {
        // It broke before it could count, as when a test does not compile.
        tally.gate(name, false);
    }
    Ok(())
}

/// Lets cargo start the test programs through sudo, where we are not root but may become it:
/// mounting needs root, building does not.
fn as_root(mut command: Command) -> Result<Command> {
    let is_root = output("id", &["-u"])?.trim() == "0";
    let may_sudo = || {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        sudo.status().is_ok_and(|status| status.success())
    };
    if !is_root && may_sudo() {
        let version = output("rustc", &["-vV"])?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("host")?;
        let host = host.replace('-', "_").to_uppercase();
        let path = std::env::var("PATH")?;
        command.env(format!("CARGO_TARGET_{host}_RUNNER"), format!("sudo -E env PATH={path}"));
    }
    Ok(command)
}

fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    Ok(String::from_utf8(output.stdout)?)
}

fn cargo(root: &Path, args: &[&str]) -> Command {
    println!("── cargo {}", args.join(" "));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root);
    cargo
}
