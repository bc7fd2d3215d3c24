// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attributes of nodes that are not in the share: the control node, the limbo directory, and the
//! stand-ins that replay uses for objects that are not there any more.

use std::time::{Duration, SystemTime};

use farwatch_proto::{FileKind, Generation, NodeId};
use virtiofsd::filesystem::Entry;
use virtiofsd::fuse::Attr;

/// The attributes of a reserved node, `None` for any other. A stand-in is shown to the agent alone:
/// anybody else looks its name up again.
pub(super) fn of_reserved(id: NodeId, agent: bool) -> Option<Attr> {
    match id {
        NodeId::CONTROL => Some(attr(id, FileKind::Regular, 0o600)),
        NodeId::LIMBO if agent => Some(attr(id, FileKind::Directory, 0o700)),
        _ if agent => id.phantom_kind().map(|kind| phantom(id, kind)),
        _ => None,
    }
}

/// When an object was changed last (`st_ctime`). `None` for a time that makes no sense.
pub(super) fn changed(attr: &Attr) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(attr.ctime, attr.ctimensec))
}

/// What an agent's kernel is to hear of a directory on its way to another one. One without links would
/// be dead to it as soon as it drops the dentry, and the watches on it would end; that is for the
/// replay of its removal.
pub(super) fn on_the_way(attr: Attr) -> Attr {
    let directory = FileKind::from_mode(attr.mode) == FileKind::Directory;
    Attr { nlink: if directory { attr.nlink.max(1) } else { attr.nlink }, ..attr }
}

/// A stand-in of a type; one that is not known is a plain file.
pub(super) fn phantom(id: NodeId, kind: FileKind) -> Attr {
    match kind {
        FileKind::Directory => attr(id, kind, 0o755),
        FileKind::Unknown => attr(id, FileKind::Regular, 0o644),
        FileKind::Fifo
        | FileKind::CharDevice
        | FileKind::BlockDevice
        | FileKind::Regular
        | FileKind::Symlink
        | FileKind::Socket => attr(id, kind, 0o644),
    }
}

/// A reply that the guest's kernel keeps no longer than the call that asked for it.
pub(super) fn passing(id: NodeId, generation: Generation, attr: Attr) -> Entry {
    Entry {
        inode: id.get(),
        generation: u64::from(generation.0),
        attr,
        attr_timeout: Duration::ZERO,
        entry_timeout: Duration::ZERO,
    }
}

fn attr(id: NodeId, kind: FileKind, permissions: u32) -> Attr {
    Attr {
        ino: id.get(),
        mode: kind.mode() | permissions,
        nlink: if kind == FileKind::Directory { 2 } else { 1 },
        blksize: 4096,
        ..Attr::default()
    }
}
