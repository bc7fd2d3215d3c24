// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of replays: for each event the system call that raises it in the guest, the FUSE requests that
//! the guest's kernel makes of that call, and what the server answers to each.
//!
//! Both sides go by it. An agent takes from it the calls of an event ([`guest::plan`](crate::guest::plan),
//! [`guest::opens`](crate::guest::opens)); the server takes from it which request an event asks for
//! ([`host::Engine::answer`](crate::host::Engine::answer)), and refuses every other. It is the table of
//! `docs/PROTOCOL.md`, section 6.3, which a test compares with it. Arguments are no part of it: the entry,
//! the node and the state of the replay are checked by the server's ledger.

mod modes;
mod table;

pub use modes::{OpenMode, Times};
pub use table::TABLE;

use crate::{FileKind, Mask, NodeId};

/// One row: an event of some objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The bit of the event; both bits of [`Mask::MOVE`] for a rename.
    pub event: Mask,
    /// The objects that the row is about.
    pub objects: Objects,
    /// The call that raises the event.
    pub call: CallKind,
    /// The requests of that call, in the kernel's order, each with its answer. A kernel leaves out what it
    /// knows without asking.
    pub requests: &'static [(RequestKind, AnswerKind)],
}

/// The objects that a row is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objects {
    /// Any.
    Any,
    /// Directories.
    Directories,
    /// Any but directories.
    NoDirectories,
    /// Regular files, and those of an unknown type. To open anything else but a directory would be felt by
    /// others, such as the reader of a FIFO.
    Files,
    /// Symbolic links.
    Symlinks,
    /// What `mknodat(2)` makes: neither a directory nor a symbolic link. An unknown type counts as a regular
    /// file.
    Nodes,
    /// Objects that the guest knows and that had another name before (`link(2)`).
    Linked,
}

/// A system call of an agent's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallKind {
    /// `mknodat(2)`
    Mknod,
    /// `mkdirat(2)`
    Mkdir,
    /// `symlinkat(2)`
    Symlink,
    /// `linkat(2)`
    Link,
    /// `utimensat(2)`, with `UTIME_NOW` for these times and `UTIME_OMIT` for others.
    SetTimes(Times),
    /// `openat(2)` in the mode that the events beside it suggest. The file is kept.
    Open,
    /// A read of what is kept, `pread(2)` or `getdents64(2)`. If nothing is, it is opened in this mode first.
    Read(OpenMode),
    /// `close(2)` of what is kept. If nothing is, it is opened in this mode first.
    Close(OpenMode),
    /// `unlinkat(2)`
    Unlink,
    /// `unlinkat(2)` with `AT_REMOVEDIR`
    Rmdir,
    /// `renameat2(2)` from the old name to the new one.
    Rename,
    /// `renameat2(2)` into the limbo directory.
    RenameOut,
    /// `renameat2(2)` out of the limbo directory.
    RenameIn,
}

/// A request of the guest's kernel, without its arguments. Of a directory OPEN is OPENDIR, READ is READDIR
/// or READDIRPLUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestKind {
    /// LOOKUP of a name that has this part in the replay.
    Lookup(Part),
    /// MKNOD
    Mknod,
    /// MKDIR
    Mkdir,
    /// SYMLINK
    Symlink,
    /// LINK
    Link,
    /// SETATTR of these times and nothing else.
    SetTimes(Times),
    /// OPEN or OPENDIR
    Open(OpenMode),
    /// READ, READDIR or READDIRPLUS
    Read,
    /// FLUSH and RELEASE, or RELEASEDIR. They are served for everybody.
    Close,
    /// UNLINK
    Unlink,
    /// RMDIR
    Rmdir,
    /// RENAME, or RENAME2 without flags, from the old name to the new one.
    Rename,
    /// The same into the limbo directory.
    RenameOut,
    /// The same out of the limbo directory.
    RenameIn,
}

/// What a replay does to a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The entry is about to be made.
    Made,
    /// The entry stays, or is removed.
    Entry,
    /// A rename takes the object from it.
    Old,
    /// A rename brings the object to it.
    New,
}

/// What the server answers to a request that an event asks for. Instead of it, the server may answer ESTALE
/// once: the guest's dentry leads to another object than the one that the event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerKind {
    /// ENOENT
    NoEntry,
    /// The object's entry, or that of a phantom.
    Entry,
    /// ENOENT, or the entry of the object that the rename replaces.
    Replaced,
    /// The object's attributes.
    Attributes,
    /// Success; for an open a file handle that reads and writes nothing.
    Done,
    /// Success, with a byte that says nothing; no entry of a directory.
    Nothing,
}

impl RequestKind {
    /// The request that makes an entry of this type.
    pub const fn create(kind: FileKind) -> Self {
        match kind {
            FileKind::Directory => Self::Mkdir,
            FileKind::Symlink => Self::Symlink,
            FileKind::Unknown
            | FileKind::Fifo
            | FileKind::CharDevice
            | FileKind::BlockDevice
            | FileKind::Regular
            | FileKind::Socket => Self::Mknod,
        }
    }

    /// The request that removes an entry.
    pub const fn remove(directory: bool) -> Self {
        if directory { Self::Rmdir } else { Self::Unlink }
    }

    /// The rename from one directory to another. `None` within the limbo directory.
    pub fn rename(from: NodeId, to: NodeId) -> Option<Self> {
        match (from == NodeId::LIMBO, to == NodeId::LIMBO) {
            (false, false) => Some(Self::Rename),
            (false, true) => Some(Self::RenameOut),
            (true, false) => Some(Self::RenameIn),
            (true, true) => None,
        }
    }
}

impl Row {
    /// Whether the call of this row makes such a request.
    pub fn has(&self, request: RequestKind) -> bool {
        self.requests.iter().any(|(kind, _)| *kind == request)
    }
}

impl Objects {
    /// Whether an object of this type is among them. `linked` is true if the event is about a further name of
    /// an object that the guest knows.
    pub const fn contain(self, kind: FileKind, linked: bool) -> bool {
        let directory = matches!(kind, FileKind::Directory);
        let symlink = matches!(kind, FileKind::Symlink);
        match self {
            Self::Any => true,
            Self::Directories => directory,
            Self::NoDirectories => !directory,
            Self::Files => matches!(kind, FileKind::Regular | FileKind::Unknown),
            Self::Symlinks => symlink && !linked,
            Self::Nodes => !directory && !symlink && !linked,
            Self::Linked => linked,
        }
    }
}

/// The rows that apply to the events of a message about one object, in the order of [`TABLE`], which is the
/// order in which they are replayed.
pub fn rows(events: Mask, kind: FileKind, linked: bool) -> impl Iterator<Item = &'static Row> {
    let applies = move |row: &&Row| events.contains(row.event) && row.objects.contain(kind, linked);
    TABLE.iter().filter(applies)
}

/// Those of some events whose replay makes such a request. A rename is one event, of both bits.
pub fn asking(events: Mask, request: RequestKind) -> Mask {
    let asks = |row: &&Row| events.contains(row.event) && row.has(request);
    TABLE.iter().filter(asks).map(|row| row.event).collect()
}
