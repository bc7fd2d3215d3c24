// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which capabilities root keeps while it serves: those that acting for the guest's users takes.
//!
//! fanotify takes none of them. A group that was opened with CAP_SYS_ADMIN keeps what it is, and to
//! mark a directory takes permission to read it (`fanotify_mark(2)`).

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use farwatch_sys::thread::{self, CapabilitySet};
use rustix::thread::capabilities;

use crate::options::CapabilityChanges;

/// What a file server for any user needs, as virtiofsd has it.
const NEEDED: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Drops all capabilities of the calling thread but those that serving needs, for good: a program
/// that it started would not get them back. Called before there are other threads.
///
/// # Errors
/// When `changes` ask for what this process does not have, or forbid what file handles need.
pub(super) fn restrict(
    changes: Option<&CapabilityChanges>,
    file_handles: bool,
) -> anyhow::Result<()> {
    let has = capabilities(None).context("the capabilities of this process")?;
    let keep = wanted(has.permitted, changes, file_handles)?;
    thread::keep_capabilities(keep).context("cannot drop capabilities")
}

fn wanted(
    has: CapabilitySet,
    changes: Option<&CapabilityChanges>,
    file_handles: bool,
) -> anyhow::Result<CapabilitySet> {
    let mut keep = NEEDED;
    keep.set(CapabilitySet::DAC_READ_SEARCH, file_handles);
    let none = CapabilityChanges { added: CapabilitySet::empty(), dropped: CapabilitySet::empty() };
    let CapabilityChanges { added, dropped } = changes.unwrap_or(&none);
    if file_handles && dropped.contains(CapabilitySet::DAC_READ_SEARCH) {
        bail!("--modcaps -dac_read_search needs --inode-file-handles=never");
    }
    let missing: BTreeSet<_> = added.difference(has).iter_names().map(|(name, _)| name).collect();
    if !missing.is_empty() {
        bail!("--modcaps asks for capabilities that this process does not have: {missing:?}");
    }
    Ok((keep & has | *added) - *dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(list: &str, file_handles: bool) -> Option<CapabilitySet> {
        let changes = list.parse().unwrap();
        wanted(CapabilitySet::all(), Some(&changes), file_handles).ok()
    }

    #[test]
    fn the_last_word_on_a_capability_holds() {
        let sys_admin = CapabilitySet::SYS_ADMIN;
        assert_eq!(keeps("+sys_admin", false), Some(NEEDED | sys_admin));
        assert_eq!(keeps("+sys_admin:-SYS_ADMIN", false), Some(NEEDED));
        assert_eq!(
            keeps("-chown:+sys_admin", false),
            Some((NEEDED - CapabilitySet::CHOWN) | sys_admin)
        );
    }

    #[test]
    fn file_handles_need_a_capability_that_cannot_be_dropped_then() {
        let search = CapabilitySet::DAC_READ_SEARCH;
        assert_eq!(keeps("+mknod", true), Some(NEEDED | search));
        assert_eq!(keeps("-dac_read_search", true), None);
        assert_eq!(keeps("-dac_read_search", false), Some(NEEDED));
    }

    #[test]
    fn missing_capability_is_left_out_unless_requested() {
        let has = CapabilitySet::CHOWN;
        assert_eq!(wanted(has, None, true).unwrap(), has);
        assert!(wanted(has, Some(&"+sys_admin".parse().unwrap()), true).is_err());
    }
}
