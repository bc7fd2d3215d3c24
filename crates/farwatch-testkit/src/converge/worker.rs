// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Worker`]: a process of a trial. It is a program of its own, since the server tells processes
//! apart by their ids, and since threads would share what they know of the tree.
//!
//! It reads its operations from standard input up to a line `start`, answers `ready`, waits for the
//! end of its input, does the operations without a pause, and prints one line for each.

use std::io::{BufRead, BufReader, Read as _, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::op::{Actor, Op};
use crate::PATIENCE;

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// The error's number, 0 for none.
    pub(super) errno: i32,
    /// When it returned, by the monotonic clock of the machine.
    pub(super) at: Duration,
    /// The inode numbers that `link` may have given another name.
    pub(super) linked: Vec<u64>,
}

/// The time that all processes of the machine agree on.
pub(super) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// A process that was started and that does its operations when it is released.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    said: Vec<u8>,
    ended: bool,
}

impl Worker {
    /// Starts a process that will work in `base`, and waits until it has read its operations.
    pub(super) fn start(base: &Path, ops: &[Op]) -> Result<Self> {
        let mut command = crate::mount::own_program("farwatch-converge")?;
        command.arg("process").arg(base).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        let mut script: String = ops.iter().map(|op| format!("{op}\n")).collect();
        script.push_str("start\n");
        stdin.write_all(script.as_bytes())?;
        let mut stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut ready = String::new();
        stdout.read_line(&mut ready)?;
        ensure!(ready == "ready\n", "a process of the trial said {ready:?}");
        // Nothing else has been said yet, so that the buffer is empty.
        let stdout = stdout.into_inner();
        Ok(Self { child, stdin: Some(stdin), stdout, said: Vec::new(), ended: false })
    }

    /// Lets it begin.
    pub(super) fn release(&mut self) {
        self.stdin = None;
    }

    /// Whether it has done all.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads what it says. Only to be called when there is something to read.
    pub(super) fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        let len = self.stdout.read(&mut buffer)?;
        self.said.extend_from_slice(buffer.get(..len).unwrap_or_default());
        if len == 0 {
            self.ended = true;
            let status = self.child.wait()?;
            ensure!(status.success(), "a process of the trial: {status}");
        }
        Ok(())
    }

    /// Reads what it says until it has ended, which must not take long.
    pub(super) fn wait(&mut self) -> Result<()> {
        while !self.ended {
            let patience = Timespec::try_from(PATIENCE)?;
            let ready = poll(&mut [PollFd::new(&*self, PollFlags::IN)], Some(&patience))?;
            ensure!(ready > 0, "a process of the trial hangs");
            self.read()?;
        }
        Ok(())
    }

    /// What became of each operation.
    pub(super) fn results(&self) -> Result<Vec<Done>> {
        String::from_utf8_lossy(&self.said).lines().map(Done::parse).collect()
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail harmlessly when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The errors that trials have met.
const NAMES: [(Errno, &str); 12] = [
    (Errno::PERM, "EPERM"),
    (Errno::NOENT, "ENOENT"),
    (Errno::IO, "EIO"),
    (Errno::BUSY, "EBUSY"),
    (Errno::EXIST, "EEXIST"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::INVAL, "EINVAL"),
    (Errno::MLINK, "EMLINK"),
    (Errno::NOTEMPTY, "ENOTEMPTY"),
    (Errno::LOOP, "ELOOP"),
    (Errno::STALE, "ESTALE"),
];

impl Done {
    /// A line that a process has printed.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let mut words = line.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let errno = number().and_then(|errno| i32::try_from(errno).ok());
        let (errno, at) = errno.zip(number()).with_context(|| format!("not a result: {line}"))?;
        let linked = words.filter_map(|word| word.parse().ok()).collect();
        Ok(Self { errno, at: Duration::from_nanos(at), linked })
    }

    /// The error's name, empty for none.
    pub(super) fn error(&self) -> String {
        let name = NAMES.iter().find(|(known, _)| known.raw_os_error() == self.errno);
        match self.errno {
            0 => String::new(),
            number => {
                name.map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
            }
        }
    }
}

/// What the process does.
///
/// # Errors
/// When a line is no operation, or `base` is no directory.
pub fn process(base: &Path, input: &mut impl BufRead, output: &mut impl Write) -> Result<()> {
    let actor = Actor::new(base)?;
    let mut ops = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(input.read_line(&mut line)? > 0, "the operations end without `start`");
        match line.trim_end() {
            "start" => break,
            line => ops.push(Op::parse(line)?),
        }
    }
    output.write_all(b"ready\n")?;
    output.flush()?;
    input.read_to_string(&mut line)?;
    let mut results = Vec::with_capacity(ops.len());
    for op in &ops {
        let mut linked = [None; 2];
        if let Op::Link(from, _) = op {
            linked[0] = actor.ino(from);
        }
        let errno = actor.apply(op).err().map_or(0, Errno::raw_os_error);
        if let (Op::Link(_, to), 0) = (op, errno) {
            linked[1] = actor.ino(to);
        }
        results.push((errno, now(), linked));
    }
    for (errno, at, linked) in results {
        write!(output, "{errno} {}", at.as_nanos())?;
        for ino in linked.into_iter().flatten() {
            write!(output, " {ino}")?;
        }
        output.write_all(b"\n")?;
    }
    Ok(output.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_makes_its_operations_and_reports_their_results() {
        let dir = tempfile::tempdir().unwrap();
        let script = "create a 0.0;\nmkdir a\nlink a b\nappend b 0.3;\nstart\n";
        let mut said = Vec::new();
        process(dir.path(), &mut script.as_bytes(), &mut said).unwrap();
        let said = String::from_utf8(said).unwrap();
        let results: Vec<Done> = said
            .strip_prefix("ready\n")
            .unwrap()
            .lines()
            .map(|l| Done::parse(l).unwrap())
            .collect();
        let errors: Vec<String> = results.iter().map(Done::error).collect();
        assert_eq!(errors, ["", "EEXIST", "", ""]);
        assert_eq!(results[2].linked.len(), 2);
        assert!(results[0].at <= results[3].at);
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"0.0;0.3;");
    }
}
