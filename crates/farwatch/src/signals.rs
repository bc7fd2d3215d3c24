// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ctrl-C, SIGTERM and SIGHUP: a thread that waits for the first and calls back; and SIGUSR1, at which a process
//! says what it has done so far. And the one word that systemd is told: that a process is ready.

use std::fs::File;
use std::io::{self, Read, pipe};
use std::os::fd::OwnedFd;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::pipe::register;

/// The three signals, caught, and not answered yet.
///
/// A process that forks then (`serve::sandbox`) has one such pipe with its child: a signal to either
/// is answered by whoever calls [`Caught::then`].
#[derive(Debug)]
pub(crate) struct Caught(File);

/// Catches the signals from now on. Starts no thread.
///
/// # Errors
/// When they cannot be taken over, or no pipe can be had.
pub(crate) fn catch() -> io::Result<Caught> {
    let (reader, writer) = pipe()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        register(signal, OwnedFd::from(writer.try_clone()?))?;
    }
    Ok(Caught(OwnedFd::from(reader).into()))
}

impl Caught {
    /// Calls `end` for each signal, from a thread. A second one while the first is being obeyed
    /// changes nothing.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn then(mut self, end: impl Fn() + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("signals".into()).spawn(move || {
            // Each signal is a byte; those that come together may be read together.
            while self.0.read(&mut [0; 16]).is_ok_and(|len| len > 0) {
                tracing::info!("exiting on a signal");
                end();
            }
        })?;
        Ok(())
    }
}

/// Calls `report` for each SIGUSR1 from now on, from a thread.
///
/// # Errors
/// When the signal cannot be taken over, or the thread cannot be started.
pub(crate) fn on_report(report: impl Fn() + Send + 'static) -> io::Result<()> {
    let (mut reader, writer) = pipe()?;
    register(SIGUSR1, OwnedFd::from(writer))?;
    thread::Builder::new().name("report".into()).spawn(move || {
        while reader.read(&mut [0]).is_ok_and(|len| len > 0) {
            report();
        }
    })?;
    Ok(())
}

/// Calls `end` for each of the signals from now on.
///
/// # Errors
/// Those of [`catch`] and [`Caught::then`].
pub(crate) fn on_end(end: impl Fn() + Send + 'static) -> io::Result<()> {
    catch()?.then(end)
}

/// Tells systemd that the service is ready, if systemd has started this process as a service of `Type=notify`.
pub(crate) fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "notifying systemd failed");
    }
}
