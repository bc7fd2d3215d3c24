// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask package`: the packages for Debian and for systems with rpm, built in a root directory of their own, so
//! that what comes out depends on no machine.
//!
//! The root is a Debian with a compiler for both architectures, made once with mmdebstrap and kept in the cache;
//! `packaging/build.sh` is run in it.

mod builder;
mod licences;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use farwatch_testkit::vm::{Kernel, initrd};

use crate::guest;
use builder::Root;

/// What the packages are built for, as Debian calls it.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// What the agent has beside crates: it is linked statically.
const AGENT_ALSO: &str = "\
The program contains the standard library of Rust (Apache-2.0 OR MIT), musl (MIT, Copyright (c) 2005-2020 Rich\n\
Felker, et al.) and libgcc (GPL-3.0 with the GCC Runtime Library Exception, which lets it be linked into any program).\n";
const FARWATCH_ALSO: &str =
    "The program contains the standard library of Rust (Apache-2.0 OR MIT).\n";

/// Builds the packages for these architectures, or for all.
pub(crate) fn run(root: &Path, architectures: &[&str]) -> Result<bool> {
    let architectures = if architectures.is_empty() { &ARCHITECTURES[..] } else { architectures };
    for arch in architectures {
        ensure!(
            ARCHITECTURES.contains(arch),
            "packages are built for {}",
            ARCHITECTURES.join(", ")
        );
    }
    let into = dir(root);
    build(root, architectures, &into, &guest::target_dir(root).join("package"))?;
    for package in files(&into)? {
        println!("{} ({} KiB)", package.display(), package.metadata()?.len() >> 10);
    }
    Ok(true)
}

/// Installs what [`run`] has built, for this architecture, in each suite, uses it and removes it.
pub(crate) fn check(root: &Path) -> Result<bool> {
    let packages = dir(root);
    ensure!(packages.is_dir(), "there are no packages: `cargo xtask package amd64` builds them");
    let mut passed = true;
    for (suite, test) in Root::tests()? {
        let formats: &[&str] =
            if suite == builder::RPM_SUITE { &["deb", "rpm", "tar"] } else { &["deb"] };
        for format in formats {
            println!("the packages as {format} in Debian {suite}:");
            let mut command = test.test_command(&packages, &root.join("packaging"));
            let status = command.args(["bash", "/scripts/check.sh", format, "amd64"]).status()?;
            passed &= status.success();
        }
        if suite == builder::LINTIAN_SUITE {
            passed &= lint(&test, &packages)?;
        }
    }
    passed &= emulate(root, &packages)?;
    Ok(passed)
}

/// What Debian's own check says: nothing, or what `packaging/debian/*.lintian-overrides` argue for.
fn lint(test: &Root, packages: &Path) -> Result<bool> {
    let mut lintian = test.test_command(packages, packages);
    lintian.args([
        "sh",
        "-c",
        "lintian --allow-root --fail-on error,warning,info --display-info /packages/*.deb",
    ]);
    let clean = lintian.status()?.success();
    println!("{}    lintian", if clean { "ok" } else { "FAILED" });
    Ok(clean)
}

/// Runs the programs for arm64, in emulation of that processor.
fn emulate(root: &Path, packages: &Path) -> Result<bool> {
    let is_arm64 = |package: &PathBuf| package.to_string_lossy().ends_with("_arm64.deb");
    if !files(packages)?.iter().any(is_arm64) {
        println!("there are no packages for arm64");
        return Ok(true);
    }
    println!("the programs for arm64, in emulation:");
    let target = guest::target_dir(root).join("package");
    let mut run = Root::builder()?.build_command(root, &target, packages)?;
    Ok(run.args(["bash", "/src/packaging/emulate.sh"]).status()?.success())
}

/// Builds the packages a second time, with nothing left of the first, and compares.
pub(crate) fn reproduce(root: &Path, architectures: &[&str]) -> Result<bool> {
    let architectures = if architectures.is_empty() { &ARCHITECTURES[..] } else { architectures };
    let (first, target) = (dir(root), guest::target_dir(root).join("package-again"));
    ensure!(first.is_dir(), "there are no packages: `cargo xtask package` builds them");
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let again = target.join("packages");
    build(root, architectures, &again, &target)?;
    let mut same = true;
    for package in files(&again)? {
        let name = package.file_name().context("a package has a name")?;
        let equal = fs::read(&package)? == fs::read(first.join(name)).unwrap_or_default();
        println!("{} {}", if equal { "the same " } else { "DIFFERENT" }, name.display());
        same &= equal;
    }
    fs::remove_dir_all(&target)?;
    Ok(same)
}

