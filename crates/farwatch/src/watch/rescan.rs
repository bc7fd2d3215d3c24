// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lists the directories that the engine asks for, when events about them were dropped.
//!
//! Which, and what follows from it, is decided by `farwatch_proto::host`. The watch thread lists,
//! between two reads of the kernel's queue and without the share's lock, so no event is handed in
//! while a directory is being listed.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use farwatch_proto::host::{Input, Listing, Rescan};
use farwatch_proto::{Name, NodeId};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::look::look;
use super::{Backend, Intake};

const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Lists a directory. Returns what the engine is to know.
pub(super) fn run(intake: &dyn Intake, backend: &dyn Backend, rescan: &Rescan) -> Input {
    // First of all: what happens from then on is reported.
    if rescan.is_polled && intake.mark_again(rescan.dir) {
        return Input::Unlisted;
    }
    match list(intake, backend, rescan) {
        Ok(listing) => {
            let (dir, entries, upto) = (rescan.dir, listing.entries.len(), listing.upto.as_ref());
            tracing::debug!(%dir, entries, ?upto, "listed again");
            Input::Listing(listing)
        }
        Err(error) => {
            let dir = rescan.dir;
            tracing::debug!(%dir, %error, "a directory cannot be listed: later again");
            Input::Unlisted
        }
    }
}

fn list(intake: &dyn Intake, backend: &dyn Backend, rescan: &Rescan) -> io::Result<Listing> {
    let dir = intake.open_dir(rescan.dir).ok_or(io::ErrorKind::NotFound)?;
    let names = gone_is_none(names(&dir, rescan))?.unwrap_or_default();
    let mut listing = Listing::default();
    // After the names: one that is removed now may still have been among them, not the reverse.
    let removed = |id: &NodeId| is_removed(intake, *id);
    listing.removed = rescan.subdirs.iter().copied().filter(removed).collect();
    if names.len() >= rescan.len_max {
        listing.upto = names.last().cloned();
    }
    for name in names {
        listing.entries.extend(gone_is_none(look(backend, &dir, name))?);
    }
    Ok(listing)
}

/// The first names of the piece.
fn names(dir: &OwnedFd, rescan: &Rescan) -> Result<BTreeSet<Name>, Errno> {
    let Rescan { after, upto, len_max, .. } = rescan;
    let readable = rustix::fs::openat(dir, c".", READ, Mode::empty())?;
    let mut names = BTreeSet::new();
    for entry in Dir::new(readable)? {
        // This leaves out `.` and `..`.
        let Ok(name) = Name::parse(entry?.file_name().to_bytes()) else { continue };
        let wanted = after.as_ref().is_none_or(|after| name > *after)
            && upto.as_ref().is_none_or(|upto| name <= *upto);
        if wanted {
            names.insert(name);
        }
        if names.len() > *len_max {
            names.pop_last();
        }
    }
    Ok(names)
}

/// What is not there any more is no error.
pub(super) fn gone_is_none<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a directory is known to be nowhere any more. One of which no descriptor is at hand may
/// have been moved.
pub(super) fn is_removed(intake: &dyn Intake, id: NodeId) -> bool {
    let Some(fd) = intake.dir_at_hand(id) else { return false };
    match rustix::fs::statat(&*fd, c"", AtFlags::EMPTY_PATH) {
        Ok(stat) => stat.st_nlink == 0,
        Err(errno) => errno == Errno::STALE,
    }
}
