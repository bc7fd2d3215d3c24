// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Transcript`]: the commands that a document shows, and the output that they must have.
//!
//! A block that begins with ```` ```console run ```` is run. Its lines that begin with `$ ` are commands, all others are the
//! output of the command above, from whichever program it comes. All blocks of a document are one session of bash.
//! Numbers and times stand for any other, blanks for any number of blanks, empty lines for nothing; a line `…` stands for any lines, and
//! a line that ends with `…` for any with that beginning.

use std::fs;
use std::io::{PipeWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use farwatch_testkit::{Process, is_mount_point};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

const FENCE: &str = "```";
const MARK: &str = "```console run";
/// Stands for any lines, or for the rest of one.
const ANYTHING: char = '…';
/// What a document has as the reader's home, and where it mounts.
const HOME: &str = "/home/me";
const MOUNTS: &str = "/srv/";
/// What ends the output of a command in the foreground.
const DONE: &str = "transcript: done";

/// The commands of a document, in order.
#[derive(PartialEq, Eq, Debug)]
pub struct Transcript(Vec<Step>);

/// A command and its output.
#[derive(PartialEq, Eq, Debug)]
struct Step {
    command: String,
    output: Vec<String>,
}

impl Transcript {
    /// The blocks that are marked to be run in the text of a document.
    pub fn parse(text: &str) -> Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        let mut lines = text.lines();
        while lines.by_ref().any(|line| line == MARK) {
            let mut is_continued = false;
            for line in lines.by_ref().take_while(|line| *line != FENCE) {
                if let Some(command) = line.strip_prefix("$ ") {
                    steps.push(Step { command: command.to_owned(), output: Vec::new() });
                } else {
                    let step = steps.last_mut().context("a block begins with a command")?;
                    if is_continued {
                        step.command += &format!("\n{line}");
                    } else if !line.is_empty() {
                        step.output.push(line.to_owned());
                    }
                }
                is_continued = steps.last().is_some_and(|step| step.command.ends_with('\\'))
                    && line.ends_with('\\');
            }
        }
        Ok(Self(steps))
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Runs the commands, and compares what they print. `programs` is the directory of the programs under test.
    pub fn run(&self, programs: &Path) -> Result<()> {
        let mut session = Session::start(programs)?;
        for step in &self.0 {
            session.run(step).with_context(|| format!("$ {}", step.command))?;
        }
        session.end()
    }
}

/// A shell in directories of its own, which stand for those of the document.
struct Session {
    dir: TempDir,
    shell: Process,
    input: PipeWriter,
}

impl Session {
    fn start(programs: &Path) -> Result<Self> {
        let dir = TempDir::new()?;
        let at = |path: &str| dir.path().join(path.trim_start_matches('/'));
        for made in [HOME, MOUNTS, "bin", "state"] {
            fs::create_dir_all(at(made))?;
        }
        let sudo = at("bin/sudo");
        fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n")?;
        fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755))?;
        let path = std::env::var("PATH")?;
        let path = format!("{}:{}:{path}", at("bin").display(), programs.display());
        let (reader, input) = std::io::pipe()?;
        let mut shell = Command::new("bash");
        shell.process_group(0).stdin(reader).current_dir(at(HOME));
        shell.env("PATH", path).env("HOME", at(HOME)).env("LC_ALL", "C.UTF-8");
        shell.env("FARWATCH_STATE_DIR", at("state")).env_remove("FARWATCH_LOG");
        let shell = Process::start_with_input(shell)?;
        let mut session = Self { dir, shell, input };
        // One order for all that is printed.
        writeln!(session.input, "exec 2>&1")?;
        Ok(session)
    }

    /// Runs a command, and reads until it has ended and all its output has come.
    fn run(&mut self, step: &Step) -> Result<()> {
        let mounts = format!("{}{MOUNTS}", self.dir.path().display());
        // The output of a command may lack its last newline.
        writeln!(self.input, "{}\necho; echo '{DONE}'", step.command.replace(MOUNTS, &mounts))?;
        let mut wanted: &[String] = &step.output;
        let mut is_done = false;
        while !(is_done && wanted.iter().all(|line| is_anything(line))) {
            let line = self.shell.next_line()?.context("the shell has ended")?;
            if line == DONE {
                is_done = true;
            }
            if line == DONE || line.is_empty() {
                continue;
            }
            let line = self.as_shown(&line);
            let Some(rest) = after(&line, wanted) else {
                bail!("printed  {line}\ninstead of\n{}", wanted.join("\n"));
            };
            wanted = rest;
        }
        Ok(())
    }

    /// A line with the paths of the document.
    fn as_shown(&self, line: &str) -> String {
        line.replace(&format!("{}/", self.dir.path().display()), "/")
    }

    /// Ends all that runs; nothing may stay mounted.
    fn end(mut self) -> Result<()> {
        writeln!(self.input, "kill $(jobs -p) 2>/dev/null; wait; exit 0")?;
        ensure!(self.shell.wait()?.success(), "{}", self.shell.log());
        let mounted = self.mounts()?;
        ensure!(mounted.is_empty(), "still mounted: {mounted:?}");
        Ok(())
    }

    fn mounts(&self) -> Result<Vec<std::path::PathBuf>> {
        let dir = self.dir.path().join(MOUNTS.trim_start_matches('/'));
        let paths =
            fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        Ok(paths.into_iter().filter(|path| is_mount_point(path).unwrap_or(true)).collect())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What a failure has left running.
        if let Some(group) = self.shell.id().try_into().ok().and_then(Pid::from_raw) {
            let _fails_when_it_has_ended = kill_process_group(group, Signal::TERM);
        }
        for mount in self.mounts().unwrap_or_default() {
            let _fails_when_it_is_gone = unmount(&mount, UnmountFlags::DETACH);
        }
    }
}

