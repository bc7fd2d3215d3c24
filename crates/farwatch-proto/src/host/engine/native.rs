// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client whose kernel raises the events itself: the patched kernel, or the module.
//!
//! No request shows that an event has been raised, or whether before or after a call of the guest's own that
//! concerns the same name. So the guest's view changes when a notification is handed out, and where both sides
//! touch a name within the notifications that no probe has shown to be raised, it is not known what watchers were
//! told last: the entry is compared with the host like any contested one.

use super::super::backlog::Pending;
use super::super::contested::Reported;
use super::super::interest::{FS_RENAME, Interest};
use super::super::ledger::{Ledger, Raised};
use super::{AttachError, Engine};
use crate::{Mask, Name, Node, NodeId, Seq};

/// `FS_DELETE_SELF` and `FS_MOVE_SELF`, which the guest's kernel raises with DELETE and with a move.
const FS_DELETE_SELF: u64 = 0x400;
const FS_MOVE_SELF: u64 = 0x800;
/// `FS_EVENT_ON_CHILD`: an aggregate mask has it where a directory is watched for what happens to its entries.
const FS_EVENT_ON_CHILD: u64 = 0x0800_0000;

/// Why it was not noted that a node is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InterestError {
    /// The client is no kernel that tells (ENOSYS).
    #[error("no kernel is attached that tells what is watched")]
    NotNative,
    /// The guest does not know the node, or not with this generation (ESTALE).
    #[error("the node is not known")]
    Unknown,
    /// A bit that is no event (EINVAL).
    #[error("a bit of the mask is no event")]
    Bits,
}

impl Engine {
    /// The guest's kernel takes notifications itself (FUSE_HAVE_FSNOTIFY). `tells` says that it will say what is
    /// watched; one that has done so on another host does not repeat it.
    ///
    /// # Errors
    /// When there is a client already.
    pub fn attach_kernel(&mut self, tells: bool) -> Result<(), AttachError> {
        self.attach_client(None)?;
        self.interest = tells.then(Interest::default);
        Ok(())
    }

    /// Whether the kernel itself is the client, listening or not yet.
    pub fn is_kernel(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.tid.is_none())
    }

    /// The agent has no need to replay: its kernel has a module that raises the events. Called before
    /// [`Engine::listen`].
    pub fn raises(&mut self) {
        if let Some(agent) = &mut self.agent {
            agent.raises = true;
        }
    }

    /// Whether the client's kernel raises the events itself.
    pub fn is_native(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.listening && agent.raises)
    }

    /// How many nodes are watched in the guest; `None` if its kernel does not tell.
    pub fn watched_len(&self) -> Option<usize> {
        self.interest.as_ref().map(Interest::len)
    }

    /// The guest's kernel says for which `FS_*` bits a node is watched, 0 for none (FUSE_FSNOTIFY). `pairs` says
    /// whether both names of a rename can be told. Returns the bits that can be delivered for it.
    ///
    /// # Errors
    /// When that makes no sense; then nothing changes.
    pub fn watch(&mut self, node: Node, mask: u64, pairs: bool) -> Result<u64, InterestError> {
        let known = self.tree.knows(node.id) && self.tree.node(node.id) == node;
        let Some(interest) = &mut self.interest else { return Err(InterestError::NotNative) };
        let possible =
            Mask::all().bits() | FS_DELETE_SELF | FS_MOVE_SELF | FS_EVENT_ON_CHILD | FS_RENAME;
        if mask & !possible != 0 {
            return Err(InterestError::Bits);
        }
        if !known {
            return Err(InterestError::Unknown);
        }
        interest.set(node.id, mask);
        let mut delivered = self.wanted.bits() | Mask::ISDIR.bits() | FS_EVENT_ON_CHILD;
        for (event, by) in [(FS_DELETE_SELF, Mask::DELETE), (FS_MOVE_SELF, Mask::MOVE)] {
            if self.wanted.contains(by) {
                delivered |= event;
            }
        }
        if pairs && self.wanted.contains(Mask::MOVE) {
            delivered |= FS_RENAME;
        }
        Ok(delivered)
    }

    /// The next event for which somebody watches. What nobody watches for counts as told.
    pub(super) fn next_wanted(&mut self) -> Option<Pending> {
        loop {
            let pending = self.backlog.pop()?;
            let interest = self.interest.as_ref().filter(|_| self.is_native());
            if interest.is_none_or(|interest| interest.wants(&pending.event, &self.tree)) {
                return Some(self.spare_submounts(pending));
            }
            let raised = Ledger::raise_unsent(pending, &mut self.tree, &mut self.backlog);
            self.note(raised);
        }
    }

    /// Notification `seq` was handed out, which the kernel raises.
    pub(super) fn raised(&mut self, seq: Seq) {
        let raised = self.ledger.raise(seq, &mut self.tree, &mut self.backlog);
        self.note(raised);
    }

    pub(super) fn note(&mut self, raised: Vec<Raised>) {
        for raised in raised {
            match raised {
                Raised::Arrived(dir, name, shown) => {
                    self.contested.replayed(dir, &name, || Reported::Present(shown));
                }
                Raised::Left(dir, name, stays) => {
                    self.contested.left(dir, &name, stays.as_ref());
                }
                Raised::Unnamed(id) => {
                    if self.interest.as_ref().is_none_or(|interest| interest.is_watched(id)) {
                        self.push_end_first(id);
                    }
                }
            }
        }
    }

    /// The guest has changed a name itself, and it is not known whether before or after the kernel has raised a
    /// change of the host.
    pub(super) fn is_order_unknown(&self, dir: NodeId, name: &Name) -> bool {
        self.is_native() && self.ledger.is_under_way(dir, name)
    }

    /// Whether a probe is due that shows what has been raised: so many names are kept until then.
    pub(super) fn is_unprobed(&self) -> bool {
        self.is_native() && self.ledger.len() > Ledger::UNPROBED_MAX
    }
}
