// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks at objects on the host for the engine.
//!
//! Some events can be sent only when the type of their object is known. The watch thread finds it out
//! before it wakes the sinks, so that no sink has to wait for the host's file system.

use std::os::fd::{AsFd, OwnedFd};

use farwatch_proto::host::{Listed, Look};
use farwatch_proto::{FileKind, Name};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::{Backend, Intake, time};

pub(super) const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The type of the object, if it is still under its name.
pub(super) fn kind_of(intake: &dyn Intake, backend: &dyn Backend, wanted: &Look) -> FileKind {
    let dir = intake.open_dir(wanted.dir);
    let found = dir.and_then(|dir| look(backend, &dir, wanted.name.clone()).ok());
    let is_it = |found: &Listed| found.object.as_ref() == Some(&wanted.object);
    found.filter(is_it).map_or(FileKind::Unknown, |found| found.kind)
}

/// What is under a name.
pub(super) fn look(backend: &dyn Backend, dir: &OwnedFd, name: Name) -> Result<Listed, Errno> {
    let fd = rustix::fs::openat(dir, name.as_bytes(), PATH_ONLY, Mode::empty())?;
    let wanted = StatxFlags::TYPE | StatxFlags::CTIME | StatxFlags::BTIME;
    let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, wanted)?;
    let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(Listed {
        name,
        object: backend.fid(fd.as_fd()).ok(),
        kind: FileKind::from_mode(u32::from(stat.stx_mode)),
        changed: time(stat.stx_ctime),
        born: has_birth.then(|| time(stat.stx_btime)),
    })
}
