// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tests of file systems that others have written: pjdfstest, fsx, fio and stress-ng.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};

use super::{Found, Length, Plan};
use crate::mount::Mount;

/// Two users and their groups, which Debian always has. Nothing is remounted.
const POSIX_CONFIGURATION: &str = "\
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = false
expected_failures = []
[dummy_auth]
entries = [[\"daemon\", \"daemon\"], [\"games\", \"games\"]]
";

/// Every operation that fsx has.
const FSX_CONFIGURATION: &str = "\
[weights]
close_open = 1
invalidate = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
truncate = 4
fsync = 1
fdatasync = 1
posix_fallocate = 2
punch_hole = 4
sendfile = 4
posix_fadvise = 1
copy_file_range = 4
";

/// Jobs of fio that read again what they have written: options beside those that all have.
const FIO_JOBS: [(&str, &[&str]); 7] = [
    ("random writes", &["--rw=randwrite", "--ioengine=psync"]),
    ("random writes of odd sizes", &["--rw=randwrite", "--ioengine=psync", "--bsrange=512-70k"]),
    ("mapped random writes", &["--rw=randwrite", "--ioengine=mmap"]),
    ("direct random writes", &["--rw=randwrite", "--ioengine=psync", "--direct=1"]),
    ("asynchronous writes", &["--rw=randwrite", "--ioengine=libaio", "--iodepth=16", "--direct=1"]),
    ("io_uring writes", &["--rw=randwrite", "--ioengine=io_uring", "--iodepth=16"]),
    ("four writers", &["--rw=randwrite", "--ioengine=psync", "--numjobs=4", "--fsync=32"]),
];

/// Stressors of stress-ng that use a file system and say whether it has done what it should. None that calls sync(2), which
/// waits for every file system of the machine.
const STRESSORS: [&str; 35] = [
    "access",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dup",
    "fallocate",
    "fcntl",
    "fiemap",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "hdd",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "mmap",
    "open",
    "rename",
    "seek",
    "symlink",
    "sync-file",
    "touch",
    "utime",
    "xattr",
];

/// Tests of pjdfstest whose result depends on time in any FUSE mount. A program is executed and its file opened with
/// O_TRUNC: the server truncates it before the kernel refuses that (`fuse_open()`), and if the program has died of it by
/// then, it is not refused.
const POSIX_RACES: [&str; 1] = ["open::etxtbsy"];

pub(super) fn posix(plan: &Plan, mount: &Mount) -> Result<Found> {
    let configuration = write(mount, "pjdfstest.toml", POSIX_CONFIGURATION)?;
    let mut command = program(plan, "pjdfstest");
    command.arg("-c").arg(configuration).arg("-p").arg(mount.mount_point());
    if plan.length == Length::Short {
        command.args(["chmod", "link", "rename"]);
    }
    let output = command.output().context("pjdfstest")?;
    let said = text(&output);
    let mut found = Found::new();
    for line in said.lines() {
        // What a failed one has said follows, further to the right.
        let mut words = line.split_whitespace();
        let (Some(name), Some(result), None) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if name.contains("::") && !POSIX_RACES.contains(&name) && !line.starts_with([' ', '\t']) {
            found.insert(name.to_owned(), result.to_owned());
        }
    }
    ensure!(!found.is_empty(), "no test was run: {said}");
    Ok(found)
}

pub(super) fn fsx(plan: &Plan, mount: &Mount) -> Result<Found> {
    let configuration = write(mount, "fsx.toml", FSX_CONFIGURATION)?;
    let (seeds, operations) = match plan.length {
        Length::Short => (1..=1, "2000"),
        Length::Long => (1..=4, "5000"),
    };
    let mut found = Found::new();
    for seed in seeds {
        let mut command = program(plan, "fsx");
        command.arg("-f").arg(&configuration).arg("-P").arg(mount.outside());
        command.args(["-q", "-S", &seed.to_string(), "-N", operations]);
        command.arg(mount.mount_point().join(format!("fsx{seed}")));
        let output = command.output().context("fsx")?;
        let result = judged(&output);
        found.insert(format!("seed {seed}, {operations} operations"), result);
    }
    Ok(found)
}

pub(super) fn fio(plan: &Plan, mount: &Mount) -> Result<Found> {
    let size = match plan.length {
        Length::Short => "--size=1m",
        Length::Long => "--size=24m",
    };
    let mut found = Found::new();
    for (nth, (name, options)) in FIO_JOBS.iter().enumerate() {
        let dir = mount.mount_point().join(format!("fio{nth}"));
        fs::create_dir(&dir)?;
        let mut command = program(plan, "fio");
        command.current_dir(mount.outside());
        command.arg(format!("--directory={}", dir.display()));
        command.args(["--name=job", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]);
        command.args(["--randseed=16", "--loops=2", "--fallocate=none", size]).args(*options);
        let output = command.output().context("fio")?;
        found.insert((*name).to_owned(), judged(&output));
    }
    Ok(found)
}

pub(super) fn stress(plan: &Plan, mount: &Mount) -> Result<Found> {
    let time = match plan.length {
        Length::Short => "1s",
        Length::Long => "3s",
    };
    let dir = mount.mount_point().join("stress");
    fs::create_dir(&dir)?;
    let mut found = Found::new();
    for stressor in STRESSORS {
        let mut command = program(plan, "stress-ng");
        command.arg(format!("--{stressor}")).arg("2").args(["--timeout", time, "--verify"]);
        command.arg("--temp-path").arg(&dir).args(["--hdd-bytes", "16m"]);
        command.args(["--fallocate-bytes", "16m", "--mmap-bytes", "8m", "--mmap-file"]);
        command.args(["--seek-size", "16m", "--copy-file-bytes", "128m"]);
        let output = command.output().context("stress-ng")?;
        found.insert(stressor.to_owned(), judged_stressor(&output));
    }
    let left: Vec<_> = fs::read_dir(&dir)?.collect::<std::io::Result<Vec<_>>>()?;
    found.insert("names that are left".to_owned(), left.len().to_string());
    Ok(found)
}

/// Well, or how it ended and the last that it said.
fn judged(output: &Output) -> String {
    if output.status.success() {
        return "ok".to_owned();
    }
    let said = text(output);
    let lines: Vec<&str> = said.lines().rev().take(3).collect();
    format!("{}: {}", output.status, lines.into_iter().rev().collect::<Vec<_>>().join("; "))
}

/// What it says has numbers of processes and times. What counts is what failed.
fn judged_stressor(output: &Output) -> String {
    if output.status.success() {
        return "ok".to_owned();
    }
    let said = text(output);
    let failures = said.lines().filter(|line| line.contains("fail:") || line.contains("error:"));
    let reason = |line: &str| line.split("stress-ng-").nth(1).map(str::to_owned);
    let mut failures: Vec<String> = failures.filter_map(reason).collect();
    failures.sort_unstable();
    failures.dedup();
    format!("{}: {}", output.status, failures.join("; "))
}

fn text(output: &Output) -> String {
    let [said, complained] = [&output.stdout, &output.stderr].map(|o| String::from_utf8_lossy(o));
    format!("{said}{complained}")
}

fn program(plan: &Plan, name: &str) -> Command {
    match plan.programs.as_ref().map(|dir| dir.join(name)).filter(|program| program.exists()) {
        Some(program) => Command::new(program),
        None => Command::new(name),
    }
}

/// A file that is not in the directory that is tried.
fn write(mount: &Mount, name: &str, content: &str) -> Result<PathBuf> {
    let path = mount.outside().join(Path::new(name));
    fs::write(&path, content)?;
    Ok(path)
}
