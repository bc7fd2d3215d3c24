// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line of `farwatch serve` takes what virtiofsd 1.14 takes, and refuses what it refuses.
//!
//! Each row is parsed and nothing is served. With a stock virtiofsd at hand it gets the same rows, and
//! its help names no option that has no row.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use farwatch_testkit::skip;
use tempfile::TempDir;

/// Names the stock virtiofsd program.
const STOCK_VARIABLE: &str = "FARWATCH_STOCK_VIRTIOFSD";

/// Arguments that are taken.
const TAKEN: &[&str] = &[
    "--shared-dir /srv",
    "--shared-dir=/srv",
    "--tag share",
    "--socket /run/s",
    "--socket-path /run/s",
    "--fd 3",
    "--fd=3",
    "--log-level error",
    "--log-level warn",
    "--log-level info",
    "--log-level debug",
    "--log-level trace",
    "--log-level off",
    "--log-level INFO",
    "--syslog",
    "--thread-pool-size 0",
    "--thread-pool-size=64",
    "--xattr",
    "--posix-acl",
    "--posix-acl=never",
    "--posix-acl=auto",
    "--posix-acl=always",
    "--xattrmap :map::user.virtiofs.:",
    "--security-label",
    "--security-label=auto",
    "--sandbox namespace",
    "--sandbox chroot",
    "--sandbox none",
    "--readonly",
    "--seccomp none",
    "--seccomp kill",
    "--seccomp log",
    "--seccomp trap",
    "--announce-submounts",
    "--no-announce-submounts",
    "--inode-file-handles=never",
    "--inode-file-handles=prefer",
    "--inode-file-handles=fallback",
    "--inode-file-handles=mandatory",
    "--cache auto",
    "--cache always",
    "--cache never",
    "--cache metadata",
    "--cache Auto",
    "--allow-mmap",
    "--no-readdirplus",
    "--writeback",
    "--allow-direct-io",
    "--print-capabilities",
    "--modcaps=+sys_admin:-chown",
    "--modcaps=-mknod",
    "--rlimit-nofile 0",
    "--rlimit-nofile=4096",
    "-o source=/srv",
    "-o source=/srv,cache=none,xattr,no_posix_lock,no_flock,loglevel=err",
    "-o cache=auto -o cache=always,cache=metadata",
    "-o sandbox=namespace,loglevel=debug",
    "-o sandbox=chroot,loglevel=info,modcaps=+sys_admin",
    "-o loglevel=warn,xattrmap=:map::user.virtiofs.:",
    "-o no_xattr,readdirplus,no_readdirplus,writeback,no_writeback",
    "-o allow_direct_io,no_allow_direct_io,announce_submounts,killpriv_v2,no_killpriv_v2",
    "-o posix_acl,no_posix_acl,security_label,no_security_label",
    "-d",
    "-f",
    "--killpriv-v2",
    "--no-killpriv-v2",
    "--uid-map :0:100000:65536:",
    "--uid-map=:0:100000:1: --uid-map=:1:100001:2:",
    "--gid-map :0:100000:65536:",
    "--translate-uid guest:0:1000:1",
    "--translate-uid=host:1000:0:1",
    "--translate-uid=squash-guest:0:1000:10 --translate-uid=squash-host:0:0:10",
    "--translate-gid map:0:1000:10",
    "--translate-gid forbid-guest:0:10",
    "--preserve-noatime",
    "--migration-mode find-paths",
    "--migration-mode=file-handles",
    "--migration-on-error abort",
    "--migration-on-error=guest-error",
    "--migration-verify-handles",
    "--migration-confirm-paths",
    "--sandbox chroot --sandbox none --cache auto --cache never",
];

