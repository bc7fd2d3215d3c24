// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The two frames that open a link over the control node: the agent writes a [`Hello`], then reads a
//! [`Welcome`]. Every later read returns whole [`Notification`](super::Notification)s.
//!
//! A frame that breaks any rule is refused whole, unknown bits included: a hello keeps its length and
//! its meaning in every version, so an agent that needs more than version 1 gives says so in
//! `version_min`, and falls back when it is refused.

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, transmute};

use super::abi::{
    FARWATCH_DELIVERY_QUEUE, FARWATCH_DELIVERY_READS, FARWATCH_HELLO_MAGIC, FARWATCH_HELLO_RAISES,
    FARWATCH_HELLO_SUBMOUNTS, FARWATCH_VERSION_MAX, FARWATCH_VERSION_MIN, FARWATCH_WELCOME_MAGIC,
    FARWATCH_WELCOME_MARKS_PROVED, FARWATCH_WELCOME_RENAME_PAIRS, farwatch_hello, farwatch_welcome,
};
use crate::{Generation, Mask, NodeId, Seq};

/// How an agent wants its notifications.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Through the notification queue: the guest's driver has one, the agent only replays.
    Queue,
    /// As answers to reads on the control node.
    Reads,
}

/// What an agent writes to the control node first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The lowest version that the agent speaks; at least 1.
    pub version_min: u16,
    /// The highest; not below `version_min`.
    pub version_max: u16,
    /// How it wants its notifications.
    pub delivery: Delivery,
    /// Its kernel raises the events itself, by a module, and nothing is replayed. Not in version 1.
    pub raises: bool,
    /// Notifications are to say in which announced submount they are. Not in versions 1 and 2.
    pub submounts: bool,
    /// Which events it wants. Overflow and ISDIR come in any case.
    pub events: Mask,
}

/// The server's answer: the first frame that a read on the control node returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The version to speak from now on.
    pub version: u16,
    /// The server can give both names of a rename (S12, S13).
    pub rename_pairs: bool,
    /// The read that fetched this frame arrived with both marks; without this an agent replays
    /// nothing.
    pub marks_proved: bool,
    /// Which events the server can deliver.
    pub events: Mask,
    /// The number of the first notification to come.
    pub next_seq: Seq,
    /// The generation of every reserved nodeid but the control node's, which is 0: an agent has to
    /// know that one before it has heard anything.
    pub generation: Generation,
    /// The control node, a reserved nodeid.
    pub control: NodeId,
    /// The limbo directory, another one.
    pub limbo: NodeId,
}

/// Why some bytes are not a [`Hello`] or not a [`Welcome`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// Another length than the frame has.
    #[error("frame has {0} bytes")]
    Length(usize),
    /// The first bytes of something else.
    #[error("magic is {0:#010x}")]
    Magic(u32),
    /// Version 0, or an empty range.
    #[error("versions {0} to {1} are no range from 1 up")]
    Versions(u16, u16),
    /// Neither queue nor reads.
    #[error("delivery is {0}")]
    Delivery(u32),
    /// An unknown event bit.
    #[error("events {0:#x} have an unknown bit")]
    Events(u64),
    /// An unknown flag.
    #[error("flags {0:#x} have an unknown bit")]
    Flags(u16),
    /// An unknown flag of a hello.
    #[error("flags {0:#x} of a hello have an unknown bit")]
    HelloFlags(u32),
    /// A number that no notification has.
    #[error("next notification is {0}")]
    Seq(u32),
    /// The control node or the limbo directory could be an object of the share.
    #[error("control {control:#x} and limbo {limbo:#x} are not two reserved nodeids")]
    Nodes {
        /// `control_nodeid`
        control: u64,
        /// `limbo_nodeid`
        limbo: u64,
    },
    /// A reserved field is in use.
    #[error("a reserved field is not 0")]
    Reserved,
}

impl Hello {
    /// Bytes of the frame.
    pub const LEN: usize = size_of::<farwatch_hello>();

    /// The highest version that both sides speak.
    pub fn negotiate(&self) -> Option<u16> {
        let version = self.version_max.min(FARWATCH_VERSION_MAX);
        (version >= self.version_min.max(FARWATCH_VERSION_MIN)).then_some(version)
    }

