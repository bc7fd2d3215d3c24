// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program `farwatch-hostile`: a FUSE server that lies to a kernel which raises events itself, for the tests
//! of `kernel/series` and `kernel/dkms`. It mounts itself, says what no server should say, and looks whether the
//! kernel still does what it ought to. What the kernel's log has to say of it the test reads afterwards.
//!
//! The text `cases.txt` is the table of what it says. [`random()`] makes up more.

mod answer;
mod case;
mod fuse;
mod message;
mod random;
mod server;
mod watcher;

use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

pub use self::random::Plan;
pub use self::server::{Stop, Way};

use self::answer::Lies;
use self::case::{Case, Verdict};
use self::message::Message;
use self::server::Server;
use self::watcher::Watcher;

/// Where it mounts itself.
pub const MOUNT_POINT: &str = "/tmp/hostile";

/// The events of this entry are waited for: what was told before it has been raised.
const SENTINEL: &str = "sentinel";

/// Shorter than the test's, which is to hear what was waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// The queue of a watcher takes some ten times as many events.
const MESSAGES_UNREAD_MAX: u32 = 500;

/// As the program's command line has it.
///
/// # Panics
/// Never: there is none that it has not.
pub fn argument(value: &impl ValueEnum) -> String {
    let argument = value.to_possible_value().expect("none is left out");
    argument.get_name().to_owned()
}

/// Runs every case of the table, each with a mount of its own at `at`, and writes a line for each.
///
/// # Errors
/// When one of them comes out otherwise than the table says.
pub fn cases(way: Way, at: &Path, out: &mut impl Write) -> Result<()> {
    for case in Case::all()? {
        run(way, at, &case).with_context(|| format!("case {}", case.name))?;
        writeln!(out, "case {}", case.name)?;
    }
    writeln!(out, "done")?;
    Ok(())
}

/// Tells what the plan says, at random, while programs use the mount. Writes a line for each mount.
///
/// # Errors
/// When the kernel does not go on as it should.
pub fn random(way: Way, at: &Path, plan: &Plan, out: &mut impl Write) -> Result<()> {
    random::run(way, at, plan, out).with_context(|| format!("seed {}", plan.seed))?;
    writeln!(out, "done")?;
    Ok(())
}

/// Stops to answer for ever, and says `stopped`. Something else ends the process.
///
/// # Errors
/// When the kernel never asks what is not to be answered.
pub fn stop(way: Way, at: &Path, stop: Stop, out: &mut impl Write) -> Result<()> {
    let server = Server::mount(way, at)?;
    if stop.is_before_the_welcome() {
        server.stop_at(stop);
        server.begin_to_attach()?;
    } else {
        server.attach()?;
        // What is removed must be in the cache, or nothing is asked about it.
        for path in ["file", "dir"] {
            at.join(path).metadata().with_context(|| path.to_owned())?;
        }
        server.stop_at(stop);
        server.provoke(stop)?;
    }
    server.wait_until_stopped()?;
    writeln!(out, "stopped")?;
    out.flush()?;
    loop {
        thread::park();
    }
}

fn run(way: Way, at: &Path, case: &Case) -> Result<()> {
    let mut server = Server::mount(way, at)?;
    server.attach()?;
    let watcher = Watcher::of(at)?;
    let used = case.use_mount(at)?;
    server.lie(&case.lies);
    let (mut refused, mut silent, mut told) = (0, true, Vec::new());
    for line in &case.lines {
        for (nth, message) in (1..).zip(line.messages()) {
            if nth % MESSAGES_UNREAD_MAX == 0 {
                server.wait_for_queue()?;
                told.extend(watcher.read()?.into_iter().map(|(_, name)| name));
            }
            let taken = server.tell(&message)?;
            let should = line.verdict != Verdict::Refused;
            ensure!(taken.is_none_or(|taken| taken == should), "{}: {taken:?}", line.text);
            refused += u64::from(!should && message.is_found());
        }
        silent &= matches!(line.verdict, Verdict::Refused | Verdict::Silent);
        if line.verdict == Verdict::Late {
            watcher.wait_for(&line.name).with_context(|| line.text.clone())?;
        }
    }
    server.wait_for_probe()?;
    case.find(at)?;
    told.extend(tell_sentinel(&server, &watcher)?);
    ensure!(!silent || told.is_empty(), "events were raised: {told:?}");
    if let Some(counted) = server.refused()? {
        ensure!(counted == refused, "{counted} messages were refused, not {refused}");
    }
    drop((used, watcher));
    server.unmount()
}

/// Has an event raised that is true, and waits for it. The names of the events before it.
fn tell_sentinel(server: &Server, watcher: &Watcher) -> Result<Vec<String>> {
    server.lie(&Lies::default());
    server.tell(&Message::parse(&format!("on=root mask=CREATE name={SENTINEL}"))?)?;
    watcher.wait_for(SENTINEL)
}