/// Arguments that are refused, and the word of the message that says which.
const REFUSED: &[(&str, &str)] = &[
    ("--sandbox cage", "--sandbox"),
    ("--seccomp allow", "--seccomp"),
    ("--cache some", "--cache"),
    ("--inode-file-handles=always", "--inode-file-handles"),
    ("--log-level loud", "--log-level"),
    ("--posix-acl=some", "--posix-acl"),
    ("--security-label=some", "--security-label"),
    ("--xattrmap nonsense", "--xattrmap"),
    ("--uid-map 1", "--uid-map"),
    ("--gid-map :0:1:", "--gid-map"),
    ("--translate-uid some:0:0:1", "--translate-uid"),
    ("--translate-gid guest:0", "--translate-gid"),
    ("--migration-mode some", "--migration-mode"),
    ("--migration-on-error some", "--migration-on-error"),
    ("--thread-pool-size many", "--thread-pool-size"),
    ("--rlimit-nofile -1", "-1"),
    ("--fd one", "--fd"),
    ("--fd 3 --socket-path /run/s", "--fd"),
    ("--socket-group wheel --fd 3", "--socket-group"),
    ("--no-such-option", "--no-such-option"),
    ("-o cache=some", "cache"),
    ("-o cache=never", "cache"),
    ("-o sandbox=none", "sandbox"),
    ("-o loglevel=trace", "loglevel"),
    ("-o nonsense", "nonsense"),
    ("-o no_source", "no_source"),
    ("-o no_announce_submounts", "no_announce_submounts"),
    ("-o xattrmap=nonsense", "xattrmap"),
];

/// The two forms of our command line: as `farwatch serve`, and under virtiofsd's name.
struct Forms {
    _dir: TempDir,
    commands: [Vec<String>; 2],
}

impl Forms {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let link = dir.path().join("virtiofsd");
        symlink(env!("CARGO_BIN_EXE_farwatch"), &link).unwrap();
        let serve = [env!("CARGO_BIN_EXE_farwatch"), "serve"].map(str::to_owned);
        let link = link.to_str().unwrap().to_owned();
        Self { _dir: dir, commands: [serve.to_vec(), vec![link]] }
    }

    fn run(&self, args: &str) -> [Output; 2] {
        self.commands.each_ref().map(|command| run(command, args))
    }
}

