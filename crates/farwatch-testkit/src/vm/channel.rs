// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Channel`]: the test's end of the machine's serial port.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::line;
use crate::observer::{ANSWER_MAX, HELLO};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Channel {
    stream: BufReader<UnixStream>,
    /// A line that has begun to arrive.
    begun: Vec<u8>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream), begun: Vec::new() }
    }

    /// Skips what the firmware says, until the observer is there. Gives up early when `is_hopeless`,
    /// which is asked every second.
    pub(super) fn wait_for_hello(
        &mut self,
        patience: Duration,
        is_hopeless: impl Fn() -> bool,
    ) -> Result<()> {
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        let until = Instant::now() + patience;
        loop {
            let line = self.line(until.min(Instant::now() + LOOK_EVERY))?;
            if line.is_some_and(|line| line.ends_with(HELLO)) {
                return Ok(());
            }
            if is_hopeless() {
                bail!("the machine does not start");
            }
            if Instant::now() >= until {
                bail!("the observer does not answer");
            }
        }
    }

    /// Sends a request and waits for its answer: lines of words, or why there are none.
    pub(super) fn ask<W: AsRef<OsStr>>(
        &mut self,
        words: &[W],
    ) -> Result<Result<Vec<Vec<OsString>>, String>> {
        self.send(words)?;
        let until = Instant::now() + ANSWER_MAX;
        let mut lines = Vec::new();
        loop {
            let line = self.line(until).with_context(|| line::encode(words))?;
            let line = line.with_context(|| format!("no answer to {}", line::encode(words)))?;
            let (mark, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let words = line::decode(rest)?;
            match mark {
                "+" => lines.push(words),
                "ok" => return Ok(Ok(lines)),
                "error" => {
                    let text = OsString::from_iter(words).to_string_lossy().into_owned();
                    return Ok(Err(text));
                }
                _ => bail!("the observer has said {line:?}"),
            }
        }
    }

    /// Sends a request and waits for nothing.
    pub(super) fn send<W: AsRef<OsStr>>(&mut self, words: &[W]) -> Result<()> {
        let line = line::encode(words) + "\n";
        self.stream.get_mut().write_all(line.as_bytes()).context("the machine is gone")
    }

    /// The next line, or `None` when none has come in time.
    fn line(&mut self, until: Instant) -> Result<Option<String>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            match self.stream.read_until(b'\n', &mut self.begun) {
                Ok(0) => bail!("the machine is gone"),
                Ok(_) if self.begun.ends_with(b"\n") => {
                    let line = String::from_utf8_lossy(&self.begun).trim_end().to_owned();
                    self.begun.clear();
                    return Ok(Some(line));
                }
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("the machine's serial port"),
            }
        }
    }
}
