// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Counts`]: how many requests of each kind the kernel made. They do not depend on the machine, as times do.
//!
//! The workers count, the session hands the numbers out. Nothing is decided by them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// `enum fuse_opcode` of `include/uapi/linux/fuse.h`, by number.
const OPCODES: [&str; 54] = [
    "0",
    "LOOKUP",
    "FORGET",
    "GETATTR",
    "SETATTR",
    "READLINK",
    "SYMLINK",
    "7",
    "MKNOD",
    "MKDIR",
    "UNLINK",
    "RMDIR",
    "RENAME",
    "LINK",
    "OPEN",
    "READ",
    "WRITE",
    "STATFS",
    "RELEASE",
    "19",
    "FSYNC",
    "SETXATTR",
    "GETXATTR",
    "LISTXATTR",
    "REMOVEXATTR",
    "FLUSH",
    "INIT",
    "OPENDIR",
    "READDIR",
    "RELEASEDIR",
    "FSYNCDIR",
    "GETLK",
    "SETLK",
    "SETLKW",
    "ACCESS",
    "CREATE",
    "INTERRUPT",
    "BMAP",
    "DESTROY",
    "IOCTL",
    "POLL",
    "NOTIFY_REPLY",
    "BATCH_FORGET",
    "FALLOCATE",
    "READDIRPLUS",
    "RENAME2",
    "LSEEK",
    "COPY_FILE_RANGE",
    "SETUPMAPPING",
    "REMOVEMAPPING",
    "SYNCFS",
    "TMPFILE",
    "STATX",
    "other",
];

/// Counters of one session, which its workers share.
#[derive(Debug)]
pub struct Counts([AtomicU64; OPCODES.len()]);

impl Counts {
    /// Counts one request. An opcode without a name here counts as `other`.
    pub(crate) fn add(&self, opcode: u32) {
        let nth = usize::try_from(opcode).unwrap_or(usize::MAX).min(OPCODES.len() - 1);
        self.0[nth].fetch_add(1, Ordering::Relaxed);
    }
}

impl Counts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; OPCODES.len()])
    }
}

/// `NAME=N` for each kind of which there were any, in the order of their numbers.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = OPCODES.iter().zip(&self.0);
        let mut counted = counted
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0);
        if let Some((name, count)) = counted.next() {
            write!(f, "{name}={count}")?;
        }
        counted.try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_name_each_kind_that_was_counted_and_no_other() {
        let counts = Counts::default();
        assert_eq!(counts.to_string(), "");
        for opcode in [1, 26, 52, 1, 53, 4096, u32::MAX] {
            counts.add(opcode);
        }
        assert_eq!(counts.to_string(), "LOOKUP=2 INIT=1 STATX=1 other=3");
    }
}