    /// The frame.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let delivery = match self.delivery {
            Delivery::Queue => FARWATCH_DELIVERY_QUEUE,
            Delivery::Reads => FARWATCH_DELIVERY_READS,
        };
        transmute!(farwatch_hello {
            magic: FARWATCH_HELLO_MAGIC.into(),
            version_min: self.version_min.into(),
            version_max: self.version_max.into(),
            delivery: delivery.into(),
            flags: self.flags().into(),
            events: self.events.bits().into(),
            reserved2: 0.into(),
        })
    }

    /// Reads the frame, which must fill `bytes`.
    ///
    /// # Errors
    /// When `bytes` are anything but a hello.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let raw: &farwatch_hello = frame(bytes)?;
        check_magic(raw.magic.get(), FARWATCH_HELLO_MAGIC)?;
        let (version_min, version_max) = (raw.version_min.get(), raw.version_max.get());
        if version_min == 0 || version_min > version_max {
            return Err(FrameError::Versions(version_min, version_max));
        }
        let flags = raw.flags.get();
        if raw.reserved2 != 0 || (version_min == 1 && flags != 0) {
            return Err(FrameError::Reserved);
        }
        let of_3 = if version_min >= 3 { FARWATCH_HELLO_SUBMOUNTS } else { 0 };
        if flags & !(FARWATCH_HELLO_RAISES | of_3) != 0 {
            return Err(FrameError::HelloFlags(flags));
        }
        let raises = flags & FARWATCH_HELLO_RAISES != 0;
        let submounts = flags & FARWATCH_HELLO_SUBMOUNTS != 0;
        let delivery = match raw.delivery.get() {
            FARWATCH_DELIVERY_QUEUE => Delivery::Queue,
            FARWATCH_DELIVERY_READS => Delivery::Reads,
            other => return Err(FrameError::Delivery(other)),
        };
        let events = events(raw.events.get())?;
        Ok(Self { version_min, version_max, delivery, raises, submounts, events })
    }

    fn flags(&self) -> u32 {
        let raises = if self.raises { FARWATCH_HELLO_RAISES } else { 0 };
        raises | if self.submounts { FARWATCH_HELLO_SUBMOUNTS } else { 0 }
    }
}

impl Welcome {
    /// Bytes of the frame.
    pub const LEN: usize = size_of::<farwatch_welcome>();

    /// The frame.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut flags = 0;
        if self.rename_pairs {
            flags |= FARWATCH_WELCOME_RENAME_PAIRS;
        }
        if self.marks_proved {
            flags |= FARWATCH_WELCOME_MARKS_PROVED;
        }
        transmute!(farwatch_welcome {
            magic: FARWATCH_WELCOME_MAGIC.into(),
            version: self.version.into(),
            flags: flags.into(),
            events: self.events.bits().into(),
            next_seq: self.next_seq.get().into(),
            generation: self.generation.0.into(),
            control_nodeid: self.control.get().into(),
            limbo_nodeid: self.limbo.get().into(),
            reserved: 0.into(),
        })
    }

    /// Reads the frame, which must fill `bytes`.
    ///
    /// # Errors
    /// When `bytes` are anything but a welcome.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let raw: &farwatch_welcome = frame(bytes)?;
        check_magic(raw.magic.get(), FARWATCH_WELCOME_MAGIC)?;
        let version = raw.version.get();
        if version == 0 {
            return Err(FrameError::Versions(version, version));
        }
        if raw.reserved != 0 {
            return Err(FrameError::Reserved);
        }
        let flags = raw.flags.get();
        if flags & !(FARWATCH_WELCOME_RENAME_PAIRS | FARWATCH_WELCOME_MARKS_PROVED) != 0 {
            return Err(FrameError::Flags(flags));
        }
        let next_seq = raw.next_seq.get();
        let (control, limbo) = reserved_nodes(raw.control_nodeid.get(), raw.limbo_nodeid.get())?;
        Ok(Self {
            version,
            rename_pairs: flags & FARWATCH_WELCOME_RENAME_PAIRS != 0,
            marks_proved: flags & FARWATCH_WELCOME_MARKS_PROVED != 0,
            events: events(raw.events.get())?,
            next_seq: Seq::new(next_seq).ok_or(FrameError::Seq(next_seq))?,
            generation: Generation(raw.generation.get()),
            control,
            limbo,
        })
    }
}

fn frame<T: FromBytes + Immutable + KnownLayout + Unaligned>(
    bytes: &[u8],
) -> Result<&T, FrameError> {
    T::ref_from_bytes(bytes).map_err(|_| FrameError::Length(bytes.len()))
}

