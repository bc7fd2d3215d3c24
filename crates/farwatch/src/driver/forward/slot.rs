// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Slot`]: the place of one FUSE request in shared memory, message and reply.

use crate::dev_fuse::{MESSAGE_AT, MESSAGE_LEN_MAX, PAGE_LEN, SLOT_LEN, reply_at};
use crate::driver::memory::{Area, Layout};

/// Room for one request. All slots are equal; whoever has one owns it.
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
        let at = reply_at(len);
        self.0.part(at, SLOT_LEN - at)
    }
}
