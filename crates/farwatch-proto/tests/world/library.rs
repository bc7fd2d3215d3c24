// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Library`]: the objects that the file server below (`PassthroughFs`) holds for the guest.

use std::collections::BTreeMap;

use farwatch_proto::NodeId;

use crate::host::{Obj, Open};

#[derive(Debug)]
struct Node {
    object: Obj,
    refs: u64,
    /// The descriptor by which it is known: what is opened through it has that dentry.
    open: Open,
}

/// See the module's documentation. A nodeid is never used again.
#[derive(Debug)]
pub(crate) struct Library {
    nodes: BTreeMap<NodeId, Node>,
    by_object: BTreeMap<Obj, NodeId>,
    last: u64,
}

impl Library {
    pub(crate) fn new(root: Obj) -> Self {
        let node = Node { object: root, refs: 1, open: 0 };
        Self {
            nodes: BTreeMap::from([(NodeId::ROOT, node)]),
            by_object: BTreeMap::from([(root, NodeId::ROOT)]),
            last: NodeId::ROOT.get(),
        }
    }

    /// The object of a node, for which the file server has a descriptor as long as the guest knows it.
    pub(crate) fn object(&self, node: NodeId) -> Option<Obj> {
        self.nodes.get(&node).map(|node| node.object)
    }

    /// By which dentry an object is opened.
    pub(crate) fn open_of(&self, node: NodeId) -> Option<Open> {
        self.nodes.get(&node).map(|node| node.open)
    }

    /// One more reference on an object, which was found under a name.
    pub(crate) fn take(&mut self, object: Obj, open: impl FnOnce() -> Open) -> NodeId {
        let last = &mut self.last;
        let id = *self.by_object.entry(object).or_insert_with(|| {
            *last += 1;
            NodeId::new(*last).expect("not 0")
        });
        let new = || Node { object, refs: 0, open: open() };
        self.nodes.entry(id).or_insert_with(new).refs += 1;
        id
    }

    /// References on a node are given back.
    pub(crate) fn give_back(&mut self, id: NodeId, count: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        assert!(node.refs >= count, "{id} has {} references, {count} are given back", node.refs);
        node.refs -= count;
        if node.refs == 0 && id != NodeId::ROOT {
            self.by_object.remove(&node.object);
            self.nodes.remove(&id);
        }
    }

    /// How many objects the guest holds, the root among them.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }
}
