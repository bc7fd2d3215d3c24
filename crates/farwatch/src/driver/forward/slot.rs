// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Slot`]: the place of one FUSE request in shared memory, message and reply.

use crate::driver::fuse::{DATA_LEN_MAX, IN_HEADER_LEN, OUT_HEADER_LEN, WRITE_IN_LEN};
use crate::driver::memory::{Area, Layout, PAGE_LEN};

/// Where messages start: so that the data of a WRITE begin on a page.
const MESSAGE_AT: usize = PAGE_LEN - IN_HEADER_LEN - WRITE_IN_LEN;
/// The longest message taken. The kernel wants room for `max_write` and its headers; libfuse gives
/// a page more, and so do we.
const MESSAGE_LEN_MAX: usize = IN_HEADER_LEN + WRITE_IN_LEN + DATA_LEN_MAX + PAGE_LEN;
/// The least room that the longest message leaves for its reply.
const REPLY_LEN_MIN: usize = OUT_HEADER_LEN + PAGE_LEN;
/// The longest message ends on a page; the header of its reply ends on the next.
const SLOT_LEN: usize = MESSAGE_AT + MESSAGE_LEN_MAX + PAGE_LEN - OUT_HEADER_LEN + REPLY_LEN_MIN;

// A READ, whose message is as long as the headers of a WRITE, finds room for all its data.
const _: () = assert!(SLOT_LEN - (2 * PAGE_LEN) >= DATA_LEN_MAX);

/// Room for one request. The reply goes behind the message: no FUSE request is long both ways, so
/// one place of little more than the longest data serves READ and WRITE alike.
///
/// All slots are equal; whoever has one owns it. Messages and replies are laid out so that the data
/// of READ and WRITE begin on a page, which makes copies fast and `O_DIRECT` possible.
#[derive(Debug)]
pub(in crate::driver) struct Slot(Area);

impl Slot {
    /// Plans `count` slots.
    pub(in crate::driver) fn plan(layout: &mut Layout, count: u16) -> Vec<Self> {
        (0..count).map(|_| Self(layout.take(SLOT_LEN, PAGE_LEN))).collect()
    }

    /// Where a message is to be read into.
    pub(super) fn message_space(&self) -> Area {
        self.message(MESSAGE_LEN_MAX)
    }

    /// The message, once it is known to have `len` bytes.
    pub(super) fn message(&self, len: usize) -> Area {
        self.0.part(MESSAGE_AT, len)
    }

    /// All that is left for the reply to a message of `len` bytes.
    pub(super) fn reply(&self, len: usize) -> Area {
        let at = (MESSAGE_AT + len + OUT_HEADER_LEN).next_multiple_of(PAGE_LEN) - OUT_HEADER_LEN;
        self.0.part(at, SLOT_LEN - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_never_overlaps_its_message_and_the_longest_read_fits() {
        let mut layout = Layout::default();
        let slot = &Slot::plan(&mut layout, 1)[0];
        let memory = layout.map().unwrap();
        let on_page = |address: u64| address.is_multiple_of(u64::try_from(PAGE_LEN).unwrap());
        for len in [IN_HEADER_LEN, 80, 81, PAGE_LEN, DATA_LEN_MAX + 80, MESSAGE_LEN_MAX] {
            let (message, reply) = (slot.message(len), slot.reply(len));
            let end = memory.guest_address(message) + u64::try_from(len).unwrap();
            assert!(memory.guest_address(reply) >= end);
            assert!(on_page(memory.guest_address(reply) + 16), "data begin on a page");
            assert!(reply.len() >= REPLY_LEN_MIN);
        }
        assert!(on_page(memory.guest_address(slot.message_space()) + 80), "data begin on a page");
        assert!(slot.reply(IN_HEADER_LEN + 40).len() >= OUT_HEADER_LEN + DATA_LEN_MAX);
    }
}
