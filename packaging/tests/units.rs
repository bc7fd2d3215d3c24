// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files of `contrib` that systemd and others read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use farwatch_testkit::skip;
use tempfile::TempDir;

fn contrib() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib")
}

/// The units in a directory of `contrib`, and their text.
fn units(dir: &Path) -> Vec<(String, String)> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let units =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "service"));
    units
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn systemd_finds_no_fault_in_a_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        skip("needs systemd-analyze");
        return;
    }
    for (dir, scope, count) in [(contrib(), "--system", 4), (contrib().join("user"), "--user", 1)] {
        let units = units(&dir);
        assert_eq!(units.len(), count, "{}", dir.display());
        for (name, text) in units {
            let place = TempDir::new().unwrap();
            // It wants the programs to be there, and pages of programs that are not installed are none of its faults.
            let program = place.path().join("program");
            symlink("/bin/true", &program).unwrap();
            let program = program.to_str().unwrap();
            let installed = ["/usr/bin/farwatch", "/usr/sbin/farwatch-agent"];
            let text = installed.iter().fold(text, |text, path| text.replace(path, program));
            let unit = place.path().join(name.replace('@', "@test"));
            fs::write(&unit, text).unwrap();
            let mut verify = Command::new("systemd-analyze");
            verify.args([scope, "--man=no", "--recursive-errors=no", "verify"]).arg(&unit);
            let output = verify.env("XDG_RUNTIME_DIR", place.path()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{name}: {said}");
        }
    }
}

/// What a unit or script starts is a command line that the program of that name takes.
#[test]
fn the_command_lines_of_units_are_taken() {
    let mut seen = 0;
    for (name, text) in units(&contrib()).into_iter().chain(units(&contrib().join("user"))) {
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let words: Vec<String> = line
            .split(' ')
            .filter(|word| *word != "$OPTIONS")
            .map(|word| {
                word.replace("${SHARED_DIR}", "/srv").replace("%f", "/mnt").replace('%', "")
            })
            .collect();
        let command = match words[0].as_str() {
            "/usr/bin/farwatch" => farwatch::cli::command(),
            "/usr/sbin/farwatch-agent" => farwatch_guest::agent::command(),
            other => panic!("{name}: {other}"),
        };
        command.try_get_matches_from(&words).unwrap_or_else(|error| panic!("{name}: {error}"));
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn the_openrc_script_is_a_shell_script_that_starts_the_agent_for_all_shares() {
    let path = contrib().join("farwatch-agent.openrc");
    let script = format!(
        "depend() {{ :; }}; . {}; echo \"$supervisor $command $command_args\"; depend 2>/dev/null",
        path.display()
    );
    let check = Command::new("sh").arg("-n").arg(&path).status().unwrap();
    assert!(check.success());
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told.trim(), "supervise-daemon /usr/sbin/farwatch-agent --all");
}
