// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ctrl-C, SIGTERM and SIGHUP: a thread that waits for the first and calls back.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `end` for each of the three signals from now on. A second one while the first is being
/// obeyed changes nothing.
///
/// # Errors
/// When the signals cannot be taken over or the thread cannot be started.
pub(crate) fn on_end(end: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            tracing::info!(signal, "ending");
            end();
        }
    })?;
    Ok(())
}
