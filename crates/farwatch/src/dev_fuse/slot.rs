// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How one FUSE request and its reply are laid out in memory.
//!
//! The reply goes behind the message: no FUSE request is long both ways, so one place of little more than the longest
//! data serves READ and WRITE alike. The data of either begin on a page, which makes copies fast and `O_DIRECT`
//! possible.

use super::{DATA_LEN_MAX, IN_HEADER_LEN, OUT_HEADER_LEN, WRITE_IN_LEN};

/// Alignment of file data in memory, in bytes: the page size of x86.
pub(crate) const PAGE_LEN: usize = 4096;
/// Where a message starts: so that the data of a WRITE begin on a page.
pub(crate) const MESSAGE_AT: usize = PAGE_LEN - IN_HEADER_LEN - WRITE_IN_LEN;
/// The longest message taken. The kernel wants room for `max_write` and its headers; libfuse gives
/// a page more, and so do we.
pub(crate) const MESSAGE_LEN_MAX: usize = IN_HEADER_LEN + WRITE_IN_LEN + DATA_LEN_MAX + PAGE_LEN;
/// The least room that the longest message leaves for its reply.
const REPLY_LEN_MIN: usize = OUT_HEADER_LEN + PAGE_LEN;
/// The longest message ends on a page; the header of its reply ends on the next.
pub(crate) const SLOT_LEN: usize =
    MESSAGE_AT + MESSAGE_LEN_MAX + PAGE_LEN - OUT_HEADER_LEN + REPLY_LEN_MIN;

// A READ, whose message is as long as the headers of a WRITE, finds room for all its data.
const _: () = assert!(SLOT_LEN - (2 * PAGE_LEN) >= DATA_LEN_MAX);

/// Where the reply to a message of `len` bytes starts. All that is left of the slot is for it.
pub(crate) fn reply_at(len: usize) -> usize {
    (MESSAGE_AT + len + OUT_HEADER_LEN).next_multiple_of(PAGE_LEN) - OUT_HEADER_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_never_overlaps_its_message_and_the_longest_read_fits() {
        for len in [IN_HEADER_LEN, 80, 81, PAGE_LEN, DATA_LEN_MAX + 80, MESSAGE_LEN_MAX] {
            let at = reply_at(len);
            assert!(at >= MESSAGE_AT + len);
            assert!((at + OUT_HEADER_LEN).is_multiple_of(PAGE_LEN), "data begin on a page");
            assert!(SLOT_LEN - at >= REPLY_LEN_MIN);
        }
        assert!(
            (MESSAGE_AT + IN_HEADER_LEN + WRITE_IN_LEN).is_multiple_of(PAGE_LEN),
            "data begin on a page"
        );
        assert!(SLOT_LEN - reply_at(IN_HEADER_LEN + 40) >= OUT_HEADER_LEN + DATA_LEN_MAX);
    }
}
