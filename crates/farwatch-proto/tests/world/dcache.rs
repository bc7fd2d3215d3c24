// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Kernel`]: the caches of the guest's kernel, and the watches of its programs. The functions have
//! the names of the kernel's own (`fs/dcache.c`, `fs/fuse/dir.c`, `fs/fuse/inode.c`); what waits for
//! locks or the server is in `vfs`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use farwatch_proto::{FileKind, Name, NodeId};

use crate::config::Config;
use crate::watches::Event;

/// Which dentry.
pub(crate) type DentryId = u64;

/// What the server says of an object (`fuse_entry_out`).
#[derive(Clone, Copy)]
pub(crate) struct EntryOut {
    pub(crate) node: NodeId,
    pub(crate) kind: FileKind,
    pub(crate) nlink: u32,
    pub(crate) entry_timeout: Duration,
    pub(crate) attr_timeout: Duration,
}

impl fmt::Debug for EntryOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, kind, nlink, entry_timeout, attr_timeout } = self;
        write!(f, "{node} {kind:?} nlink {nlink} for {entry_timeout:?}, {attr_timeout:?}")
    }
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) kind: FileKind,
    /// `i_nlink`, as the server said last.
    pub(crate) nlink: u32,
    pub(crate) nlookup: u64,
    /// `fi->attr_version`
    pub(crate) attr_version: u64,
    /// `fi->i_time`
    pub(crate) attr_until: Duration,
    /// `S_DEAD`
    pub(crate) dead: bool,
    pub(crate) aliases: Vec<DentryId>,
    /// Dentries whose parent this is.
    pub(crate) children: usize,
    /// A program watches it.
    pub(crate) watched: bool,
    /// The server knows that it is watched, or is about to be (FUSE_FSNOTIFY).
    pub(crate) interest: bool,
}

#[derive(Debug)]
pub(crate) struct Dentry {
    /// `None`: of the root, or of a directory of which it is not known where it is
    /// (`d_obtain_alias()`).
    pub(crate) parent: Option<NodeId>,
    pub(crate) name: Name,
    pub(crate) inode: Option<NodeId>,
    /// `d_time`: what is known of it may be used before.
    pub(crate) until: Duration,
    hashed: bool,
    refs: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) inodes: BTreeMap<NodeId, Inode>,
    pub(crate) dentries: BTreeMap<DentryId, Dentry>,
    hash: BTreeMap<(NodeId, Name), DentryId>,
    last: DentryId,
    /// `fc->attr_version`
    pub(crate) attr_version: u64,
    /// FORGETs that wait for the server.
    pub(crate) forgets: VecDeque<(NodeId, u64)>,
    /// References that are never given back.
    pub(crate) leaked: Vec<(NodeId, u64)>,
    pub(crate) events: Vec<Event>,
    pub(crate) cookie: u32,
    deletes_stale: bool,
    /// The time, and the step that is being made ([`World::kernel`](crate::sim::World::kernel)).
    pub(crate) now: Duration,
    pub(crate) step: u64,
}

impl Kernel {
    pub(crate) fn new(config: &Config) -> Self {
        let mut kernel = Self {
            inodes: BTreeMap::new(),
            dentries: BTreeMap::new(),
            hash: BTreeMap::new(),
            last: 0,
            attr_version: 1,
            forgets: VecDeque::new(),
            leaked: Vec::new(),
            events: Vec::new(),
            cookie: 0,
            deletes_stale: config.deletes_stale,
            now: Duration::ZERO,
            step: 0,
        };
        let root = kernel.alloc(None, Name::parse(b"root").expect("a name"));
        let entry = EntryOut {
            node: NodeId::ROOT,
            kind: FileKind::Directory,
            nlink: 2,
            entry_timeout: Duration::MAX,
            attr_timeout: Duration::ZERO,
        };
        kernel.iget(&entry, 0);
        kernel.instantiate(root, NodeId::ROOT);
        kernel
    }

    pub(crate) fn dentry(&self, id: DentryId) -> &Dentry {
        &self.dentries[&id]
    }

    pub(crate) fn inode(&self, node: NodeId) -> Option<&Inode> {
        self.inodes.get(&node)
    }

    /// A reference on what a name is known to lead to (`d_lookup()`).
    pub(crate) fn lookup(&mut self, dir: NodeId, name: &Name) -> Option<DentryId> {
        let id = *self.hash.get(&(dir, name.clone()))?;
        self.get(id);
        Some(id)
    }

    /// `dget()`
    pub(crate) fn get(&mut self, id: DentryId) {
        self.dentries.get_mut(&id).expect("it is referred to").refs += 1;
    }