fn run(command: &[String], args: &str) -> Output {
    let (program, first) = command.split_first().unwrap();
    Command::new(program)
        .args(first)
        .args(args.split_whitespace())
        .env_remove("FARWATCH_LOG")
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Parses and does nothing: a row, and to be told what the device can do.
fn only_parsed(row: &str) -> String {
    format!("{row} --print-capabilities")
        .replace("--print-capabilities --print-capabilities", "--print-capabilities")
}

/// Skips the calling test, which must return when this is `None`, without a stock virtiofsd.
fn stock() -> Option<Vec<String>> {
    let stock = std::env::var(STOCK_VARIABLE).ok();
    if stock.is_none() {
        skip("needs virtiofsd");
    }
    stock.map(|program| vec![program])
}

#[test]
fn every_option_of_virtiofsd_is_taken() {
    let forms = Forms::new();
    for row in TAKEN {
        for output in forms.run(&only_parsed(row)) {
            assert!(output.status.success(), "{row}: {}", stderr(&output));
            assert!(output.stdout.starts_with(b"{\n  \"type\": \"fs\",\n"), "{row}");
        }
    }
}

#[test]
fn what_it_refuses_is_refused_as_wrong_usage_that_is_named() {
    let forms = Forms::new();
    for (row, word) in REFUSED {
        for output in forms.run(&only_parsed(row)) {
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{row}: {said}");
            assert!(said.contains(word), "{row}: {said}");
        }
    }
}

#[test]
fn a_stock_virtiofsd_takes_and_refuses_the_same() {
    let Some(stock) = stock() else { return };
    for row in TAKEN {
        let output = run(&stock, &only_parsed(row));
        assert!(output.status.success(), "{row}: {}", stderr(&output));
    }
    for (row, _) in REFUSED {
        let output = run(&stock, &only_parsed(row));
        assert_eq!(output.status.code(), Some(2), "{row}: {}", stderr(&output));
    }
}

#[test]
fn the_help_of_a_stock_virtiofsd_names_no_other_option() {
    let Some(stock) = stock() else { return };
    let help = run(&stock, "--help");
    let help = String::from_utf8(help.stdout).unwrap();
    // In the place of an option, not in a sentence about one.
    let options: BTreeSet<&str> = help
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'))
        .flat_map(|line| line.split([' ', ',', '=', '[']))
        .filter(|word| word.starts_with('-') && !word.trim_matches('-').is_empty())
        .filter(|word| !["-h", "--help", "-V", "--version"].contains(word))
        .collect();
    assert!(options.len() > 40, "{options:?}");
    let known: BTreeSet<&str> = TAKEN
        .iter()
        .chain(REFUSED.iter().map(|(row, _)| row))
        .flat_map(|row| row.split([' ', '=']))
        .filter(|word| word.starts_with('-'))
        .collect();
    let forgotten: Vec<_> = options.difference(&known).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[test]
fn missing_part_is_named() {
    let forms = Forms::new();
    for (args, word) in [
        ("--socket-path /run/s", "--shared-dir"),
        ("--shared-dir /srv", "--socket"),
        ("-o cache=auto --socket-path /run/s", "--shared-dir"),
    ] {
        for output in forms.run(args) {
            assert_eq!(output.status.code(), Some(2), "{args}");
            assert!(stderr(&output).contains(word), "{args}: {}", stderr(&output));
        }
    }
}

#[test]
fn what_cannot_be_served_is_one_sentence() {
    let forms = Forms::new();
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (place, missing, file) = (dir.path().display(), at("missing"), at("file"));
    let socket = at("socket");
    for (args, word) in [
        (format!("--shared-dir {missing} --socket {socket}"), missing.clone()),
        (format!("-o source={missing} --socket {socket}"), missing.clone()),
        (format!("--shared-dir {file} --socket {socket}"), file),
        (format!("--shared-dir {place} --socket {missing}/socket"), format!("{missing}/socket")),
        (format!("--shared-dir {place} --fd 999"), "--fd 999".to_owned()),
        (
            format!("--shared-dir {place} --socket {socket} --socket-group no-such-group"),
            "no-such-group".to_owned(),
        ),
        (
            format!("--shared-dir {place} --socket {socket} --rlimit-nofile 100"),
            "100 open files".to_owned(),
        ),
        (
            format!("--shared-dir {place} --socket {socket} --posix-acl --translate-uid map:0:1:1"),
            "--posix-acl=always".to_owned(),
        ),
        (
            format!(
                "--shared-dir {place} --socket {socket} --migration-mode file-handles \
                 --migration-verify-handles"
            ),
            "--migration-verify-handles".to_owned(),
        ),
        (
            format!("--shared-dir {place} --socket {socket} --sandbox none --uid-map :0:1:1:"),
            "--uid-map".to_owned(),
        ),
    ] {
        for output in forms.run(&format!("{args} --log-level warn")) {
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{args}: {said}");
            assert!(said.contains(&word) && said.lines().count() == 1, "{args}: {said}");
        }
    }
}

#[test]
fn the_file_for_management_programs_names_a_program_that_is_virtiofsd() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/50-farwatch.json");
    let entry: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(entry["type"], "fs");
    let name = Path::new(entry["binary"].as_str().unwrap()).file_name().unwrap();
    let dir = TempDir::new().unwrap();
    let program = dir.path().join(name);
    symlink(env!("CARGO_BIN_EXE_farwatch"), &program).unwrap();
    let told = run(&[program.to_str().unwrap().to_owned()], "--print-capabilities");
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["type"], "fs");
    let features: Vec<_> =
        told["features"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert!(features.contains(&"separate-options"), "{features:?}");
    assert!(features.contains(&"migrate-precopy"), "{features:?}");
}

#[test]
fn log_that_is_not_written_to_a_terminal_is_plain_text() {
    let args = "--socket /run/s --shared-dir /does-not-exist --thread-pool-size 4 --log-level info";
    for output in Forms::new().run(args) {
        let said = stderr(&output);
        assert!(said.contains("--thread-pool-size has no effect"), "{said}");
        assert!(!said.contains('\x1b'), "{said:?}");
    }
}
