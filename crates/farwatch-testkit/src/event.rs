// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One inotify event as a line of text, so that expected streams can be read and written by hand.
//!
//! `CREATE,ISDIR d` · `MOVED_FROM a c1` · `MODIFY [f]`: the kind as inotify(7) names it without
//! `IN_`, the object, and for the halves of a rename their cookie. Cookies are numbered in the order
//! in which they appear. An object in brackets is the watched file or directory itself, one without
//! is an entry of a watched directory; both are paths below the root of the recording.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use inotify::EventMask;

/// What happened: every inotify event carries exactly one of these.
///
/// The order is the one in which [`merge_allowed`](crate::merge_allowed) writes events whose own
/// order is unknown: the life of a file, from its creation to the end of the watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of inotify(7)")]
pub enum Kind {
    Create,
    Open,
    Access,
    Modify,
    Attrib,
    CloseWrite,
    CloseNowrite,
    MovedFrom,
    MovedTo,
    MoveSelf,
    Delete,
    DeleteSelf,
    Unmount,
    QOverflow,
    Ignored,
}

impl Kind {
    const ALL: [(Self, &'static str, EventMask); 15] = [
        (Self::Create, "CREATE", EventMask::CREATE),
        (Self::Open, "OPEN", EventMask::OPEN),
        (Self::Access, "ACCESS", EventMask::ACCESS),
        (Self::Modify, "MODIFY", EventMask::MODIFY),
        (Self::Attrib, "ATTRIB", EventMask::ATTRIB),
        (Self::CloseWrite, "CLOSE_WRITE", EventMask::CLOSE_WRITE),
        (Self::CloseNowrite, "CLOSE_NOWRITE", EventMask::CLOSE_NOWRITE),
        (Self::MovedFrom, "MOVED_FROM", EventMask::MOVED_FROM),
        (Self::MovedTo, "MOVED_TO", EventMask::MOVED_TO),
        (Self::MoveSelf, "MOVE_SELF", EventMask::MOVE_SELF),
        (Self::Delete, "DELETE", EventMask::DELETE),
        (Self::DeleteSelf, "DELETE_SELF", EventMask::DELETE_SELF),
        (Self::Unmount, "UNMOUNT", EventMask::UNMOUNT),
        (Self::QOverflow, "Q_OVERFLOW", EventMask::Q_OVERFLOW),
        (Self::Ignored, "IGNORED", EventMask::IGNORED),
    ];

    /// The kind in a mask that the kernel reported.
    pub(crate) fn from_mask(mask: EventMask) -> Option<Self> {
        Self::ALL.iter().find(|(_, _, bit)| mask.contains(*bit)).map(|(kind, ..)| *kind)
    }

    /// The kind with this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(kind, ..)| *kind)
    }

    /// Whether this is one half of a rename, and so has a cookie.
    #[must_use]
    pub fn is_move(self) -> bool {
        matches!(self, Self::MovedFrom | Self::MovedTo)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("?", |(_, name, _)| name)
    }
}

/// One event of a recorded or expected stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// Whether the object is a directory (`IN_ISDIR`).
    pub is_dir: bool,
    /// The object, escaped: see [`Event::object_of`].
    pub object: String,
    /// 1 for the first cookie of the stream, 2 for the next; only the halves of a rename have one.
    pub cookie: Option<usize>,
}

impl Event {
    /// The text for the entry `name` of the watched directory `watched`, or for `watched` itself.
    ///
    /// Bytes that are not printable text are escaped (`\n`, `\xff`), so that one event is one line.
    #[must_use]
    pub fn object_of(watched: &Path, name: Option<&OsStr>) -> String {
        match name {
            Some(name) => escape(watched.join(name).as_os_str()),
            None if watched.as_os_str().is_empty() => "[.]".to_owned(),
            None => format!("[{}]", escape(watched.as_os_str())),
        }
    }

    /// Reads one line of an expected stream.
    pub fn parse(line: &str) -> Result<Self> {
        let (mask, rest) = line.split_once(' ').with_context(|| format!("no object: {line:?}"))?;
        let (name, is_dir) = match mask.strip_suffix(",ISDIR") {
            Some(name) => (name, true),
            None => (mask, false),
        };
        let kind = Kind::from_name(name).with_context(|| format!("unknown event: {line:?}"))?;
        if !kind.is_move() {
            return Ok(Self { kind, is_dir, object: rest.to_owned(), cookie: None });
        }
        let Some((object, cookie)) = rest.rsplit_once(" c") else {
            bail!("half of a rename without cookie: {line:?}");
        };
        let cookie = cookie.parse().with_context(|| format!("bad cookie: {line:?}"))?;
        ensure!(cookie > 0, "cookies start at c1: {line:?}");
        Ok(Self { kind, is_dir, object: object.to_owned(), cookie: Some(cookie) })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = if self.is_dir { ",ISDIR" } else { "" };
        write!(f, "{}{dir} {}", self.kind.name(), self.object)?;
        self.cookie.map_or(Ok(()), |cookie| write!(f, " c{cookie}"))
    }
}

/// A stream as indented lines, for messages.
#[must_use]
pub fn render(events: &[Event]) -> String {
    if events.is_empty() {
        return "    (nothing)\n".to_owned();
    }
    events.iter().map(|event| format!("    {event}\n")).collect()
}

fn escape(path: &OsStr) -> String {
    let mut text = String::new();
    for chunk in path.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_as_it_is_read() {
        for line in ["CREATE,ISDIR d", "MOVED_FROM a b c12", "MODIFY [f]", "DELETE c1"] {
            assert_eq!(Event::parse(line).unwrap().to_string(), line);
        }
    }

    #[test]
    fn a_line_that_is_no_event_is_refused() {
        for line in ["CREATE", "CREATED f", "MOVED_TO f", "MOVED_TO f c0", "MOVED_TO f cx"] {
            assert!(Event::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn names_of_any_bytes_stay_on_one_line() {
        let name = OsStr::from_bytes(b"a\nb\\\xff caf\xc3\xa9");
        assert_eq!(Event::object_of(Path::new("d"), Some(name)), r"d/a\nb\\\xff café");
        assert_eq!(Event::object_of(Path::new(""), None), "[.]");
    }
}
