// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's kernel that raises the events itself (`kernel/`, `fs/fuse/fsnotify.c`): names change under the lock of
//! their directory, what is cached of an object is given up first, and only what is watched is asked for.

use farwatch_proto::{Entry, FileKind, GuestEvent, Mask, Name, Node, NodeId};

use crate::dcache::DentryId;
use crate::sim::{Lock, World};
use crate::vfs::{Caller, Held, Side};

/// How often the links of an object are asked for.
const ASKS_MAX: u32 = 4;

impl World {
    /// Before a program's mark is set: the server is told, and then asked for the object's links, which a notification
    /// may have changed while nobody watched.
    pub(crate) async fn watch_natively(&self, node: NodeId) {
        if let Some(inode) = self.kernel().inodes.get_mut(&node) {
            inode.interest = true;
        }
        self.server.borrow_mut().watch(node);
        self.step().await;
        self.update_links(node).await;
        self.step().await;
    }

    /// The count of links as the server has it: none if it has not the object any more. The kernel drops a reply when
    /// it has had another since it asked, which can be older: then it asks again.
    async fn update_links(&self, node: NodeId) {
        for _ in 0..ASKS_MAX {
            let gone = self.fuse_getattr(Caller::Program, node).await.is_err();
            let mut kernel = self.kernel();
            let Some(inode) = kernel.inodes.get_mut(&node) else { return };
            if gone {
                inode.nlink = 0;
            }
            if gone || !inode.attr_until.is_zero() {
                return;
            }
        }
    }

    pub(crate) async fn raise(&self, event: GuestEvent) {
        match event {
            GuestEvent::Object { node, .. } if node.id.is_reserved() => {
                self.server.borrow_mut().probed(node.id);
            }
            GuestEvent::Object { node, mask } => self.raise_object(node.id, mask),
            GuestEvent::Entry { child: Some(child), .. } if event.is_end() => {
                self.raise_end_of(child.id).await;
            }
            GuestEvent::Entry { entry, mask, child, link, .. } => {
                for event in Mask::ORDER.into_iter().chain([Mask::MOVED_FROM, Mask::MOVED_TO]) {
                    if mask.contains(event) {
                        let mask = event | mask.intersection(Mask::ISDIR);
                        self.raise_entry(&entry, mask, child, link).await;
                        self.step().await;
                    }
                }
            }
            GuestEvent::Rename { from, to, child, kind } => {
                let directory = kind == FileKind::Directory;
                let isdir = if directory { Mask::ISDIR } else { Mask::empty() };
                self.raise_rename(&from, &to, child, isdir).await;
            }
            GuestEvent::Overflow => {}
        }
    }

    /// An event of an object alone.
    fn raise_object(&self, node: NodeId, mask: Mask) {
        self.outdate(node);
        let alias = self.kernel().alias(node);
        for event in Mask::ORDER {
            if mask.contains(event) {
                match alias {
                    Some(alias) => self.kernel().raise_both(alias, event),
                    None => self.kernel().raise_itself(node, event),
                }
            }
        }
    }

    /// What is known of its attributes is not to be used (`fuse_invalidate_attr()`).
    fn outdate(&self, node: NodeId) {
        if let Some(inode) = self.kernel().inodes.get_mut(&node) {
            inode.attr_until = std::time::Duration::ZERO;
        }
    }

    async fn raise_entry(&self, entry: &Entry, mask: Mask, child: Option<Node>, link: bool) {
        let (dir, name) = (entry.dir.id, &entry.name);
        if self.kernel().inode(dir).is_none() {
            return;
        }
        let child = child.map(|child| child.id);
        if !mask.intersects(Mask::CREATE | Mask::DELETE | Mask::MOVE) {
            self.raise_content((dir, name), mask, child);
            return;
        }
        let _lock = self.lock(Lock::Dir(dir)).await;
        if self.is_dead(dir) {
            return;
        }
        self.dir_changed(dir);
        if mask.intersects(Mask::CREATE | Mask::MOVED_TO) {
            let replaced = self.arrived((dir, name), child).await;
            if mask.contains(Mask::CREATE) {
                self.raise_link(child.filter(|_| link));
            }
            self.kernel().raise(dir, name, mask, 0);
            self.end_if_gone(replaced);
        } else {
            let left = self.left((dir, name), child);
            if mask.contains(Mask::DELETE) {
                if let Some(node) = child {
                    self.lost_name(node, mask).await;
                }
                drop(left);
                self.end_if_gone(child);
            }
            self.kernel().raise(dir, name, mask, 0);
        }
        if mask.intersects(Mask::MOVE)
            && let Some(node) = child
        {
            self.move_self(node);
        }
    }

    fn raise_content(&self, (dir, name): Side<'_>, mask: Mask, child: Option<NodeId>) {
        if let Some(node) = child {
            self.outdate(node);
            self.kernel().raise_itself(node, mask);
        }
        self.kernel().raise(dir, name, mask, 0);
    }

