// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests that replays consist of, and their neighbours, about one entry or object: which of them is
//! granted is up to what is being replayed.

use farwatch_proto::NodeId;

use crate::replay::{ATTRIB, MODIFY};
use crate::requests::{self, Request, fattr, file_type, open_flags, rename_flags};

/// Requests about an entry. Which of them is the right one is up to what is being replayed.
pub(crate) fn about_entry(node: u64, dir: u64, name: &str) -> Vec<(&'static str, Request)> {
    let (here, limbo, away) = ((dir, name), (NodeId::LIMBO.get(), "1"), (dir, "elsewhere"));
    vec![
        ("symlink", requests::symlink(dir, name)),
        ("mknod", requests::mknod(dir, name, file_type::REGULAR | 0o644)),
        ("mkdir", requests::mkdir(dir, name)),
        ("link", requests::link(node, dir, name)),
        ("create", requests::create(dir, name, open_flags::RDWR)),
        ("unlink", requests::unlink(dir, name)),
        ("rmdir", requests::rmdir(dir, name)),
        ("exchange", requests::rename2(here, limbo, rename_flags::EXCHANGE)),
        ("noreplace", requests::rename2(here, limbo, rename_flags::NOREPLACE)),
        ("whiteout", requests::rename2(here, limbo, rename_flags::WHITEOUT)),
        ("rename out", requests::rename(here, limbo)),
        ("rename in", requests::rename(limbo, here)),
        ("rename away", requests::rename(here, away)),
        ("rename back", requests::rename(away, here)),
    ]
}

/// Requests about an object.
pub(crate) fn about_object(node: u64) -> Vec<(&'static str, Request)> {
    vec![
        ("truncate", requests::setattr(node, fattr::SIZE, 0)),
        ("chmod", requests::setattr(node, fattr::MODE, 0)),
        ("times now and chmod", requests::setattr(node, ATTRIB | fattr::MODE, 0)),
        ("mtime now and size", requests::setattr(node, MODIFY | fattr::SIZE, 0)),
        ("atime", requests::setattr(node, fattr::ATIME, 0)),
        ("mtime now", requests::setattr(node, MODIFY, 0)),
        ("times now", requests::setattr(node, ATTRIB, 0)),
        ("open and truncate", requests::open(node, open_flags::WRONLY | open_flags::TRUNC)),
        ("open for both", requests::open(node, open_flags::RDWR)),
        ("open", requests::open(node, open_flags::WRONLY)),
        ("open to read", requests::open(node, open_flags::RDONLY)),
        ("read", requests::read(node, REPLAY_HANDLE, 1)),
    ]
}

/// The handle of what a replay has opened.
const REPLAY_HANDLE: u64 = 1 << 62;