    /// `d_alloc()`: a new one, which is not found yet.
    pub(crate) fn alloc(&mut self, parent: Option<NodeId>, name: Name) -> DentryId {
        self.last += 1;
        if let Some(parent) = parent {
            self.inodes.get_mut(&parent).expect("it has this child").children += 1;
        }
        let (inode, until, hashed, refs) = (None, Duration::ZERO, false, 1);
        self.dentries.insert(self.last, Dentry { parent, name, inode, until, hashed, refs });
        self.last
    }

    fn instantiate(&mut self, id: DentryId, node: NodeId) {
        self.inodes.get_mut(&node).expect("it was got").aliases.push(id);
        self.dentries.get_mut(&id).expect("it is referred to").inode = Some(node);
    }

    /// `d_add()`: it is found from now on, and leads to an inode or to nothing.
    pub(crate) fn add(&mut self, id: DentryId, node: Option<NodeId>) {
        if let Some(node) = node {
            self.instantiate(id, node);
        }
        self.rehash(id);
    }

    fn rehash(&mut self, id: DentryId) {
        let dentry = self.dentries.get_mut(&id).expect("it is referred to");
        let Some(parent) = dentry.parent else { return };
        dentry.hashed = true;
        if let Some(other) = self.hash.insert((parent, dentry.name.clone()), id)
            && other != id
        {
            panic!("two dentries of {parent}/{:?} are found", self.dentries[&id].name);
        }
    }

    /// `d_drop()`: it is found no more.
    pub(crate) fn drop_dentry(&mut self, id: DentryId) {
        let dentry = self.dentries.get_mut(&id).expect("it is referred to");
        if std::mem::take(&mut dentry.hashed)
            && let Some(parent) = dentry.parent
        {
            self.hash.remove(&(parent, dentry.name.clone()));
        }
    }

    /// `d_invalidate()`: it is found no more, nor is what is below and not in use.
    pub(crate) fn invalidate(&mut self, id: DentryId) {
        if !self.dentry(id).hashed {
            return;
        }
        self.drop_dentry(id);
        if let Some(node) = self.dentry(id).inode {
            self.shrink(node);
        }
    }

    /// `shrink_dcache_parent()`
    pub(crate) fn shrink(&mut self, dir: NodeId) {
        let below =
            |(id, dentry): (&DentryId, &Dentry)| (dentry.parent == Some(dir)).then_some(*id);
        if self.inode(dir).is_none_or(|inode| inode.children == 0) {
            return;
        }
        let children: Vec<_> = self.dentries.iter().filter_map(below).collect();
        for id in children {
            if let Some(node) = self.dentries.get(&id).and_then(|dentry| dentry.inode) {
                self.shrink(node);
            }
            if self.dentries.get(&id).is_some_and(|dentry| dentry.refs == 0)
                && !self.has_children(id)
            {
                self.kill(id);
            }
        }
    }

    fn has_children(&self, id: DentryId) -> bool {
        let inode = self.dentry(id).inode.and_then(|node| self.inode(node));
        inode.is_some_and(|inode| inode.kind == FileKind::Directory && inode.children > 0)
    }

    /// `dput()`: a dentry that is hashed and up to date stays.
    pub(crate) fn put(&mut self, id: DentryId) {
        self.dentries.get_mut(&id).expect("it is referred to").refs -= 1;
        if !self.is_retained(id) {
            self.kill(id);
        }
    }

    /// Whether a dentry is in use, or is kept for later (`retain_dentry()`).
    fn is_retained(&self, id: DentryId) -> bool {
        let dentry = self.dentry(id);
        // `fuse_dentry_settime()` asks for `fuse_dentry_delete()` where nothing is to be kept.
        let stale = self.deletes_stale && dentry.until.is_zero();
        let root = dentry.parent.is_none() && dentry.inode == Some(NodeId::ROOT);
        dentry.refs > 0 || (dentry.hashed && !stale) || root || self.has_children(id)
    }

    /// `__dentry_kill()`
    fn kill(&mut self, id: DentryId) {
        self.drop_dentry(id);
        let dentry = self.dentries.remove(&id).expect("it is referred to");
        if let Some(node) = dentry.inode {
            self.unlink_inode(id, node);
        }
        if let Some(parent) = dentry.parent {
            self.lose_child(parent);
        }
    }

    /// A child has a reference on its parent.
    fn lose_child(&mut self, parent: NodeId) {
        let above = self.inodes.get_mut(&parent).expect("it has this child");
        above.children -= 1;
        for alias in above.aliases.clone() {
            if !self.is_retained(alias) {
                self.kill(alias);
            }
        }
        self.evict_unused(parent);
    }

