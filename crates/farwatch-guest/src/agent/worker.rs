// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The worker: one target, one thread that reads and replays.
//!
//! What it has from its supervisor: a timer as standard input, which it winds whenever the server has
//! answered, and a pipe as standard output, into which it writes one line when it is welcome.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use farwatch_proto::wire::control::Delivery;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec};

use super::answer::{self, Shared};
use crate::{Announcement, Error, Link, MountRoot, Reads, Superblocks, Target};

/// The line on standard output.
pub(super) const WELCOME: &str = "welcome";

/// How long an agent before this one may hold the control node. One that was killed does until its
/// last read is answered, within a second.
const BUSY_WAIT: Duration = Duration::from_secs(3);
/// How often to look.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Works until the server is gone, or the supervisor is.
pub(super) fn run(target: &Target, timeout: Duration) -> anyhow::Result<()> {
    // This thread does nothing but carry the signal and answer `farwatch-agent status`: the other one changes its
    // ids, and the kernel takes this off a thread that does.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("prctl(PR_SET_PDEATHSIG)")?;
    let shared = Arc::new(Shared::default());
    let (ended, ends) = UnixStream::pair().context("a socket")?;
    let work = {
        let (target, shared) = (target.clone(), Arc::clone(&shared));
        move || {
            // Dropped at the end, whatever it is.
            let _ends = ends;
            replay(&target, &shared, timeout)
        }
    };
    let worker = thread::Builder::new().name("replay".into()).spawn(work)?;
    let answered = answer::listen()
        .and_then(|socket| answer::serve(&socket, &ended, &shared, &target.to_string()));
    if let Err(error) = answered {
        tracing::warn!(%error, "`farwatch-agent status` will not show this agent");
    }
    match worker.join() {
        Ok(result) => result.with_context(|| target.to_string()),
        Err(_) => bail!("{target}: the agent panicked (a bug)"),
    }
}

fn replay(target: &Target, shared: &Shared, timeout: Duration) -> anyhow::Result<()> {
    wind(timeout).context("standard input is not a timer: `--worker` is internal")?;
    let mut superblocks = Superblocks::new(target.open()?);
    // Before the thread has the uid of its tags.
    let announcement = Announcement::prepare(superblocks.root());
    let mut link = open(superblocks.root())?;
    let announce = |step: fn(&Announcement) -> io::Result<()>| {
        let done = announcement.as_ref().map_err(|error| error.to_string());
        if let Err(error) = done.and_then(|it| step(it).map_err(|error| error.to_string())) {
            tracing::warn!(%error, "/run/farwatch/events does not show whether events are delivered");
        }
    };
    announce(Announcement::publish);
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{WELCOME}")
        .and_then(|()| stdout.flush())
        .context("the supervisor is gone")?;
    shared.attached();
    let answered = || {
        shared.answered();
        if let Err(error) = wind(timeout) {
            tracing::error!(%error, "cannot set the timer for the server's answers");
        }
    };
    loop {
        let mut reads = Reads::new(&link, answered);
        let (seq, progress) = (link.welcome().next_seq, &shared.progress);
        crate::run(&mut reads, &mut superblocks, seq, progress)?;
        shared.detached();
        announce(Announcement::withdraw);
        let report = progress.report();
        tracing::info!(?report, "the virtual machine has moved to another host: attaching again");
        superblocks.close_files();
        drop(link);
        thread::sleep(BUSY_PAUSE);
        link = open(superblocks.root())?;
        announce(Announcement::publish);
        shared.attached();
    }
}

fn open(root: &MountRoot) -> Result<Link, Error> {
    let until = Instant::now() + BUSY_WAIT;
    loop {
        match Link::open(root, Delivery::Reads) {
            Err(Error::Busy) if Instant::now() < until => thread::sleep(BUSY_PAUSE),
            // The machine has moved to another host since the node was opened.
            Err(Error::Control(error))
                if error.raw_os_error() == Some(Errno::BADF.raw_os_error())
                    && Instant::now() < until =>
            {
                thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
}

/// Starts the timer anew. It rings after half of the timeout, and after the other half again: a
/// machine that was paused is not taken for one whose server is dead.
fn wind(timeout: Duration) -> io::Result<()> {
    let half = timeout / 2;
    let half = Timespec {
        tv_sec: i64::try_from(half.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: half.subsec_nanos().into(),
    };
    let time = Itimerspec { it_interval: half, it_value: half };
    let timer = io::stdin();
    rustix::time::timerfd_settime(timer.as_fd(), TimerfdTimerFlags::empty(), &time)?;
    Ok(())
}
