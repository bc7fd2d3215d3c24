// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the log goes: standard error, as text or JSON; with `--syslog` the system's log; the journal (`journald`).
//! Called by `cli`, once. No place in the code can flood it (`limit`).

mod journald;
mod limit;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::io::{self, IsTerminal as _, Write};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use syslog::{Facility, Formatter3164, Logger, LoggerBackend};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use self::journald::Journald;
use self::limit::Limit;
use crate::options::{LogArgs, LogFormat};

/// What the libraries say is about what the guest does wrong, at any level; that is no news. Why a
/// sandbox cannot be entered, or what became of the process in it, is.
const LIBRARIES: &str = "virtiofsd=off,virtiofsd::sandbox=error,virtiofsd::util=error,\
    vhost_user_backend=off";

/// Where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Log {
    StandardError,
    /// syslog or the journal.
    System,
}

/// Starts logging what the filter of `args` lets through, in the form of [`EnvFilter`].
///
/// # Errors
/// When the filter makes no sense. Without a syslog or journal the log goes to standard error, and says so.
pub(crate) fn start(args: &LogArgs, syslog: bool) -> Result<Log, Box<dyn Error>> {
    tracing_log::LogTracer::init()?;
    std::panic::set_hook(Box::new(log_panic));
    let filter = filter(&args.log)?;
    match (syslog, args.log_format) {
        (true, _) => match Syslog::connect() {
            Ok(syslog) => to_syslog(filter, syslog)?,
            Err(error) => {
                to_standard_error(filter, LogFormat::Text)?;
                tracing::warn!(%error, "cannot connect to syslog");
                return Ok(Log::StandardError);
            }
        },
        (false, LogFormat::Journald) => match Journald::connect(Path::new(journald::SOCKET)) {
            Ok(journald) => {
                let subscriber = tracing_subscriber::registry().with(filter).with(journald);
                let subscriber = subscriber.with(Limit::default());
                tracing::subscriber::set_global_default(subscriber)?;
            }
            Err(error) => {
                to_standard_error(filter, LogFormat::Text)?;
                tracing::warn!(%error, "cannot connect to the journal");
                return Ok(Log::StandardError);
            }
        },
        (false, format) => {
            to_standard_error(filter, format)?;
            return Ok(Log::StandardError);
        }
    }
    Ok(Log::System)
}

/// A panic is a line of the log: one that a guest can cause again and again is limited as such.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    let at = panic.location().map_or_else(String::new, ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = if backtrace.status() == BacktraceStatus::Captured {
        format!("\n{backtrace}")
    } else {
        String::new()
    };
    let thread = std::thread::current();
    tracing::error!(at, thread = thread.name(), "panic (a bug): {message}{backtrace}");
}

fn filter(text: &str) -> Result<EnvFilter, Box<dyn Error>> {
    let off = text.eq_ignore_ascii_case("off");
    let filter = if off { text.to_owned() } else { format!("{text},{LIBRARIES}") };
    Ok(EnvFilter::try_new(filter)?)
}

fn to_standard_error(filter: EnvFilter, format: LogFormat) -> Result<(), Box<dyn Error>> {
    // A management program sends standard error to a file: no colours there.
    let colours = io::stderr().is_terminal();
    // Of a line that cannot be written it would say so on standard error, and panic where that is what failed.
    let subscriber = tracing_subscriber::fmt().log_internal_errors(false).with_ansi(colours);
    let subscriber = subscriber.with_env_filter(filter).with_writer(io::stderr);
    if format == LogFormat::Json {
        let subscriber = subscriber.json().flatten_event(true);
        tracing::subscriber::set_global_default(subscriber.finish().with(Limit::default()))?;
    } else {
        tracing::subscriber::set_global_default(subscriber.finish().with(Limit::default()))?;
    }
    Ok(())
}

fn to_syslog(filter: EnvFilter, syslog: Syslog) -> Result<(), Box<dyn Error>> {
    let subscriber = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter);
    // It has a time of its own.
    let subscriber = subscriber.with_ansi(false).without_time().with_level(false);
    let subscriber = subscriber.with_writer(syslog).finish();
    tracing::subscriber::set_global_default(subscriber.with(Limit::default()))?;
    Ok(())
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
