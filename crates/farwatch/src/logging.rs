// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the log goes: standard error, or with `serve --syslog` the system's log. Called by `cli`,
//! once.

use std::error::Error;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};

use syslog::{Facility, Formatter3164, Logger, LoggerBackend};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What the libraries say is about what the guest does wrong, at any level; that is no news. Why a
/// sandbox cannot be entered, or what became of the process in it, is.
const LIBRARIES: &str = "virtiofsd=off,virtiofsd::sandbox=error,virtiofsd::util=error,\
    vhost_user_backend=off";

/// Where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Log {
    StandardError,
    Syslog,
}

/// Starts logging what `filter` lets through, in the form of [`EnvFilter`].
///
/// # Errors
/// When the filter makes no sense. Without a syslog the log goes to standard error, and says so.
pub(crate) fn start(filter: &str, syslog: bool) -> Result<Log, Box<dyn Error>> {
    let off = filter.eq_ignore_ascii_case("off");
    let filter = if off { filter.to_owned() } else { format!("{filter},{LIBRARIES}") };
    let filter = EnvFilter::try_new(filter)?;
    tracing_log::LogTracer::init()?;
    // A management program sends standard error to a file: no colours there.
    let colours = io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    // Of a line that cannot be written it would say so on standard error, and panic where that is what failed.
    let subscriber = subscriber.log_internal_errors(false);
    match syslog.then(Syslog::connect).transpose() {
        Ok(Some(syslog)) => {
            // It has a time of its own.
            let subscriber = subscriber.with_ansi(false).without_time().with_level(false);
            tracing::subscriber::set_global_default(subscriber.with_writer(syslog).finish())?;
            return Ok(Log::Syslog);
        }
        Ok(None) => {
            tracing::subscriber::set_global_default(subscriber.with_writer(io::stderr).finish())?;
        }
        Err(error) => {
            tracing::subscriber::set_global_default(subscriber.with_writer(io::stderr).finish())?;
            tracing::warn!(%error, "there is no syslog");
        }
    }
    Ok(Log::StandardError)
}

/// The connection to the system's log.
#[derive(Clone)]
struct Syslog(Arc<Mutex<Logger<LoggerBackend, Formatter3164>>>);

/// One line for it.
struct Line {
    syslog: Syslog,
    level: Level,
}

impl Syslog {
    fn connect() -> Result<Self, syslog::Error> {
        let formatter = Formatter3164 {
            facility: Facility::LOG_USER,
            hostname: None,
            process: "farwatch".to_owned(),
            pid: std::process::id(),
        };
        Ok(Self(Arc::new(Mutex::new(syslog::unix(formatter)?))))
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { syslog: self.clone(), level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { syslog: self.clone(), level: *metadata.level() }
    }
}

impl Write for Line {
    /// Called with whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        let mut syslog = self.syslog.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = match self.level {
            Level::ERROR => syslog.err(text),
            Level::WARN => syslog.warning(text),
            Level::INFO => syslog.info(text),
            _ => syslog.debug(text),
        };
        sent.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
