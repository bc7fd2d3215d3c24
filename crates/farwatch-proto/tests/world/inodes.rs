// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The inodes of the guest's kernel, and what it believes of their attributes (`fs/fuse/inode.c`).

use std::time::Duration;

use farwatch_proto::{FileKind, NodeId};

use crate::dcache::{DentryId, EntryOut, Inode, Kernel};

impl Kernel {
    /// `fuse_iget()`: one more reference.
    pub(crate) fn iget(&mut self, entry: &EntryOut, asked: u64) {
        let new = || Inode {
            kind: entry.kind,
            nlink: entry.nlink,
            nlookup: 0,
            attr_version: 0,
            attr_until: Duration::ZERO,
            dead: false,
            aliases: Vec::new(),
            children: 0,
            watched: false,
            interest: false,
        };
        let inode = self.inodes.entry(entry.node).or_insert_with(new);
        if entry.node != NodeId::ROOT {
            inode.nlookup += 1;
        }
        self.change_attributes(entry.node, entry.nlink, entry.attr_timeout, asked);
    }

    /// `fuse_get_attr_version()`: to be asked before a request is sent.
    pub(crate) fn attr_version(&self) -> u64 {
        self.attr_version
    }

    /// `fuse_change_attributes()`: an answer from before the kernel changed them itself is old.
    pub(crate) fn change_attributes(
        &mut self,
        node: NodeId,
        nlink: u32,
        timeout: Duration,
        asked: u64,
    ) {
        let Some(inode) = self.inodes.get_mut(&node) else { return };
        if asked != 0 && inode.attr_version > asked {
            inode.attr_until = Duration::ZERO;
            return;
        }
        self.attr_version += 1;
        inode.attr_version = self.attr_version;
        inode.attr_until = self.now.saturating_add(timeout);
        inode.nlink = nlink;
    }

    /// `fuse_change_entry_timeout()`
    pub(crate) fn set_timeout(&mut self, id: DentryId, timeout: Duration) {
        let until =
            if timeout.is_zero() { Duration::ZERO } else { self.now.saturating_add(timeout) };
        self.dentries.get_mut(&id).expect("it is referred to").until = until;
    }

    /// `fuse_entry_unlinked()`
    pub(crate) fn unlinked(&mut self, id: DentryId) {
        let dentry = self.dentries.get_mut(&id).expect("it is referred to");
        dentry.until = Duration::ZERO;
        let node = dentry.inode.expect("something was unlinked");
        let inode = self.inodes.get_mut(&node).expect("a dentry leads to it");
        self.attr_version += 1;
        inode.attr_version = self.attr_version;
        inode.attr_until = Duration::ZERO;
        inode.nlink = match inode.kind {
            FileKind::Directory => 0,
            FileKind::Unknown
            | FileKind::Fifo
            | FileKind::CharDevice
            | FileKind::BlockDevice
            | FileKind::Regular
            | FileKind::Symlink
            | FileKind::Socket => inode.nlink.saturating_sub(1),
        };
    }
}
