// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Reconnect`]: helps the guest's kernel to find where a directory hangs.
//!
//! An agent opens directories by handle. The kernel needs a dentry for that, and often has none any
//! more: FUSE drops one that is out of date as soon as nobody uses it (`fuse_dentry_delete()`),
//! though programs watch its inode. It then asks for the parent by LOOKUP of `..`, reads the parent
//! for an entry with the directory's inode number, and looks that name up (`reconnect_one()` and
//! `get_name()` in fs/exportfs). On the host the directory may be renamed or deleted by then, which
//! is just what the agent is about to tell. So these requests of an agent's are answered with what
//! the guest believes, which is in the tree, and without a look at a directory of any size.

use std::ffi::{CStr, CString};
use std::sync::{Mutex, PoisonError};

use farwatch_proto::{Name, NodeId};
use virtiofsd::filesystem::{DirEntry, DirectoryIterator};

use crate::share::Share;

/// `DT_DIR` of `readdir(3)`.
const DT_DIR: u32 = 4;

/// The directory whose place the agent's kernel looks for: it looks for one at a time.
#[derive(Debug, Default)]
pub(super) struct Reconnect(Mutex<Option<NodeId>>);

impl Reconnect {
    /// The agent has asked for the parent of `child`.
    pub(super) fn begin(&self, child: NodeId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    }

    /// Whether it must be looking for its name in `dir` now.
    pub(super) fn names(&self, share: &Share, dir: NodeId) -> bool {
        self.entry(share).is_some_and(|(_, parent, _)| parent == dir)
    }

    /// The node, if this is the entry that it is looking for.
    pub(super) fn found(&self, share: &Share, dir: NodeId, name: &Name) -> Option<NodeId> {
        let (child, parent, known_as) = self.entry(share)?;
        (parent == dir && known_as == *name).then_some(child)
    }

    /// The listing of `dir` from `offset` on: that entry alone.
    pub(super) fn list(&self, share: &Share, dir: NodeId, offset: u64) -> Option<OneEntry> {
        let (child, parent, name) = self.entry(share)?;
        if parent != dir || offset > 0 {
            return None;
        }
        let ino = share.ino(child)?;
        Some(OneEntry { ino, name: CString::new(name.as_bytes()).ok()?, given: false })
    }

    fn entry(&self, share: &Share) -> Option<(NodeId, NodeId, Name)> {
        let child = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let (parent, name) = share.entry_of(child)?;
        Some((child, parent, name))
    }
}

/// A listing with one entry.
#[derive(Debug)]
pub struct OneEntry {
    ino: u64,
    name: CString,
    given: bool,
}

/// A listing of the file server's, or ours.
pub enum Entries<L> {
    /// Of a directory on the host.
    Listed(L),
    /// Of one entry, or none.
    One(Option<OneEntry>),
}

impl<L: DirectoryIterator> DirectoryIterator for Entries<L> {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        match self {
            Self::Listed(listed) => listed.next(),
            Self::One(one) => {
                let one = one.as_mut().filter(|one| !one.given)?;
                one.given = true;
                let name: &CStr = &one.name;
                Some(DirEntry { ino: one.ino, offset: 1, type_: DT_DIR, name })
            }
        }
    }
}
