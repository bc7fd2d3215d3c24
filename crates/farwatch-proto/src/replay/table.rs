// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`TABLE`]: the rows. Nothing else says which call raises which event.

use super::{AnswerKind, CallKind, Objects, OpenMode, Part, RequestKind, Row, Times};
use crate::Mask;
use AnswerKind::{Attributes, Done, Entry, NoEntry, Nothing, Replaced};
use RequestKind::{Close, Lookup, Open, Read};

/// LOOKUP of an entry that is not there yet, and of one that is.
const MISSING: (RequestKind, AnswerKind) = (Lookup(Part::Made), NoEntry);
const PRESENT: (RequestKind, AnswerKind) = (Lookup(Part::Entry), Entry);

/// In the order of [`Mask::ORDER`], then renames.
pub const TABLE: &[Row] = &[
    Row {
        event: Mask::CREATE,
        objects: Objects::Nodes,
        call: CallKind::Mknod,
        requests: &[MISSING, (RequestKind::Mknod, Entry)],
    },
    Row {
        event: Mask::CREATE,
        objects: Objects::Directories,
        call: CallKind::Mkdir,
        requests: &[MISSING, (RequestKind::Mkdir, Entry)],
    },
    Row {
        event: Mask::CREATE,
        objects: Objects::Symlinks,
        call: CallKind::Symlink,
        requests: &[MISSING, (RequestKind::Symlink, Entry)],
    },
    Row {
        event: Mask::CREATE,
        objects: Objects::Linked,
        call: CallKind::Link,
        requests: &[MISSING, (RequestKind::Link, Entry)],
    },
    Row {
        event: Mask::OPEN,
        objects: Objects::Files,
        call: CallKind::Open,
        requests: &[
            PRESENT,
            (Open(OpenMode::ReadWrite), Done),
            (Open(OpenMode::Write), Done),
            (Open(OpenMode::Read), Done),
        ],
    },
    Row {
        event: Mask::OPEN,
        objects: Objects::Directories,
        call: CallKind::Open,
        requests: &[PRESENT, (Open(OpenMode::Read), Done)],
    },
    Row {
        event: Mask::ACCESS,
        objects: Objects::Files,
        call: CallKind::Read(OpenMode::Read),
        requests: &[PRESENT, (Open(OpenMode::Read), Done), (Read, Nothing)],
    },
    Row {
        event: Mask::ACCESS,
        objects: Objects::Directories,
        call: CallKind::Read(OpenMode::Read),
        requests: &[PRESENT, (Open(OpenMode::Read), Done), (Read, Nothing)],
    },
    Row {
        event: Mask::MODIFY,
        objects: Objects::Any,
        call: CallKind::SetTimes(Times::Mtime),
        requests: &[PRESENT, (RequestKind::SetTimes(Times::Mtime), Attributes)],
    },
    Row {
        event: Mask::ATTRIB,
        objects: Objects::Any,
        call: CallKind::SetTimes(Times::Both),
        requests: &[PRESENT, (RequestKind::SetTimes(Times::Both), Attributes)],
    },
    Row {
        event: Mask::CLOSE_WRITE,
        objects: Objects::Files,
        call: CallKind::Close(OpenMode::Write),
        requests: &[PRESENT, (Open(OpenMode::Write), Done), (Close, Done)],
    },
    Row {
        event: Mask::CLOSE_NOWRITE,
        objects: Objects::Files,
        call: CallKind::Close(OpenMode::Read),
        requests: &[PRESENT, (Open(OpenMode::Read), Done), (Close, Done)],
    },
    Row {
        event: Mask::CLOSE_NOWRITE,
        objects: Objects::Directories,
        call: CallKind::Close(OpenMode::Read),
        requests: &[PRESENT, (Open(OpenMode::Read), Done), (Close, Done)],
    },
    Row {
        event: Mask::DELETE,
        objects: Objects::NoDirectories,
        call: CallKind::Unlink,
        requests: &[PRESENT, (RequestKind::Unlink, Done)],
    },
    Row {
        event: Mask::DELETE,
        objects: Objects::Directories,
        call: CallKind::Rmdir,
        requests: &[PRESENT, (RequestKind::Rmdir, Done)],
    },
    Row {
        event: Mask::MOVE,
        objects: Objects::Any,
        call: CallKind::Rename,
        requests: &[
            (Lookup(Part::Old), Entry),
            (Lookup(Part::New), Replaced),
            (RequestKind::Rename, Done),
        ],
    },
    Row {
        event: Mask::MOVED_FROM,
        objects: Objects::Any,
        call: CallKind::RenameOut,
        requests: &[
            (Lookup(Part::Old), Entry),
            (Lookup(Part::New), NoEntry),
            (RequestKind::RenameOut, Done),
        ],
    },
    Row {
        event: Mask::MOVED_TO,
        objects: Objects::Any,
        call: CallKind::RenameIn,
        requests: &[
            (Lookup(Part::Old), Entry),
            (Lookup(Part::New), Replaced),
            (RequestKind::RenameIn, Done),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::super::rows;
    use super::*;
    use crate::FileKind;

    fn kinds() -> impl Iterator<Item = FileKind> {
        (0..16).filter_map(FileKind::from_dt)
    }

    #[test]
    fn rows_are_in_the_order_of_events() {
        let place = |row: &Row| {
            Mask::ORDER.iter().position(|bit| *bit == row.event).unwrap_or(Mask::ORDER.len())
        };
        assert!(TABLE.is_sorted_by_key(place));
    }

    #[test]
    fn each_event_of_each_object_has_at_most_one_row() {
        let no_link = |(kind, linked): &(FileKind, bool)| !linked || *kind != FileKind::Directory;
        for (kind, linked) in kinds().flat_map(|kind| [(kind, false), (kind, true)]).filter(no_link)
        {
            for event in Mask::ORDER.into_iter().chain([Mask::MOVED_FROM, Mask::MOVED_TO]) {
                let found = rows(event, kind, linked).count();
                let opened = event.intersects(Mask::READS | Mask::CLOSE_WRITE);
                assert!(
                    found == 1 || (found == 0 && opened),
                    "{event:?} {kind:?} {linked}: {found}"
                );
            }
        }
    }

    #[test]
    fn times_of_a_row_raise_its_event() {
        for row in TABLE {
            if let CallKind::SetTimes(times) = row.call {
                assert_eq!(times.event(), row.event);
                assert!(row.has(RequestKind::SetTimes(times)));
            }
        }
    }

    #[test]
    fn mode_in_which_a_row_opens_is_among_its_requests() {
        for row in TABLE {
            if let CallKind::Close(mode) | CallKind::Read(mode) = row.call {
                assert!(row.has(Open(mode)), "{row:?}");
            }
            if let CallKind::Close(mode) = row.call {
                assert_eq!(mode.writes(), row.event == Mask::CLOSE_WRITE);
            }
        }
    }
}