fn check_magic(magic: u32, wanted: u32) -> Result<(), FrameError> {
    if magic == wanted { Ok(()) } else { Err(FrameError::Magic(magic)) }
}

fn events(bits: u64) -> Result<Mask, FrameError> {
    Mask::from_bits(bits).ok_or(FrameError::Events(bits))
}

/// Both reserved, and not the same: an agent must not be sent to an object of the share.
fn reserved_nodes(control: u64, limbo: u64) -> Result<(NodeId, NodeId), FrameError> {
    let reserved = |raw| NodeId::new(raw).filter(|id| id.is_reserved());
    match (reserved(control), reserved(limbo)) {
        (Some(a), Some(b)) if a != b => Ok((a, b)),
        (Some(_) | None, Some(_) | None) => Err(FrameError::Nodes { control, limbo }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        version_min: 1,
        version_max: 1,
        delivery: Delivery::Reads,
        raises: false,
        submounts: false,
        events: Mask::DEFAULT,
    };
    const WELCOME: Welcome = Welcome {
        version: 1,
        rename_pairs: true,
        marks_proved: true,
        events: Mask::DEFAULT,
        next_seq: Seq::FIRST,
        generation: Generation(9),
        control: NodeId::CONTROL,
        limbo: NodeId::LIMBO,
    };

    fn changed<const N: usize>(mut frame: [u8; N], at: usize, bytes: &[u8]) -> [u8; N] {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    }

    #[test]
    fn the_highest_common_version_is_spoken_and_none_if_there_is_none() {
        for (min, max, spoken) in
            [(1, 1, Some(1)), (1, 2, Some(2)), (1, 9, Some(3)), (3, 3, Some(3)), (4, 9, None)]
        {
            let hello = Hello { version_min: min, version_max: max, ..HELLO };
            assert_eq!(hello.negotiate(), spoken, "{min} to {max}");
        }
    }

    #[test]
    fn a_hello_that_breaks_a_rule_is_refused_for_that_rule() {
        let refused = |at, bytes: &[u8], why| {
            assert_eq!(Hello::decode(&changed(HELLO.encode(), at, bytes)), Err(why));
        };
        refused(0, b"fwWE", FrameError::Magic(FARWATCH_WELCOME_MAGIC));
        refused(4, &[0], FrameError::Versions(0, 1));
        refused(4, &[2], FrameError::Versions(2, 1));
        refused(8, &[2], FrameError::Delivery(2));
        refused(12, &[1], FrameError::Reserved);
        let of_2 = Hello { version_min: 2, version_max: 2, raises: true, ..HELLO };
        assert_eq!(Hello::decode(&of_2.encode()), Ok(of_2));
        let flags = changed(of_2.encode(), 12, &[3]);
        assert_eq!(Hello::decode(&flags), Err(FrameError::HelloFlags(3)));
        let of_3 = Hello { version_min: 3, version_max: 3, submounts: true, ..HELLO };
        assert_eq!(Hello::decode(&of_3.encode()), Ok(of_3));
        let flags = changed(of_3.encode(), 12, &[4]);
        assert_eq!(Hello::decode(&flags), Err(FrameError::HelloFlags(4)));
        refused(18, &[1], FrameError::Events(Mask::DEFAULT.bits() | 0x1_0000));
        refused(31, &[1], FrameError::Reserved);
        assert_eq!(Hello::decode(&[0; 33]), Err(FrameError::Length(33)));
    }

    #[test]
    fn a_welcome_that_breaks_a_rule_is_refused_for_that_rule() {
        let refused = |at, bytes: &[u8], why| {
            assert_eq!(Welcome::decode(&changed(WELCOME.encode(), at, bytes)), Err(why));
        };
        let (control, limbo) = (NodeId::CONTROL.get(), NodeId::LIMBO.get());
        refused(0, b"fwHE", FrameError::Magic(FARWATCH_HELLO_MAGIC));
        refused(4, &[0], FrameError::Versions(0, 0));
        refused(6, &[4], FrameError::Flags(4));
        refused(10, &[1], FrameError::Events(Mask::DEFAULT.bits() | 0x1_0000));
        refused(16, &[0], FrameError::Seq(0));
        refused(24, &limbo.to_le_bytes(), FrameError::Nodes { control: limbo, limbo });
        refused(32, &1u64.to_le_bytes(), FrameError::Nodes { control, limbo: 1 });
        refused(40, &[1], FrameError::Reserved);
        assert_eq!(Welcome::decode(&[]), Err(FrameError::Length(0)));
    }
}
