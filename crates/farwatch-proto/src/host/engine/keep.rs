// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest's kernel may keep of a reply until it is told otherwise.
//!
//! A replay refreshes what the guest's kernel has cached: its call looks the name up, takes the attributes over, and
//! drops pages. So while an agent replays, whatever is told by events may be cached for long. Not so
//!
//! - where the guest's kernel raises the events itself: it is sent only what somebody watches;
//! - in a directory that is stale, whose events are left to a net;
//! - of what something is mounted on: mounts come and go without an event;
//! - of a file with a name in a directory that the guest does not know, through which it can be changed unseen.

use crate::{FileKind, NodeId, Seq};

use super::super::ledger::Held;
use super::Engine;

impl Engine {
    /// Whether an agent replays what happens on the host. The file system room asks for each reply.
    pub fn refreshes(&self) -> bool {
        self.is_listening() && !self.is_native()
    }

    /// Whether the agent has events to come, or has not replayed all that it was sent.
    pub fn is_behind(&self) -> bool {
        self.second_half.is_some() || !self.backlog.is_empty() || !self.ledger.is_done()
    }

    /// The number of the next notification.
    pub fn next_number(&self) -> Seq {
        self.seq
    }

    /// Whether the next replay cannot go on before a request about `held` is answered.
    pub fn is_next_kept_by(&self, held: Held<'_>) -> bool {
        self.ledger.is_next_kept_by(held, &self.tree)
    }

    /// Whether the guest is told of each change of a directory's entries. The directory must be watched.
    pub fn tells_entries_of(&self, dir: NodeId) -> bool {
        self.refreshes() && !self.nets.has(dir)
    }

    /// The directories by which the guest is told of each change of a node's attributes and content, which has `links`
    /// names on the host; each of them must be watched. `None` if it is not told of all.
    pub fn tells_attributes_of(&self, id: NodeId, links: u32) -> Option<Vec<NodeId>> {
        if !self.refreshes() || self.tree.is_mounted(id) {
            return None;
        }
        if self.tree.kind(id)? == FileKind::Directory {
            return (!self.nets.has(id)).then(|| vec![id]);
        }
        let names = self.tree.names_len(id);
        if names == 0 || names < links {
            return None;
        }
        let dirs: Vec<_> = self.tree.named_in(id).collect();
        (!dirs.iter().any(|dir| self.nets.has(*dir))).then_some(dirs)
    }

    /// Whether a directory is in what is mounted in the share. A guest to which that is announced makes a superblock of it,
    /// or several, of which its agent may not see each.
    pub fn is_in_mount(&self, dir: NodeId) -> bool {
        self.tree.is_in_mount(dir)
    }

    /// Whether nothing is mounted on the name by which the guest knows a node.
    pub fn is_on_its_name(&self, id: NodeId) -> bool {
        !self.tree.is_mounted(id)
    }
}
