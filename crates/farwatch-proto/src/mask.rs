// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Mask`]: the event bits, the same on the wire, in `inotify(7)` and in `fanotify(7)`.

use bitflags::bitflags;

bitflags! {
    /// Event bits. `FS_*` of `include/linux/fsnotify_backend.h` are numerically `IN_*` and `FAN_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
    pub struct Mask: u64 {
        /// `IN_ACCESS`
        const ACCESS = 0x1;
        /// `IN_MODIFY`
        const MODIFY = 0x2;
        /// `IN_ATTRIB`
        const ATTRIB = 0x4;
        /// `IN_CLOSE_WRITE`
        const CLOSE_WRITE = 0x8;
        /// `IN_CLOSE_NOWRITE`
        const CLOSE_NOWRITE = 0x10;
        /// `IN_OPEN`
        const OPEN = 0x20;
        /// `IN_MOVED_FROM`
        const MOVED_FROM = 0x40;
        /// `IN_MOVED_TO`
        const MOVED_TO = 0x80;
        /// `IN_CREATE`
        const CREATE = 0x100;
        /// `IN_DELETE`
        const DELETE = 0x200;
        /// `IN_Q_OVERFLOW`
        const Q_OVERFLOW = 0x4000;
        /// `IN_ISDIR`: the object is a directory.
        const ISDIR = 0x4000_0000;
    }
}

impl Mask {
    /// The two halves of a rename. Neither shares a message with another event.
    pub const MOVE: Self = Self::MOVED_FROM.union(Self::MOVED_TO);
    /// Events that come to an entry without changing what its name stands for.
    pub const CONTENT: Self = Self::MODIFY.union(Self::ATTRIB).union(Self::CLOSE_WRITE);
    /// Events that only those get who asked for them (`--events`).
    pub const READS: Self = Self::ACCESS.union(Self::OPEN).union(Self::CLOSE_NOWRITE);
    /// What farwatch delivers unless told otherwise.
    pub const DEFAULT: Self =
        Self::CONTENT.union(Self::MOVE).union(Self::CREATE).union(Self::DELETE);

    /// Several events of one object can share a message. They are then delivered in this order,
    /// which is the order in which programs cause them.
    pub const ORDER: [Self; 8] = [
        Self::CREATE,
        Self::OPEN,
        Self::ACCESS,
        Self::MODIFY,
        Self::ATTRIB,
        Self::CLOSE_WRITE,
        Self::CLOSE_NOWRITE,
        Self::DELETE,
    ];
}
