// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-observer TTY`: serves the requests that come over a serial port.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: farwatch-observer TTY")?;
    let tty = File::options().read(true).write(true).open(&path).context("the serial port")?;
    let mut mode = tcgetattr(tty.as_fd()).context("no serial port")?;
    mode.make_raw();
    tcsetattr(tty.as_fd(), OptionalActions::Now, &mode)?;
    farwatch_testkit::observer::serve(BufReader::new(tty.try_clone()?), tty)
}
