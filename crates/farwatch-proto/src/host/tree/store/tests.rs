// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a store costs, and that nothing of it is left when all is forgotten.

use super::super::{Learned, Tree};
use super::*;
use crate::Generation;

const DIRS: u64 = 2_000;
const FILES: u64 = 10;

impl Store {
    /// How much memory is set aside for what is in it.
    fn bytes(&self) -> usize {
        let dirs = self.nodes.iter().filter_map(|(_, node)| node.dir.as_ref());
        let in_dirs = dirs.map(|dir| size_of::<Dir>() + dir.entries.bytes());
        let elsewhere = [self.several.len(), self.special.len(), self.names.len()];
        assert_eq!(elsewhere, [0; 3], "what is counted is all there is");
        let indexes = self.by_id.bytes() + self.by_fid.bytes();
        self.nodes.bytes() + self.entries.bytes() + indexes + in_dirs.sum::<usize>()
    }
}

fn id(number: u64) -> NodeId {
    NodeId::new(number).unwrap()
}

fn fid(number: u64) -> Fid {
    Fid::new([1, 2], 1, &number.to_le_bytes()).unwrap()
}

fn name(number: u64) -> Name {
    Name::parse(format!("a long name {number}").as_bytes()).unwrap()
}

fn dir(nth: u64) -> u64 {
    2 + nth
}

fn file(of: u64, nth: u64) -> u64 {
    2 + DIRS + of * FILES + nth
}

/// The guest looks up `number` in `parent`.
fn look_up(tree: &mut Tree, parent: u64, number: u64, kind: FileKind) {
    let learned = Learned { id: id(number), fid: Some(fid(number)), kind, ino: number };
    assert!(tree.learn(learned, id(parent), &name(number)));
}

/// A tree with many directories, and what they take; with files in them, and what these take.
fn full() -> (Tree, [usize; 2]) {
    let mut tree = Tree::default();
    tree.reset(Generation(1), Some(fid(1)));
    (0..DIRS).for_each(|nth| look_up(&mut tree, 1, dir(nth), FileKind::Directory));
    let of_dirs = tree.store.bytes();
    for of in 0..DIRS {
        (0..FILES).for_each(|nth| look_up(&mut tree, dir(of), file(of, nth), FileKind::Regular));
    }
    let of_files = tree.store.bytes() - of_dirs;
    tree.assert_invariants();
    (tree, [of_dirs, of_files])
}

#[test]
fn known_object_costs_little_memory() {
    let (_, [of_dirs, of_files]) = full();
    let dirs = usize::try_from(DIRS).unwrap();
    let files = usize::try_from(DIRS * FILES).unwrap();
    assert!(of_dirs / dirs <= 200, "{} bytes a directory", of_dirs / dirs);
    assert!(of_files / files <= 150, "{} bytes a file", of_files / files);
}

#[test]
fn forgotten_node_leaves_nothing_behind() {
    let (mut tree, [of_dirs, of_files]) = full();
    for of in 0..DIRS {
        for nth in 0..FILES {
            assert_eq!(tree.forget(id(file(of, nth)), 1).len(), 1);
        }
        assert_eq!(tree.forget(id(dir(of)), 1).len(), 1);
    }
    assert_eq!(tree.len(), 1);
    tree.assert_invariants();
    // The root remembers what its watchers were told of.
    let shown: Vec<_> =
        tree.told_after(NodeId::ROOT, None).map(|(name, ..)| name.clone()).collect();
    for name in shown {
        tree.removed(NodeId::ROOT, &name, None);
    }
    let left = tree.store.bytes();
    assert!(left < (of_dirs + of_files) / 10, "{left} bytes of {of_dirs} and {of_files}");
}

#[test]
fn first_node_of_an_object_may_go_before_the_others() {
    let mut tree = Tree::default();
    tree.reset(Generation(1), Some(fid(1)));
    for number in [2, 3, 4] {
        let kind = FileKind::Regular;
        let learned = Learned { id: id(number), fid: Some(fid(9)), kind, ino: 9 };
        tree.learn(learned, NodeId::ROOT, &name(number));
    }
    assert_eq!(tree.nodes_of(&fid(9)), [id(2), id(3), id(4)]);
    for (gone, left) in [(2, &[id(3), id(4)][..]), (4, &[id(3)]), (3, &[])] {
        tree.forget(id(gone), 1);
        assert_eq!(tree.nodes_of(&fid(9)), left);
        tree.assert_invariants();
    }
}

#[test]
fn names_of_a_node_are_kept_in_the_order_of_their_reports() {
    let mut tree = Tree::default();
    tree.reset(Generation(1), Some(fid(1)));
    let node = || Learned { id: id(2), fid: Some(fid(2)), kind: FileKind::Regular, ino: 2 };
    let names = [name(3), name(1), name(2)];
    for name in &names {
        tree.learn(node(), NodeId::ROOT, name);
        assert_eq!(tree.entry(id(2)), Some((NodeId::ROOT, name)));
    }
    assert_eq!(tree.names_len(id(2)), 3);
    for (nth, name) in names.iter().enumerate().rev() {
        assert_eq!(tree.entry(id(2)), Some((NodeId::ROOT, name)));
        tree.removed(NodeId::ROOT, name, Some(id(2)));
        assert_eq!(tree.names_len(id(2)), u32::try_from(nth).unwrap());
        tree.assert_invariants();
    }
}
