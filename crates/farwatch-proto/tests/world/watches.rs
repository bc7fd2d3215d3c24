// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest's kernel reports to the programs that watch there by inotify
//! (`include/linux/fsnotify.h`). They read at once, so no two events are merged.

use farwatch_proto::{FileKind, Mask, Name, NodeId};

use crate::dcache::{DentryId, Inode, Kernel};

/// An event of inotify's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) step: u64,
    /// What is watched.
    pub(crate) watch: NodeId,
    pub(crate) mask: Mask,
    pub(crate) name: Option<Name>,
    pub(crate) cookie: u32,
    /// `IN_DELETE_SELF`, `IN_MOVE_SELF` and `IN_IGNORED`, which a host's watcher never asks for.
    pub(crate) end: Option<&'static str>,
}

impl Kernel {
    pub(crate) fn raise_end(&mut self, watch: NodeId, end: &'static str) {
        let (mask, name, cookie) = (Mask::empty(), None, 0);
        self.events.push(Event { step: self.step, watch, mask, name, cookie, end: Some(end) });
    }

    /// An event of an entry, to those who watch its directory.
    pub(crate) fn raise(&mut self, dir: NodeId, name: &Name, mask: Mask, cookie: u32) {
        if self.inode(dir).is_some_and(|inode| inode.watched) {
            let (name, end) = (Some(name.clone()), None);
            self.events.push(Event { step: self.step, watch: dir, mask, name, cookie, end });
        }
    }

    /// An event of an object, to those who watch it.
    pub(crate) fn raise_itself(&mut self, node: NodeId, mask: Mask) {
        if self.inode(node).is_some_and(|inode| inode.watched) {
            let (name, cookie, end) = (None, 0, None);
            self.events.push(Event { step: self.step, watch: node, mask, name, cookie, end });
        }
    }

    /// `__fsnotify_parent()`: to both.
    pub(crate) fn raise_both(&mut self, id: DentryId, mask: Mask) {
        let dentry = self.dentry(id);
        let (parent, name, inode) = (dentry.parent, dentry.name.clone(), dentry.inode);
        let isdir = inode.map_or(Mask::empty(), |node| self.isdir(node));
        if let Some(parent) = parent {
            self.raise(parent, &name, mask | isdir, 0);
        }
        if let Some(node) = inode {
            self.raise_itself(node, mask | isdir);
        }
    }

    /// `fsnotify_move()`
    pub(crate) fn raise_move(
        &mut self,
        from: (NodeId, &Name),
        id: DentryId,
        replaced: Option<NodeId>,
    ) {
        self.cookie += 1;
        let cookie = self.cookie;
        let dentry = self.dentry(id);
        let (to, name) = (dentry.parent.expect("it was moved there"), dentry.name.clone());
        let node = dentry.inode.expect("it was moved");
        let isdir = self.isdir(node);
        self.raise(from.0, from.1, Mask::MOVED_FROM | isdir, cookie);
        self.raise(to, &name, Mask::MOVED_TO | isdir, cookie);
        if let Some(replaced) = replaced {
            self.raise_itself(replaced, Mask::ATTRIB);
        }
        if self.inode(node).is_some_and(|inode| inode.watched) {
            self.raise_end(node, "MOVE_SELF");
        }
    }

    /// Every watch is removed.
    pub(crate) fn unwatch_all(&mut self) {
        self.inodes.values_mut().for_each(|inode| inode.watched = false);
    }

    pub(crate) fn isdir(&self, node: NodeId) -> Mask {
        match self.inode(node) {
            Some(Inode { kind: FileKind::Directory, .. }) => Mask::ISDIR,
            Some(_) | None => Mask::empty(),
        }
    }
}
