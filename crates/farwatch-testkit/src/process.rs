// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A child process whose output is waited for line by line, with a deadline.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::PATIENCE;

/// The children of a process, in the order in which it has started them (`proc_pid_task(5)`).
///
/// # Errors
/// When there is no such process.
pub fn children_of(parent: u32) -> Result<Vec<Pid>> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let pid = |child: &str| Pid::from_raw(child.parse()?).context("a process id is never 0");
    children.split_whitespace().map(pid).collect()
}

/// The first child of a process: the device of a driver, the worker of an agent.
///
/// # Errors
/// When it has none.
pub fn child_of(parent: u32) -> Result<Pid> {
    children_of(parent)?.first().copied().with_context(|| format!("{parent} has no child"))
}

/// A running program. Dropping it kills it: what must end well is ended by the test.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// A mutex because one trial may ask for the log while others use the same fixture.
    output: Mutex<Output>,
}

/// The lines of both outputs, from those that were read to those that have not come.
#[derive(Debug)]
struct Output {
    /// The command, then what [`Process::next_line`] has returned.
    read: Vec<String>,
    /// What was seen for a log only.
    unread: VecDeque<String>,
    coming: Receiver<String>,
}

impl Process {
    /// Starts `command` with both outputs captured and nothing on standard input.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null());
        Self::start_with_input(command)
    }

    /// The same with the standard input that the command has.
    pub fn start_with_input(mut command: Command) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let (sender, lines) = channel();
        forward(child.stdout.take().context("no stdout")?, sender.clone());
        forward(child.stderr.take().context("no stderr")?, sender);
        let read = vec![format!("{command:?}")];
        let output = Mutex::new(Output { read, unread: VecDeque::new(), coming: lines });
        Ok(Self { child, output })
    }

    /// The next line of either output, or `None` when both have ended.
    pub fn next_line(&mut self) -> Result<Option<String>> {
        let output = self.output.get_mut().unwrap_or_else(PoisonError::into_inner);
        let next =
            output.unread.pop_front().map_or_else(|| output.coming.recv_timeout(PATIENCE), Ok);
        match next {
            Ok(line) => {
                output.read.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("nothing more came from\n{}", self.log())
            }
        }
    }

    /// Reads on until a line that `wanted` accepts.
    pub fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        while let Some(line) = self.next_line()? {
            if wanted(&line) {
                return Ok(line);
            }
        }
        let status = self.wait()?;
        bail!("ended early ({status}):\n{}", self.log())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("cannot send {signal:?}"))
    }

    /// Waits until the program has ended, and reads the rest of its output into the log.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.exited()?;
        while self.next_line()?.is_some() {}
        Ok(status)
    }

    /// Waits until the program has ended. A child of it may go on and keep its output open.
    pub fn exited(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pidfd = pidfd_open(self.pid()?, PidfdFlags::empty()).context("pidfd_open")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Ok(0) => bail!("still running:\n{}", self.log()),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).context("poll on a pidfd"),
            }
        }
        Ok(self.child.wait()?)
    }

    /// The command and all lines that have come so far, for messages and for tests of what a program
    /// says. They can still be read.
    #[must_use]
    pub fn log(&self) -> String {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let Output { read, unread, coming } = &mut *output;
        unread.extend(coming.try_iter());
        read.iter().chain(&*unread).map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id().try_into()?).context("a process id is never 0")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail harmlessly when the program has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends every line of `output` to `lines`, from a thread that ends with the output.
fn forward(output: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
}

/// The number behind a word, of what a program has printed.
pub(crate) fn number_behind<N>(text: &str, word: &str) -> Result<N>
where
    N: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let (_, rest) = text.split_once(word).with_context(|| format!("no {word} in {text}"))?;
    let number: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    number.parse().with_context(|| format!("no number behind {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_message_can_still_be_read() {
        let mut sh = Command::new("sh");
        sh.args(["-c", "echo one; echo two; echo three"]);
        let mut process = Process::start(sh).unwrap();
        process.wait_for_line(|line| line == "one").unwrap();
        process.exited().unwrap();
        while !process.log().ends_with("\none\ntwo\nthree") {
            thread::yield_now();
        }
        assert_eq!(process.next_line().unwrap().as_deref(), Some("two"));
        assert_eq!(process.next_line().unwrap().as_deref(), Some("three"));
        assert_eq!(process.next_line().unwrap(), None);
        assert!(process.log().ends_with("\none\ntwo\nthree"));
    }

    #[test]
    fn number_behind_a_word_is_read_to_its_end() {
        assert_eq!(number_behind::<f64>("Threads:\t12\nVmRSS:\t  34 kB", "VmRSS:").unwrap(), 34.0);
        assert_eq!(number_behind::<f64>("{\"known\": 5,", "\"known\":").unwrap(), 5.0);
        assert!(number_behind::<f64>("", "VmRSS:").is_err());
    }
}