fn is_anything(wanted: &str) -> bool {
    wanted.chars().eq([ANYTHING])
}

/// What is wanted after `line`, or none if another line is wanted.
fn after<'a>(line: &str, wanted: &'a [String]) -> Option<&'a [String]> {
    match wanted {
        [] => None,
        [anything, next, rest @ ..] if is_anything(anything) => {
            Some(if matches(line, next) { rest } else { wanted })
        }
        [anything] if is_anything(anything) => Some(wanted),
        [next, rest @ ..] => matches(line, next).then_some(rest),
    }
}

fn matches(line: &str, wanted: &str) -> bool {
    match wanted.strip_suffix(ANYTHING) {
        Some(start) => normal(line).starts_with(&normal(start)),
        None => normal(line) == normal(wanted),
    }
}

/// A line with one blank between words, `N` for each number and `TIME` for each time.
fn normal(line: &str) -> String {
    const UNITS: [&str; 6] = ["ns", "µs", "ms", "s", "min", "h"];
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let word = numbered(word);
        let bare = word.trim_end_matches([',', ')', ';']);
        let is_time = UNITS.contains(&bare) && words.last().is_some_and(|last| last.ends_with('N'));
        if !is_time {
            words.push(word);
            continue;
        }
        let end = &word[bare.len()..];
        let number = words.pop().unwrap_or_default();
        let time = format!("{}TIME{end}", number.trim_end_matches('N'));
        // `2 h 13 min` is one time.
        match words.last_mut() {
            Some(last) if *last == "TIME" && number == "N" => *last = time,
            _ => words.push(time),
        }
    }
    words.join(" ")
}

/// A word with `N` for each number in it.
fn numbered(word: &str) -> String {
    let mut normal = String::new();
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        if !c.is_ascii_digit() {
            normal.push(c);
            continue;
        }
        while let Some(next) = chars.peek().copied() {
            let after = chars.clone().nth(1);
            let joins = [',', '.'].contains(&next) && after.is_some_and(|c| c.is_ascii_digit());
            if !next.is_ascii_digit() && !joins {
                break;
            }
            chars.next();
        }
        normal.push('N');
    }
    normal
}
