// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The manual pages are read without a warning and name each option; each shell loads its completions and completes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use farwatch_testkit::skip;
use tempfile::TempDir;

/// Makes them. `None`, and the calling test is skipped, without the program that reads them.
fn made_for(program: &str) -> Option<TempDir> {
    if Command::new(program).arg("--version").output().is_err() {
        skip(&format!("needs {program}"));
        return None;
    }
    let dir = TempDir::new().unwrap();
    packaging::write(dir.path()).unwrap();
    Some(dir)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a script of a shell in the directory of completions and returns what it prints. It must say nothing else.
fn told(shell: &[&str], script: &str, dir: &Path) -> String {
    let (program, args) = shell.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(args).args(["-c", script]).current_dir(dir.join("completions"));
    let output = command.env("HOME", dir).env_remove("XDG_CONFIG_HOME").output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty(), "{}: {stdout}{stderr}", output.status);
    stdout.into_owned()
}

#[test]
fn manual_pages_are_read_without_a_warning() {
    let Some(dir) = made_for("man") else { return };
    let pages = files(&dir.path().join("man"));
    assert!(pages.len() >= 8, "{pages:?}");
    for page in pages {
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l"]).arg(&page);
        let output = man
            .env("LC_ALL", "C.UTF-8")
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", page.display());
    }
}

/// lintian and whatis(1) read this line.
#[test]
fn each_manual_page_says_what_it_is_about_and_leads_to_others_that_exist() {
    let dir = TempDir::new().unwrap();
    packaging::write(dir.path()).unwrap();
    let pages = files(&dir.path().join("man"));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let names: Vec<String> = pages.iter().map(|page| name(page)).collect();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap().replace('\\', "");
        let stem = page.file_stem().unwrap().to_str().unwrap();
        assert!(text.contains(&format!(".SH NAME\n{stem} - ")), "{stem}: {text}");
        let see = text.split(".SH \"SEE ALSO\"\n").nth(1).unwrap();
        let own = see.split([',', '\n', ' ']).filter(|page| page.contains("farwatch"));
        for other in own {
            let file = other.replace('(', ".").replace(')', "");
            assert!(names.contains(&file), "{stem} leads to {other}");
        }
    }
}

#[test]
fn manual_pages_name_each_option_that_is_not_hidden() {
    let dir = TempDir::new().unwrap();
    packaging::write(dir.path()).unwrap();
    let command = farwatch::cli::command();
    let subcommands: Vec<_> = command.get_subcommands().collect();
    assert!(subcommands.len() >= 4);
    for command in subcommands {
        let path = dir.path().join(format!("man/farwatch-{}.1", command.get_name()));
        let page = fs::read_to_string(path).unwrap().replace('\\', "");
        let shown = command.get_arguments().filter(|option| !option.is_hide_set());
        for long in shown.filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("--{long}")), "{}: --{long}", command.get_name());
        }
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let Some(dir) = made_for("bash") else { return };
    let script = r#"source farwatch.bash && source farwatch-agent.bash
        complete -p farwatch farwatch-agent
        COMP_WORDS=(farwatch mo) COMP_CWORD=1; _farwatch farwatch mo farwatch; echo "${COMPREPLY[@]}"
        COMP_WORDS=(farwatch mount --cac) COMP_CWORD=2; _farwatch farwatch --cac mount; echo "${COMPREPLY[@]}""#;
    let told = told(&["bash", "--norc", "--noprofile"], script, dir.path());
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[lines.len() - 2..], ["mount", "--cache"], "{told}");
}

#[test]
fn zsh_loads_the_completions() {
    let Some(dir) = made_for("zsh") else { return };
    let script = "fpath=($PWD $fpath); autoload -U compinit && compinit -u -D
        autoload +X _farwatch _farwatch-agent && print -r -- $_comps[farwatch] $_comps[farwatch-agent]";
    assert_eq!(told(&["zsh", "-f"], script, dir.path()), "_farwatch _farwatch-agent\n");
}

#[test]
fn fish_completes_commands_and_options() {
    let Some(dir) = made_for("fish") else { return };
    let script = "source farwatch.fish; source farwatch-agent.fish
        complete -C 'farwatch mo'; complete -C 'farwatch-agent --al'";
    let told = told(&["fish", "--no-config"], script, dir.path());
    let words: Vec<&str> =
        told.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect();
    assert_eq!(words, ["mount", "--all"], "{told}");
}
