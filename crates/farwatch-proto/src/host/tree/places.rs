// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Objects that have several nodes, since the share reaches them in several places: a part of it is
//! mounted again in another (`mount --bind`). What happens to such an object happens to each of its
//! nodes, and each is to be told where it is. The tree knows of no mounts; but what is in one place
//! hangs together below where that is mounted, so of several nodes the nearest one is meant.
//!
//! Of a node it may be told that it is mounted on its name: then nothing that happens to the name
//! happens to it.

use std::cmp::Reverse;
use std::iter::successors;

use super::Tree;
use super::store::Flags;
use crate::{Fid, FileKind, Name, NodeId, Submount};

/// How many directories up one place is compared with another. What the guest believes may be a loop,
/// as long as it has not heard of all that was moved.
const DEPTH_MAX: usize = 256;

impl Tree {
    /// The node of an object of that type in the place where this entry is, whether the entry leads to
    /// it or not. `None` when the guest knows it from other places alone.
    pub fn node_at(&self, fid: &Fid, kind: FileKind, dir: NodeId, name: &Name) -> Option<NodeId> {
        let first = self.node_of(fid, kind)?;
        let (nodes, dirs) = (self.nodes_of(fid), self.places_of(dir));
        if nodes.len() < 2 && dirs.len() < 2 {
            return Some(first);
        }
        let told = self.told(dir, name);
        if let Some(id) = told.iter().rev().find(|id| nodes.contains(id)) {
            return Some(*id);
        }
        let here = self.path(dir);
        let is_here = |at: &Vec<NodeId>| self.nearest(dirs, at) == Some(dir);
        let near = |id: &NodeId| self.paths_to(*id).map(|at| common(&at, &here)).max();
        // The first of those that are equally near.
        let id = nodes.iter().copied().rev().max_by_key(near)?;
        if self.paths_to(id).any(|at| is_here(&at)) {
            return Some(id);
        }
        // One that was moved out of view may come back.
        nodes.iter().copied().find(|id| self.entry(*id).is_none())
    }

    /// A node is mounted on the name that the guest knows it by. Mounts come and go without an event;
    /// what has happened to a name has happened to what is beneath.
    pub fn mounted(&mut self, id: NodeId) {
        if let Some(node) = self.store.get_mut(id) {
            node.set(Flags::MOUNTED, true);
        }
    }

    /// Whether a node is mounted on its name.
    pub(in super::super) fn is_mounted(&self, id: NodeId) -> bool {
        self.store.get(id).is_some_and(|node| node.is(Flags::MOUNTED))
    }

    /// Whether a directory is in what is mounted on one of the directories above it, or is mounted itself.
    pub(in super::super) fn is_in_mount(&self, dir: NodeId) -> bool {
        self.with_those_above(dir).any(|dir| self.is_mounted(dir))
    }

    /// The guest's kernel was told that a node is mounted on its name (`FUSE_ATTR_SUBMOUNT`): it makes a superblock for
    /// what is mounted, and gives its root generation 0 (`fuse_fill_super_submount()`). For the life of a node that does
    /// not change.
    pub(in super::super) fn announced(&mut self, id: NodeId) {
        if self.knows(id) {
            self.announced.insert(id);
        }
    }

    /// Whether a node is the root of an announced submount.
    pub(in super::super) fn is_announced(&self, id: NodeId) -> bool {
        self.announced.contains(&id)
    }

    /// The announced submount that a node is in, or whose root it is. `None` if it is in the superblock of the share itself.
    pub(in super::super) fn submount_of(&self, id: NodeId) -> Option<Submount> {
        if self.announced.is_empty() {
            return None;
        }
        self.with_those_above(id).find(|id| self.is_announced(*id)).map(Submount::of)
    }

    /// Whether an announced submount is on this directory or below it.
    pub(in super::super) fn has_submount(&self, dir: NodeId) -> bool {
        self.announced.iter().any(|root| self.with_those_above(*root).any(|above| above == dir))
    }

    /// A node, and the directories above it.
    fn with_those_above(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        successors(Some(id), |id| self.parent(*id)).take(DEPTH_MAX)
    }

    /// The nodes of [`Tree::told`] to which that can have happened.
    pub(in super::super) fn held(&self, dir: NodeId, name: &Name) -> impl Iterator<Item = NodeId> {
        self.told(dir, name).iter().copied().filter(|id| !self.is_mounted(*id))
    }

    /// Whether one directory is in the place where another is. Most directories are in one place only,
    /// and so in everybody's.
    pub(in super::super) fn is_beside(&self, dir: NodeId, other: NodeId) -> bool {
        let dirs = self.places_of(dir);
        if dirs.len() < 2 {
            return true;
        }
        self.nearest(dirs, &self.path(other)) == Some(dir)
    }

    /// Which directory of one side of a rename belongs to which of the other: those in one place.
    /// A side that is left is a plain half.
    pub(in super::super) fn pairs(
        &self,
        from: &[NodeId],
        to: &[NodeId],
    ) -> Vec<(Option<NodeId>, Option<NodeId>)> {
        let [mut from, mut to] = [from, to]
            .map(|side| side.iter().map(|dir| (*dir, self.path(*dir))).collect::<Vec<_>>());
        let mut pairs = Vec::new();
        while !from.is_empty() && !to.is_empty() {
            let all = (0..from.len()).flat_map(|one| (0..to.len()).map(move |two| (one, two)));
            let near = |&(one, two): &(usize, usize)| Reverse(common(&from[one].1, &to[two].1));
            let Some((one, two)) = all.min_by_key(near) else { break };
            pairs.push((Some(from.remove(one).0), Some(to.remove(two).0)));
        }
        pairs.extend(from.into_iter().map(|(dir, _)| (Some(dir), None)));
        pairs.extend(to.into_iter().map(|(dir, _)| (None, Some(dir))));
        pairs
    }

    /// The nodes of a directory, in each place where it is.
    fn places_of(&self, dir: NodeId) -> &[NodeId] {
        self.fid(dir).map_or(&[], |fid| self.nodes_of(&fid))
    }

    /// The first of the directories that are nearest to the end of a path.
    fn nearest(&self, dirs: &[NodeId], path: &[NodeId]) -> Option<NodeId> {
        dirs.iter().copied().rev().max_by_key(|dir| common(&self.path(*dir), path))
    }

    /// The directories from the root to each in which a node has a name.
    fn paths_to(&self, id: NodeId) -> impl Iterator<Item = Vec<NodeId>> {
        self.store.names(id).map(|(dir, _)| self.path(dir))
    }

    /// The directories from the root to this one.
    fn path(&self, dir: NodeId) -> Vec<NodeId> {
        let mut path: Vec<_> = self.with_those_above(dir).collect();
        path.reverse();
        path
    }
}

/// How many directories two paths have in common.
fn common(one: &[NodeId], two: &[NodeId]) -> usize {
    one.iter().zip(two).take_while(|(one, two)| one == two).count()
}
