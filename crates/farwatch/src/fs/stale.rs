// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Stale`]: names under which the guest's kernel holds another object than the host.
//!
//! The kernel keeps a dentry for a second or longer. If the host has put another object under the name in
//! the meantime, a guest's unlink(2) or rename(2) would be done to that one, while the kernel takes it for
//! the one that it holds: the watch on an object that lives would end. On a local directory there is no such
//! moment. Nor may the kernel have a link count that is too high or too low by now: the watch on an object that is
//! gone would stay, or the one on an object that lives end. So the request is answered with ESTALE, once: the
//! kernel looks the name up again and repeats the call (`retry_estale()`), and the program does not notice.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use farwatch_proto::{Name, NodeId};
use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use crate::share::Share;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Threads that were told, and have not come back.
    told: Mutex<BTreeSet<i32>>,
}

impl Stale {
    /// The most that are kept; past it all are forgotten. A thread that then comes back may be told again,
    /// which its program sees.
    const LEN_MAX: usize = 1024;

    /// A request of the guest's thread `pid` is about to change these entries.
    ///
    /// # Errors
    /// ESTALE when the kernel is to look one of them up again. A thread is not told twice in a row, since
    /// the kernel repeats a call only once.
    pub(super) fn check(
        &self,
        share: &Share,
        pid: i32,
        entries: &[(NodeId, &Name)],
    ) -> io::Result<()> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.remove(&pid) {
            return Ok(());
        }
        drop(told);
        if !entries.iter().any(|(dir, name)| is_stale(share, *dir, name)) {
            return Ok(());
        }
        told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= Self::LEN_MAX {
            told.clear();
        }
        told.insert(pid);
        Err(Errno::STALE.into())
    }
}

/// Whether the host has another object under the name than the guest's kernel, or none, or the kernel's link count is
/// not the object's: it was made up, or the host has linked the object since. Inode numbers are enough: one that was
/// given to another object belonged to one that is gone.
fn is_stale(share: &Share, dir: NodeId, name: &Name) -> bool {
    let Some(held) = share.held_at(dir, name) else { return false };
    if held.has_more_links {
        return true;
    }
    match found_at(share, dir, name) {
        Some(Ok(found)) => {
            // FUSE has 32 bits for it.
            let links = u32::try_from(found.st_nlink).unwrap_or(u32::MAX);
            found.st_ino != held.ino || held.links.is_some_and(|given| given < links)
        }
        Some(Err(errno)) => errno == Errno::NOENT,
        None => false,
    }
}

/// Whether the host has something under a name, if that can be told at once.
pub(super) fn is_there(share: &Share, dir: NodeId, name: &Name) -> bool {
    matches!(found_at(share, dir, name), Some(Ok(_)))
}

/// What is under a name on the host. `None` if no descriptor of the directory is at hand.
fn found_at(share: &Share, dir: NodeId, name: &Name) -> Option<Result<Stat, Errno>> {
    let dir = share.dir(dir, || None)?;
    Some(rustix::fs::statat(&*dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW))
}
