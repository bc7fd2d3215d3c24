// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Log lines for the journal, in its native protocol (systemd's `JOURNAL_NATIVE_PROTOCOL.md`): one datagram a line, with
//! the fields apart. A crate for it would connect at each line.
//!
//! The socket is connected when the log starts, since its path leads nowhere in a sandbox. A journal that does not take a
//! line in time is not waited for: the threads that log serve the guest.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest message; what is longer is cut. A datagram has room for more.
const MESSAGE_LEN_MAX: usize = 32 << 10;
/// What our fields begin with: those of the journal have no prefix.
const PREFIX: &str = "FARWATCH_";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Journald {
    socket: UnixDatagram,
    /// Lines that were not taken since the last that was.
    lost: AtomicU64,
}

impl Journald {
    /// Connects to the journal at `path`.
    ///
    /// # Errors
    /// When none listens there.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, lost: AtomicU64::new(0) })
    }

    fn send(&self, line: &[u8]) {
        // write(2) and not send(2), which a seccomp filter need not know.
        if rustix::io::write(&self.socket, line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<S: Subscriber> Layer<S> for Journald {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        self.send(&encode(event.metadata(), fields, lost));
    }
}

/// The message of an event, and its other fields.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

impl Fields {
    fn add(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.others.push((field.name(), value));
        }
    }
}

fn encode(metadata: &Metadata<'_>, fields: Fields, lost: u64) -> Vec<u8> {
    let Fields { mut message, others } = fields;
    for (name, value) in &others {
        // Who reads the journal sees the message alone. Writing to a string does not fail.
        let _written = write!(message, " {name}={value}");
    }
    let mut line = Vec::new();
    put(&mut line, "MESSAGE", &message);
    put(&mut line, "PRIORITY", priority(*metadata.level()));
    put(&mut line, "SYSLOG_IDENTIFIER", "farwatch");
    put(&mut line, "FARWATCH_TARGET", metadata.target());
    for (name, value) in &others {
        put(&mut line, &field_name(name), value);
    }
    if lost > 0 {
        put(&mut line, "FARWATCH_LINES_LOST", &lost.to_string());
    }
    line
}

/// Capitals, digits and underscores.
fn field_name(name: &str) -> String {
    let valid = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    PREFIX.chars().chain(name.chars().map(valid)).collect()
}

/// One field, with the length before its value, so that it may have anything in it.
fn put(line: &mut Vec<u8>, name: &str, value: &str) {
    let mut len = value.len().min(MESSAGE_LEN_MAX);
    while !value.is_char_boundary(len) {
        len -= 1;
    }
    let value = &value.as_bytes()[..len];
    line.extend(name.as_bytes());
    line.push(b'\n');
    line.extend(u64::try_from(value.len()).unwrap_or_default().to_le_bytes());
    line.extend(value);
    line.push(b'\n');
}

/// As syslog(3) counts.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// The fields of a datagram.
    fn fields(mut line: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(line[..end].to_vec()).unwrap();
            let (len, rest) = line[end + 1..].split_at(8);
            let len = usize::try_from(u64::from_le_bytes(len.try_into().unwrap())).unwrap();
            fields.push((name, String::from_utf8(rest[..len].to_vec()).unwrap()));
            assert_eq!(rest[len], b'\n');
            line = &rest[len + 1..];
        }
        fields
    }

    fn journal() -> (UnixDatagram, Journald, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let log = Journald::connect(&path).unwrap();
        (journal, log, dir)
    }

    #[test]
    fn line_has_its_message_its_priority_and_its_fields_apart() {
        let (journal, log, _dir) = journal();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            tracing::warn!(dir_len = 3, name = "a\nb", "two lines");
        });
        let mut datagram = [0; 4096];
        let len = journal.recv(&mut datagram).unwrap();
        let expected = [
            ("MESSAGE", "two lines dir_len=3 name=a\nb"),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "farwatch"),
            ("FARWATCH_TARGET", module_path!()),
            ("FARWATCH_DIR_LEN", "3"),
            ("FARWATCH_NAME", "a\nb"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields(&datagram[..len]), expected);
    }

    #[test]
    fn full_journal_is_not_waited_for_and_later_reports_what_it_missed() {
        let (journal, log, _dir) = journal();
        let line = vec![b'a'; 1000];
        let mut sent = 0_u64;
        while log.lost.load(Ordering::Relaxed) < 3 {
            log.send(&line);
            sent += 1;
        }
        let mut datagram = [0; 4096];
        for _ in 0..sent - 3 {
            journal.recv(&mut datagram).unwrap();
        }
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            tracing::info!("again");
        });
        let len = journal.recv(&mut datagram).unwrap();
        let lost = ("FARWATCH_LINES_LOST".to_owned(), "3".to_owned());
        assert!(fields(&datagram[..len]).contains(&lost));
    }

    #[test]
    fn message_that_is_too_long_is_cut_between_two_characters() {
        let mut line = Vec::new();
        put(&mut line, "MESSAGE", &"ä".repeat(MESSAGE_LEN_MAX));
        assert_eq!(fields(&line)[0].1.len(), MESSAGE_LEN_MAX);
    }
}
