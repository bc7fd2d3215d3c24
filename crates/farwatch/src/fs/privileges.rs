// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Set-user-ID and set-group-ID go when a user without CAP_FSETID changes a file's content: what the interposer does
//! for that beside the library.
//!
//! With FUSE_HANDLE_KILLPRIV_V2 the guest's kernel leaves it to the server, and so does not ask for the
//! `security.capability` of a file before each write. It flags WRITE, OPEN, CREATE and SETATTR of a user without
//! CAP_FSETID, and the library makes the call without that capability: the host's kernel then decides
//! (`file_remove_privs()`). File capabilities go by any write on the host. What is missing:
//!
//! - The guest's kernel does not learn of it from the reply to a WRITE, and would go on to execute the file with the
//!   old mode. But it sends a SETATTR that sets nothing before the write, if it knows of such a bit (`fuse_setattr()`).
//!   The bits are cleared then, and the reply says so.
//! - The host reports one event for mode and content, and the guest's kernel raises both. Cleared before, each is
//!   reported for itself, and left out as one that the guest made.
//! - FALLOCATE and COPY_FILE_RANGE have no flag. They are made without CAP_FSETID for every user but root.
//! - Set-group-ID of a file that its group may not execute (once: mandatory locking) stays when a member of the group
//!   changes it. The host's kernel sees this process, which is a member of nothing, and would clear it. The guest's
//!   kernel knows the user's groups, and has sent a SETATTR before if the bit has to go. So where the bit is alone, the
//!   call is made with CAP_FSETID.
//! - The SETATTR that sets nothing also comes of a `chown(2)` to nobody, which changes nothing where another user than the
//!   owner calls it. From a user who may not write the file, as far as its mode says, nothing is therefore cleared
//!   before the write.

use std::io;

use farwatch_proto::NodeId;
use rustix::fs::Mode;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use virtiofsd::filesystem::{Context, FileSystem, SetattrValid};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::soft_idmap::Id;

use super::Interposer;
use super::reported::Request;

impl Interposer {
    /// Clears the bits that a SETATTR says nothing about, but is sent for, or that go with its truncation. Returns what is
    /// left to set; `None` where the reply must not be kept, since what follows may change the mode.
    pub(super) fn clear_before_setattr(
        &self,
        ctx: Context,
        node: NodeId,
        valid: SetattrValid,
    ) -> Option<SetattrValid> {
        let truncates = SetattrValid::SIZE | SetattrValid::KILL_SUIDGID;
        if valid.contains(truncates) {
            self.clear_set_id(ctx, node);
            return Some(if self.is_cleared_by_a_change(ctx, node) {
                valid
            } else {
                valid - SetattrValid::KILL_SUIDGID
            });
        }
        // Sent before a write of root too, when the file has capabilities; root keeps the bits.
        if valid.is_empty() && ctx.uid.into_inner() != 0 {
            let (attr, _) = self.inner.getattr(ctx, node.get(), None).ok()?;
            if !may_write(&ctx, &attr) {
                return None;
            }
            self.clear_set_id(ctx, node);
        }
        Some(valid)
    }

    /// Clears set-user-ID, and set-group-ID where the group may execute or the user is not in it
    /// (`setattr_should_drop_sgid()`). Which groups a user is in besides the one of a request is not known here.
    pub(super) fn clear_set_id(&self, ctx: Context, node: NodeId) {
        let Ok((attr, _)) = self.inner.getattr(ctx, node.get(), None) else { return };
        let in_group = ctx.gid.into_inner() == attr.gid.into_inner();
        let Some(mode) = cleared(attr.mode, in_group) else { return };
        let valid = SetattrValid::MODE;
        let set = SetattrIn { valid: valid.bits(), mode, ..SetattrIn::default() };
        let request = Request::SetAttr { node, valid, open: false };
        let done = self.own(&request, || self.inner.setattr(ctx, node.get(), set, None, valid));
        if let Err(error) = done {
            // Not the owner: then this process has no CAP_FSETID, and the call that follows clears them.
            tracing::debug!(%node, %error, "set-user-ID cannot be cleared");
        }
    }

    /// Whether the host's kernel has to clear bits when a user without CAP_FSETID changes the content.
    pub(super) fn is_cleared_by_a_change(&self, ctx: Context, node: NodeId) -> bool {
        let Ok((attr, _)) = self.inner.getattr(ctx, node.get(), None) else { return true };
        // As for a member of the group: the guest's kernel has seen to it where the user is none.
        cleared(attr.mode, true).is_some()
    }

    /// Makes `call`, which changes the content of a file, for a user of the guest as the host's kernel has it done for such
    /// a user.
    pub(super) fn as_user<T>(
        &self,
        ctx: Context,
        node: NodeId,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let drops = ctx.uid.into_inner() != 0 && self.is_cleared_by_a_change(ctx, node);
        let dropped = drops.then(Dropped::fsetid).transpose()?;
        let result = call();
        drop(dropped);
        result
    }
}

/// Whether the mode lets a user write, who is in no other group than the request says. An access control list may let more,
/// or less.
fn may_write(ctx: &Context, attr: &Attr) -> bool {
    let mode = Mode::from_raw_mode(attr.mode);
    let is_of_group = ctx.gid.into_inner() == attr.gid.into_inner();
    ctx.uid.into_inner() == attr.uid.into_inner()
        || mode.contains(Mode::WOTH)
        || is_of_group && mode.contains(Mode::WGRP)
}

/// The mode without the bits, if it has them.
fn cleared(mode: u32, in_group: bool) -> Option<u32> {
    let old = Mode::from_raw_mode(mode);
    let mut new = old - Mode::SUID;
    if old.contains(Mode::XGRP) || !in_group {
        new -= Mode::SGID;
    }
    (new != old).then(|| new.as_raw_mode())
}

/// The calling thread without CAP_FSETID, until it is dropped.
struct Dropped(CapabilitySets);

impl Dropped {
    fn fsetid() -> io::Result<Option<Self>> {
        let has = capabilities(None)?;
        if !has.effective.contains(CapabilitySet::FSETID) {
            return Ok(None);
        }
        set_capabilities(
            None,
            CapabilitySets { effective: has.effective - CapabilitySet::FSETID, ..has },
        )?;
        Ok(Some(Self(has)))
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        set_capabilities(None, self.0).expect("what is permitted can be made effective");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_group_id_stays_only_where_the_group_may_not_execute_and_has_the_user() {
        for in_group in [false, true] {
            assert_eq!(cleared(0o644, in_group), None);
            assert_eq!(cleared(0o4644, in_group), Some(0o644));
            assert_eq!(cleared(0o2755, in_group), Some(0o755));
            assert_eq!(cleared(0o6777, in_group), Some(0o777));
        }
        assert_eq!(cleared(0o2745, true), None);
        assert_eq!(cleared(0o6745, true), Some(0o2745));
        assert_eq!(cleared(0o2745, false), Some(0o745));
    }
}