    /// `dentry_unlink_inode()`: this ends the watches on a file without a name.
    fn unlink_inode(&mut self, id: DentryId, node: NodeId) {
        let inode = self.inodes.get_mut(&node).expect("a dentry leads to it");
        inode.aliases.retain(|alias| *alias != id);
        if inode.nlink == 0 {
            self.inoderemove(node);
        }
        self.evict_unused(node);
    }

    /// `fsnotify_inoderemove()`
    pub(crate) fn inoderemove(&mut self, node: NodeId) {
        let inode = self.inodes.get_mut(&node).expect("a dentry led to it");
        if std::mem::take(&mut inode.watched) {
            for end in ["DELETE_SELF", "IGNORED"] {
                self.raise_end(node, end);
            }
        }
    }

    /// `S_DEAD`
    pub(crate) fn bury(&mut self, dir: NodeId) {
        if let Some(inode) = self.inodes.get_mut(&dir) {
            inode.dead = true;
        }
    }

    /// `iput()`
    pub(crate) fn iput(&mut self, node: NodeId) {
        self.evict_unused(node);
    }

    /// `iput_final()`: an inode without a name cannot be found again.
    fn evict_unused(&mut self, node: NodeId) {
        let Some(inode) = self.inodes.get(&node) else { return };
        if inode.is_unused() && inode.nlink == 0 {
            self.evict(node);
        }
    }

    /// `fuse_evict_inode()`
    fn evict(&mut self, node: NodeId) {
        let inode = self.inodes.remove(&node).expect("it is there");
        if inode.nlookup > 0 {
            self.forgets.push_back((node, inode.nlookup));
        }
    }

    /// Memory is short, or 3 was written to `drop_caches`.
    pub(crate) fn drop_caches(&mut self) {
        loop {
            let unused = |(id, dentry): (&DentryId, &Dentry)| {
                let root = dentry.inode == Some(NodeId::ROOT);
                (dentry.refs == 0 && !root && !self.has_children(*id)).then_some(*id)
            };
            let Some(id) = self.dentries.iter().find_map(unused) else { break };
            self.kill(id);
        }
        let unused = |(node, inode): (&NodeId, &Inode)| inode.is_unused().then_some(*node);
        let unused: Vec<_> = self.inodes.iter().filter_map(unused).collect();
        unused.into_iter().for_each(|node| self.evict(node));
    }

    /// `d_delete()`
    pub(crate) fn delete(&mut self, id: DentryId) {
        let alone = self.dentry(id).refs == 1 && !self.has_children(id);
        if !alone {
            self.drop_dentry(id);
            return;
        }
        let dentry = self.dentries.get_mut(&id).expect("it is referred to");
        if let Some(node) = dentry.inode.take() {
            self.unlink_inode(id, node);
        }
    }

    /// `d_move()`: the target is no longer found, and keeps its parent and name.
    pub(crate) fn d_move(&mut self, id: DentryId, target: DentryId) {
        self.drop_dentry(id);
        self.drop_dentry(target);
        let (to, name) = {
            let target = self.dentry(target);
            (target.parent.expect("only what is in a directory is replaced"), target.name.clone())
        };
        let dentry = self.dentries.get_mut(&id).expect("it is referred to");
        dentry.name = name;
        let from = dentry.parent.replace(to);
        self.inodes.get_mut(&to).expect("it is referred to").children += 1;
        if let Some(from) = from {
            self.lose_child(from);
        }
        self.rehash(id);
    }

    /// `d_exchange()`
    pub(crate) fn d_exchange(&mut self, one: DentryId, two: DentryId) {
        self.drop_dentry(one);
        self.drop_dentry(two);
        let place = |dentry: &Dentry| (dentry.parent, dentry.name.clone());
        let (first, second) = (place(self.dentry(one)), place(self.dentry(two)));
        for (id, (parent, name)) in [(one, second), (two, first)] {
            let dentry = self.dentries.get_mut(&id).expect("it is referred to");
            (dentry.parent, dentry.name) = (parent, name);
        }
        self.rehash(one);
        self.rehash(two);
    }

    /// `__d_find_any_alias()`
    pub(crate) fn alias(&self, node: NodeId) -> Option<DentryId> {
        self.inode(node)?.aliases.first().copied()
    }

    /// The known ancestors of a directory, itself first.
    pub(crate) fn above(&self, dir: NodeId) -> Vec<NodeId> {
        let parent = |dir: &NodeId| self.dentry(self.alias(*dir)?).parent;
        std::iter::successors(Some(dir), parent).collect()
    }
}

impl Inode {
    fn is_unused(&self) -> bool {
        self.aliases.is_empty() && self.children == 0 && !self.watched
    }
}
