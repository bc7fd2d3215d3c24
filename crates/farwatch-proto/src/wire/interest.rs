// SPDX-License-Identifier: Apache-2.0 OR MIT
//! FUSE_FSNOTIFY: the guest's kernel says for which events a node is watched, and is told which of them can be
//! delivered (`docs/PROTOCOL.md`, 10.2).

use zerocopy::{FromBytes, transmute};

use super::abi::{fuse_fsnotify_in, fuse_fsnotify_out};
use crate::Generation;

/// Bytes of the answer, behind `fuse_out_header`.
pub const REPLY_LEN: usize = size_of::<fuse_fsnotify_out>();

/// The body of a request, what follows `fuse_in_header`: the node's generation, and the `FS_*` bits of all marks
/// on it, 0 when it is watched no more. `None` when it is no such body.
pub fn question(body: &[u8]) -> Option<(Generation, u64)> {
    let raw = fuse_fsnotify_in::ref_from_bytes(body).ok()?;
    (raw.reserved == 0).then(|| (Generation(raw.generation.get()), raw.mask.get()))
}

/// The body of an answer: the `FS_*` bits that can be delivered for the node.
pub fn answer(delivered: u64) -> [u8; REPLY_LEN] {
    transmute!(fuse_fsnotify_out { mask: delivered.into(), reserved: 0.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_has_one_length_and_nothing_in_the_reserved_field() {
        let body = [2, 1, 0, 0, 0, 0, 0, 0x10, 9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(question(&body), Some((Generation(9), 0x1000_0000_0000_0102)));
        assert_eq!(question(&body[..15]), None);
        assert_eq!(question(&[&body[..], &[0]].concat()), None);
        let mut reserved = body;
        reserved[12] = 1;
        assert_eq!(question(&reserved), None);
    }
}
