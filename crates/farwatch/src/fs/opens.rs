// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Opens`]: which files the guest has open. A machine that moves to another host would lose those of them that are
//! deleted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module's documentation. What was opened on another host, before a migration, is not counted.
#[derive(Debug, Default)]
pub(super) struct Opens {
    /// How often each inode is open.
    counts: Mutex<BTreeMap<u64, u32>>,
}

impl Opens {
    /// OPEN or CREATE has succeeded.
    pub(super) fn opened(&self, inode: u64) {
        let mut counts = self.lock();
        let count = counts.entry(inode).or_default();
        *count = count.saturating_add(1);
    }

    /// RELEASE.
    pub(super) fn released(&self, inode: u64) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&inode);
            }
        }
    }

    /// The session is over.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// The inodes that are open.
    pub(super) fn inodes(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_is_open_until_it_was_released_as_often_as_opened() {
        let opens = Opens::default();
        for inode in [7, 8, 7] {
            opens.opened(inode);
        }
        opens.released(9);
        opens.released(7);
        assert_eq!(opens.inodes(), [7, 8]);
        opens.released(7);
        assert_eq!(opens.inodes(), [8]);
        opens.clear();
        assert_eq!(opens.inodes(), [0_u64; 0]);
    }
}