    fn raise_link(&self, child: Option<NodeId>) {
        if let Some(node) = child {
            self.outdate(node);
            self.kernel().raise_itself(node, Mask::ATTRIB);
        }
    }

    fn move_self(&self, node: NodeId) {
        let watched = self.kernel().inode(node).is_some_and(|inode| inode.watched);
        if watched {
            self.kernel().raise_end(node, "MOVE_SELF");
        }
    }

    /// What the kernel has under a name, held.
    fn cached(&self, (dir, name): Side<'_>) -> Option<(Held<'_>, Option<NodeId>)> {
        let id = self.kernel().lookup(dir, name)?;
        let held = self.hold(id);
        let node = held.node();
        Some((held, node))
    }

    /// An object comes to a name: a dentry of anything else is not to be found any more. Returns what was replaced.
    async fn arrived(&self, at: Side<'_>, child: Option<NodeId>) -> Option<NodeId> {
        let (held, node) = self.cached(at)?;
        if node.is_some() && node == child {
            return None;
        }
        self.unhash(&held);
        drop(held);
        if let Some(node) = node {
            let isdir = self.kernel().isdir(node);
            self.lost_name(node, isdir).await;
        }
        node
    }

    /// An object has left a name: its dentry is not to be found any more, and the one of a later object stays.
    fn left(&self, at: Side<'_>, child: Option<NodeId>) -> Option<Held<'_>> {
        let (held, node) = self.cached(at)?;
        if node.is_none() || (child.is_some() && node != child) {
            return None;
        }
        self.unhash(&held);
        Some(held)
    }

    fn unhash(&self, held: &Held<'_>) {
        let mut kernel = self.kernel();
        kernel.invalidate(held.id);
    }

    /// A name was taken from an object: what the server says of its links counts.
    async fn lost_name(&self, node: NodeId, mask: Mask) {
        let watched = {
            let kernel = self.kernel();
            let Some(inode) = kernel.inode(node) else { return };
            inode.watched || inode.interest
        };
        self.outdate(node);
        let directory = mask.contains(Mask::ISDIR);
        if watched && !directory {
            self.kernel().raise_itself(node, Mask::ATTRIB);
        }
        if !watched && !directory {
            return;
        }
        self.update_links(node).await;
        let dead = self.kernel().inode(node).is_some_and(|inode| inode.nlink == 0);
        if dead && directory {
            self.kernel().shrink(node);
            self.kernel().bury(node);
        }
    }

    /// The watches on what has no name and no links end.
    fn end_if_gone(&self, node: Option<NodeId>) {
        let Some(node) = node else { return };
        let aliases = {
            let kernel = self.kernel();
            let Some(inode) = kernel.inode(node).filter(|inode| inode.nlink == 0) else { return };
            inode.aliases.clone()
        };
        for id in aliases {
            self.forget_name(id);
        }
        let mut kernel = self.kernel();
        if kernel.inode(node).is_some_and(|inode| inode.aliases.is_empty()) {
            kernel.inoderemove(node);
            kernel.iput(node);
        }
    }

    fn forget_name(&self, id: DentryId) {
        self.kernel().get(id);
        let held = self.hold(id);
        self.unhash(&held);
    }

    /// The end of a node (`docs/PROTOCOL.md`, 6.5).
    async fn raise_end_of(&self, node: NodeId) {
        if self.kernel().inode(node).is_none() {
            return;
        }
        self.update_links(node).await;
        self.end_if_gone(Some(node));
    }

    async fn raise_rename(&self, from: &Entry, to: &Entry, child: Option<Node>, isdir: Mask) {
        let (from, to): (Side<'_>, Side<'_>) = ((from.dir.id, &from.name), (to.dir.id, &to.name));
        let known = [from, to].map(|(dir, _)| self.kernel().inode(dir).is_some());
        if known != [true, true] {
            for ((dir, name), mask) in [(from, Mask::MOVED_FROM), (to, Mask::MOVED_TO)] {
                let entry = Entry { dir: Node { id: dir, ..Node::ROOT }, name: Name::clone(name) };
                self.raise_entry(&entry, mask | isdir, child, false).await;
            }
            return;
        }
        let child = child.map(|child| child.id);
        let _locks = self.lock_rename(from.0, to.0).await;
        self.dir_changed(from.0);
        self.dir_changed(to.0);
        let old = self.left(from, child);
        drop(old);
        let replaced = self.arrived(to, child).await;
        let mut kernel = self.kernel();
        kernel.cookie += 1;
        let cookie = kernel.cookie;
        kernel.raise(from.0, from.1, Mask::MOVED_FROM | isdir, cookie);
        kernel.raise(to.0, to.1, Mask::MOVED_TO | isdir, cookie);
        drop(kernel);
        self.end_if_gone(replaced);
        if let Some(node) = child {
            self.move_self(node);
        }
    }
}
