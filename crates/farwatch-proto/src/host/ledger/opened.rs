// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Opened`]: which opens and reads a notification may cause. Each once, and none unless an event asks
//! for it; without `--events all` that is the open for CLOSE_WRITE alone.

use crate::Mask;

/// What an agent does with a file to raise OPEN, ACCESS and the events of its close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// An open for reading, also of a directory.
    Read,
    /// An open for writing.
    Write,
    /// An open for both.
    Both,
    /// A read of what was opened by a replay.
    Access,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Opened {
    for_reading: bool,
    for_writing: bool,
    read: bool,
}

impl Opened {
    /// Whether one of the events asks for it, and it has not been granted.
    pub(super) fn grants(&self, opening: Opening, events: Mask) -> bool {
        match opening {
            Opening::Read => events.intersects(Mask::READS) && !self.for_reading,
            Opening::Write => {
                events.intersects(Mask::CLOSE_WRITE | Mask::OPEN) && !self.for_writing
            }
            Opening::Both => events.contains(Mask::OPEN) && !self.for_writing,
            Opening::Access => events.contains(Mask::ACCESS) && !self.read,
        }
    }

    pub(super) fn grant(&mut self, opening: Opening) {
        match opening {
            Opening::Read => self.for_reading = true,
            Opening::Write | Opening::Both => self.for_writing = true,
            Opening::Access => self.read = true,
        }
    }
}
