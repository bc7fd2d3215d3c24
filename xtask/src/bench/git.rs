// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `git status` of a repository in which nothing changes, again and again.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::Scale;
use super::share::{Programs, Share, Site};
use super::table::{Comparison, Report, timed};

const FILES_PER_DIRECTORY: usize = 100;

pub(super) fn run(programs: &Programs, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let sites = programs.sites(&[Site::Local, Site::Ours, Site::StockAuto, Site::StockAlways]);
    let shares = sites
        .iter()
        .map(|site| {
            let share = Share::start(programs, *site)?;
            make(&share.src(), scale.repository)?;
            share.settle()?;
            // The first one writes the index, with what files look like from there.
            status(&share.mnt())?;
            status(&share.mnt())?;
            Ok(share)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let title = format!("`git status`, {} files, repeated", scale.repository);
    let mut comparison = Comparison::new(title, &sites);
    for _ in 0..scale.rounds {
        for share in &shares {
            comparison.measure("git status", share, || timed(|| status(&share.mnt())))?;
        }
    }
    comparison.report(report)
}

fn make(dir: &Path, files: usize) -> anyhow::Result<()> {
    for nth in 0..files {
        let sub = dir.join(format!("d{}", nth / FILES_PER_DIRECTORY));
        if nth % FILES_PER_DIRECTORY == 0 {
            fs::create_dir(&sub)?;
        }
        fs::write(sub.join(format!("f{nth}")), format!("{nth}\n"))?;
    }
    git(dir, &["init", "--quiet"])?;
    git(dir, &["add", "--all"])?;
    git(dir, &["commit", "--quiet", "--message", "all"])
}

fn status(dir: &Path) -> anyhow::Result<()> {
    git(dir, &["status", "--porcelain"])
}

fn git(dir: &Path, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("git")
        .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"])
        .args(["-c", "safe.directory=*"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {args:?}: {}\n{said}", output.status);
    let clean = args[0] != "status" || output.stdout.is_empty();
    ensure!(clean, "git status says that something has changed");
    Ok(())
}
