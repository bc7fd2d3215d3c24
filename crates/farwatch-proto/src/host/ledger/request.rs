// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`MarkedRequest`] and its [`Answer`]: what an agent's kernel can ask for, and what it can be answered.

use crate::replay::{OpenMode, Times};
use crate::{FileKind, Name, NodeId};

/// A request that carries an agent's marks and would change something if it were executed, or a
/// LOOKUP. What the caller cannot express in this type gets EPERM without asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkedRequest<'a> {
    /// LOOKUP
    Lookup(NodeId, &'a Name),
    /// MKNOD, MKDIR or SYMLINK, with the type that it would make.
    Create(NodeId, &'a Name, FileKind),
    /// CREATE of a regular file that is opened for writing alone: MKNOD and OPEN in one.
    CreateOpen(NodeId, &'a Name),
    /// LINK of a node to a new entry.
    Link(NodeId, NodeId, &'a Name),
    /// UNLINK, or RMDIR when true.
    Remove(NodeId, &'a Name, bool),
    /// RENAME, RENAME2 without flags: old entry, new entry.
    Rename(NodeId, &'a Name, NodeId, &'a Name),
    /// SETATTR of times alone.
    SetTimes(NodeId, Times),
    /// OPEN or OPENDIR.
    Open(NodeId, OpenMode),
    /// READ, READDIR or READDIRPLUS of what was opened by a replay.
    Read(NodeId),
}

/// An error that the guest's kernel gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// EPERM: no record asks for this.
    NotAsked,
    /// ENOENT: at this point of the replay the entry is not there (yet, or any more).
    NoEntry,
    /// ESTALE: the guest's dentry stands for another object than the one that the change was about.
    /// The kernel looks the name up again and repeats the call (`retry_estale()`).
    Stale,
}

/// The object that an answer names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Object {
    /// A node that the guest knows. `links` is what to add to its `st_nlink` to have the count of
    /// the moment that is being replayed.
    Known {
        /// The node.
        id: NodeId,
        /// Names lost since, less names won.
        links: i64,
        /// The entry may still lead to it: then the answer is the file server's own.
        here: bool,
    },
    /// The object is not known to the guest, but the entry may still lead to it: then the answer may
    /// make it known. If it does not, a phantom of this type.
    Adopt(FileKind),
    /// An object that is not there any more, or that nobody needs to know: a stand-in of this type
    /// that lasts no longer than the call.
    Phantom(FileKind),
    /// The limbo directory.
    Limbo,
}

/// What to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An error.
    Refused(Refusal),
    /// `fuse_entry_out` of the object.
    Entry(Object),
    /// `fuse_attr_out` of the object.
    Attr(Object),
    /// Success, and a file handle that reads and writes nothing.
    Opened,
    /// Success without a body, or for a read with one that says nothing.
    Done,
}

/// How a replay ends what is under a name: a directory is dead to the guest's kernel by either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It is removed.
    Removed,
    /// Another object comes to the name.
    Replaced,
}
