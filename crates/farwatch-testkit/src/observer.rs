// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program `farwatch-observer`: what a test does inside a virtual machine.
//!
//! It answers one request after the other (`vm::line`): watches with a [`Recorder`], runs commands,
//! starts and ends programs. `vm` is the other end.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::PATIENCE;
use crate::fanotify::{Objects, Renames};
use crate::process::Process;
use crate::recorder::Recorder;
use crate::share::{Share, shell};
use crate::vm::line;

/// What it says first, and again after a restart of the machine.
pub(crate) const HELLO: &str = "observer";

/// Recorders and programs, by the name that the test has given them.
#[derive(Default)]
struct Observer {
    recorders: BTreeMap<OsString, Recorder>,
    programs: BTreeMap<OsString, Process>,
    renames: Option<Renames>,
    objects: Option<Objects>,
}

type Lines = Vec<Vec<OsString>>;

/// Serves until the input ends.
///
/// # Errors
/// When the connection fails.
pub fn serve(input: impl BufRead, mut output: impl Write) -> Result<()> {
    let mut observer = Observer::default();
    writeln!(output, "{HELLO}")?;
    output.flush()?;
    for request in input.lines() {
        let request = request?;
        let answer = line::decode(&request).and_then(|words| observer.answer(&words));
        match answer {
            Ok(lines) => {
                for words in lines {
                    writeln!(output, "+ {}", line::encode(words))?;
                }
                writeln!(output, "ok")?;
            }
            Err(error) => writeln!(output, "error {}", line::encode([format!("{error:#}")]))?,
        }
        output.flush()?;
    }
    Ok(())
}

impl Observer {
    fn answer(&mut self, words: &[OsString]) -> Result<Lines> {
        let words: Vec<&OsStr> = words.iter().map(OsString::as_os_str).collect();
        let Some((verb, arguments)) = words.split_first() else { bail!("an empty request") };
        match (verb.to_str().unwrap_or_default(), arguments) {
            (verb @ ("recorder" | "recorder-of-all"), [name, mount]) => {
                let share = Share::seen_from_the_mount(Path::new(mount));
                let all = verb == "recorder-of-all";
                let mask = if all { Recorder::ALL } else { Recorder::CHANGES };
                self.recorders.insert(name.into(), Recorder::new(&share, mask)?);
            }
            ("forget", [name]) => drop(self.recorders.remove(*name)),
            ("watch", [name, path]) => self.recorder(name)?.watch(Path::new(path))?,
            ("watch-below", [name, path]) => {
                self.recorder(name)?.watch_recursively(Path::new(path))?;
            }
            ("read", [name]) => self.recorder(name)?.wait_until(Duration::ZERO, |_| true)?,
            ("sentinel", [name, sentinel]) => self.recorder(name)?.wait_for_sentinel(sentinel)?,
            ("events", [name]) => {
                let events = self.recorder(name)?.take_events();
                return Ok(events.iter().map(|event| vec![event.to_string().into()]).collect());
            }
            ("renames", dirs) => {
                self.renames = Some(Renames::of(dirs.iter().map(Path::new))?);
            }
            ("rename", []) => {
                let renames = self.renames.as_ref().context("nothing is watched for renames")?;
                return Ok(vec![vec![renames.next()?.into()]]);
            }
            ("objects", [dir]) => self.objects = Some(Objects::of(Path::new(dir))?),
            ("object", [mask, name]) => {
                let objects = self.objects.as_mut().context("no directory is watched")?;
                let mask = mask.to_string_lossy().parse()?;
                let object = objects.told(mask, &name.to_string_lossy())?;
                return Ok(vec![vec![object.to_string().into()]]);
            }
            ("shell", [dir, script]) => {
                return run(shell(&script.to_string_lossy(), Path::new(dir)));
            }
            ("run", [program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments);
                return run(command);
            }
            ("start", [name, program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments);
                self.programs.insert(name.into(), Process::start(command)?);
            }
            ("line", [name, start]) => {
                let start = start.to_string_lossy();
                let said = self.program(name)?.wait_for_line(|line| line.starts_with(&*start))?;
                return Ok(vec![vec![said.into()]]);
            }
            ("signal", [name, number]) => {
                let number: i32 = number.to_string_lossy().parse()?;
                let signal = Signal::from_named_raw(number).context("no such signal")?;
                self.program(name)?.signal(signal)?;
            }
            ("exited", [name]) => {
                let status = self.program(name)?.exited()?;
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                return Ok(vec![vec![code.unwrap_or(-1).to_string().into()]]);
            }
            ("log", [name]) => {
                let log = self.program(name)?.log();
                return Ok(vec![vec![log.into()]]);
            }
            _ => bail!("an unknown request: {words:?}"),
        }
        Ok(Lines::new())
    }

    fn recorder(&mut self, name: &OsStr) -> Result<&mut Recorder> {
        self.recorders.get_mut(name).with_context(|| format!("no recorder {}", name.display()))
    }

    fn program(&mut self, name: &OsStr) -> Result<&mut Process> {
        self.programs.get_mut(name).with_context(|| format!("no program {}", name.display()))
    }
}

/// Runs a program to its end: its exit code, standard output, standard error.
fn run(mut command: Command) -> Result<Lines> {
    use std::os::unix::ffi::OsStringExt as _;
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let code = output.status.code().unwrap_or(-1).to_string();
    let [out, err] = [output.stdout, output.stderr].map(OsString::from_vec);
    Ok(vec![vec![code.into(), out, err]])
}

/// The longest that an answer takes: longer than any wait in it.
pub(crate) const ANSWER_MAX: Duration = PATIENCE.saturating_mul(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(requests: &[&[&str]]) -> String {
        let input: String = requests.iter().map(|words| line::encode(*words) + "\n").collect();
        let mut output = Vec::new();
        serve(input.as_bytes(), &mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn a_command_is_answered_with_its_code_and_outputs() {
        let said = answers(&[&["run", "sh", "-c", "echo out; echo err >&2; exit 3"]]);
        assert_eq!(said, "observer\n+ 3 out%0a err%0a\nok\n");
    }

    #[test]
    fn failure_is_reported_and_the_next_request_is_answered() {
        let said = answers(&[&["events", "nobody"], &["nonsense"], &["run", "true"]]);
        assert_eq!(said.lines().filter(|line| line.starts_with("error ")).count(), 2, "{said}");
        assert!(said.ends_with("+ 0 % %\nok\n"), "{said}");
    }

    #[test]
    fn events_are_recorded_and_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["share", "share.barrier"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let share = dir.path().join("share");
        let share = share.to_str().unwrap();
        let said = answers(&[
            &["recorder", "r", share],
            &["watch", "r", "."],
            &["shell", share, "> 'a b'"],
            &["shell", share, "> ../share.barrier/s"],
            &["sentinel", "r", "s"],
            &["events", "r"],
        ]);
        assert!(said.contains("+ CREATE%20a%20b\n+ CLOSE_WRITE%20a%20b\nok\n"), "{said}");
    }

    #[test]
    fn a_program_is_started_heard_and_ended() {
        let said = answers(&[
            &["start", "p", "sh", "-c", "echo ready; exec sleep 1000"],
            &["line", "p", "ready"],
            &["signal", "p", "15"],
            &["exited", "p"],
        ]);
        assert!(said.ends_with("+ ready\nok\nok\n+ 143\nok\n"), "{said}");
    }
}