/// What the first process of the machine does, before systemd takes its place: the root directory is a share.
const START_SYSTEMD: &str = "\
mkdir /new && mount -t virtiofs root /new
for dir in proc sys dev; do umount -l /$dir; done
mount -t devtmpfs dev /new/dev
exec switch_root /new /lib/systemd/systemd
";

/// Boots a virtual machine in which the agent has been installed, and nothing has been configured.
pub(crate) fn boot(root: &Path, kernel: &str) -> Result<bool> {
    let found = stock_kernel(kernel)?;
    let dir = tempfile::tempdir()?;
    let initrd = initrd(&found, &guest::dir(root), START_SYSTEMD, dir.path())?;
    println!("Debian in a virtual machine with Linux {kernel}:");
    let mut command = Root::boot_command(&root.join("packaging"), &self::dir(root))?;
    Ok(command.arg(&found.image).arg(initrd).status()?.success())
}

/// What the first process of a machine does that another program has started: it watches the shares of two tags.
const WATCH_SHARES: &str = "\
farwatch-agent --all &
for share in found named; do
    mkdir -p /srv/$share && mount -t virtiofs $share /srv/$share
    inotifywait --monitor --event create --format 'event %f' /srv/$share 2>&1 |
        while read -r line; do echo \"$share: $line\"; done &
done
wait
";

/// Has programs that start virtiofsd start the packages' farwatch instead, each for a virtual machine of its own.
pub(crate) fn callers(root: &Path, kernel: &str) -> Result<bool> {
    let found = stock_kernel(kernel)?;
    let dir = tempfile::tempdir()?;
    initrd(&found, &guest::dir(root), WATCH_SHARES, dir.path())?;
    fs::copy(&found.image, dir.path().join("vmlinuz"))?;
    fs::copy(root.join("packaging/callers.sh"), dir.path().join("callers.sh"))?;
    println!("programs that start virtiofsd, with Linux {kernel} in their machines:");
    let mut command = Root::callers()?.test_command(&self::dir(root), dir.path());
    Ok(command.args(["bash", "/scripts/callers.sh", "amd64"]).status()?.success())
}

fn stock_kernel(version: &str) -> Result<Kernel> {
    Kernel::find(version).with_context(|| {
        format!("no kernel {version} in the cache or in FARWATCH_KERNELS: `./test` fetches it")
    })
}

/// Where they are.
fn dir(root: &Path) -> PathBuf {
    guest::target_dir(root).join("packages")
}

/// Builds packages into `into`, with intermediate results in `target`.
fn build(root: &Path, architectures: &[&str], into: &Path, target: &Path) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "a root directory for building needs root");
    let builder = Root::builder()?;
    let licences = target.join("licences");
    fs::create_dir_all(&licences)?;
    let guest = licences::copyright(root, "farwatch-guest", AGENT_ALSO)?;
    fs::write(licences.join("farwatch-agent"), guest)?;
    fs::write(licences.join("farwatch"), licences::copyright(root, "farwatch", FARWATCH_ALSO)?)?;
    fs::write(licences.join("farwatch-virtiofsd"), licences::own(root)?)?;
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    fs::create_dir_all(into)?;
    let date = output(root, "git", &["log", "-1", "--format=%ct"])?;
    for arch in architectures {
        println!("building the packages for {arch}");
        let mut run = builder.build_command(root, target, into)?;
        run.arg(format!("SOURCE_DATE_EPOCH={date}"));
        run.args(["bash", "/src/packaging/build.sh", arch, VERSION]);
        let status = run.status().context("unshare")?;
        ensure!(status.success(), "the packages for {arch} cannot be built: {status}");
    }
    Ok(())
}

/// The version of a package: of the workspace, and the first package of that.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-1");

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn output(root: &Path, program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).current_dir(root).output()?;
    ensure!(output.status.success(), "{program} {args:?} failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
