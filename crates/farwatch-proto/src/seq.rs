// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Seq`]: which notification an agent's request belongs to.

/// The number of a notification on one link: both ends count from [`Seq::FIRST`] at the hello, one
/// for each message, whether it could be decoded or not.
///
/// It travels back to the server as the fsgid of the agent's thread (`fuse_in_header.gid`) while it
/// replays that notification, so a request can be answered only from the record it was made for. It
/// stays below 2^31, and 0 means no notification: both are gids that every kernel passes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seq(u32);

impl Seq {
    /// The number of the first notification after a hello.
    pub const FIRST: Self = Self(1);
    /// The last number before the count starts again at [`Seq::FIRST`].
    pub const MAX: Self = Self(0x7fff_fffe);

    /// `None` unless `raw` is a number that a notification can have.
    pub fn new(raw: u32) -> Option<Self> {
        (1..=Self::MAX.0).contains(&raw).then_some(Self(raw))
    }

    /// The number as it travels.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number of the next notification.
    pub fn next(self) -> Self {
        if self == Self::MAX { Self::FIRST } else { Self(self.0 + 1) }
    }

    /// How many notifications `self` is after `earlier`, counting across the wrap; less than half
    /// the range when it really is after.
    pub fn since(self, earlier: Self) -> u32 {
        if self.0 >= earlier.0 { self.0 - earlier.0 } else { self.0 + Self::MAX.0 - earlier.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_starts_again_at_one() {
        assert_eq!(Seq::MAX.next(), Seq::FIRST);
        assert_eq!(Seq::FIRST.since(Seq::MAX), 1);
        assert_eq!(Seq::new(5).unwrap().since(Seq::new(3).unwrap()), 2);
        assert_eq!(Seq::new(0), None);
        assert_eq!(Seq::new(0x7fff_ffff), None);
    }
}
