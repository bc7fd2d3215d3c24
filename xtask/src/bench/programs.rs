// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that read a tree again in which nothing has changed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::ensure;

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Comparison, Report, timed};

const MODULES_PER_PACKAGE: usize = 20;

/// What is run in the directory of [`make`]. A program that this machine does not have is left out.
const PROGRAMS: [(&str, &[&str]); 5] = [
    ("ls -lR", &["ls", "-lR"]),
    ("grep -r", &["grep", "-r", "no such text", "."]),
    ("rg", &["rg", "no such text"]),
    ("python3, import of all", &["python3", "-c", "import all_of_them"]),
    ("cargo build, nothing to do", &["cargo", "build", "--quiet", "--offline"]),
];

pub(super) fn run(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let sites = [Site::Local, Site::Ours, Site::StockAuto, Site::StockAlways];
    let sites = programs.sites(&sites);
    let shares = sites
        .iter()
        .map(|site| {
            let share = Share::start(programs, *site)?;
            make(&share.src(), scale.modules)?;
            share.settle()?;
            Ok(share)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let title =
        format!("programs that read a tree again: {} modules of Python and of Rust", scale.modules);
    let mut comparison = Comparison::new(title, &sites);
    for (name, command) in PROGRAMS {
        if Command::new(command[0]).arg("--version").output().is_err() {
            println!("{name}: not measured, there is no {}", command[0]);
            continue;
        }
        // The first time compiles.
        shares.iter().try_for_each(|share| start(command, &share.mnt()))?;
        for _ in 0..scale.rounds {
            for share in &shares {
                comparison.measure(name, share, || timed(|| start(command, &share.mnt())))?;
            }
        }
    }
    comparison.report(report)
}

/// A tree of Python packages, and one of Rust modules.
fn make(root: &Path, modules: usize) -> anyhow::Result<()> {
    let source = root.join("src");
    fs::create_dir(&source)?;
    fs::write(
        root.join("Cargo.toml"),
        "[package]\nname = \"all\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n",
    )?;
    let (mut python, mut rust) = (String::new(), String::new());
    for nth in 0..modules {
        let package = format!("p{}", nth / MODULES_PER_PACKAGE);
        let dir = root.join(&package);
        if nth % MODULES_PER_PACKAGE == 0 {
            fs::create_dir(&dir)?;
            fs::write(dir.join("__init__.py"), "")?;
        }
        fs::write(dir.join(format!("m{nth}.py")), format!("VALUE = {nth}\n"))?;
        python.push_str(&format!("import {package}.m{nth}\n"));
        fs::write(source.join(format!("m{nth}.rs")), format!("pub const VALUE: u32 = {nth};\n"))?;
        rust.push_str(&format!("pub mod m{nth};\n"));
    }
    fs::write(root.join("all_of_them.py"), python)?;
    fs::write(source.join("lib.rs"), rust)?;
    Ok(())
}

fn start(command: &[&str], dir: &Path) -> anyhow::Result<()> {
    let status = Command::new(command[0])
        .args(&command[1..])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", "target")
        .env_remove("CARGO")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    // grep says that it has found nothing.
    ensure!(status.code().is_some_and(|code| code <= 1), "{command:?}: {status}");
    Ok(())
}
