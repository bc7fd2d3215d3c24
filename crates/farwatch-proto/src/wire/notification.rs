// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Notification`]: one message from the server to its client, parsed once.
//!
//! The host's deliver room encodes, the agent and the driver of `farwatch mount` decode. Both go
//! through the same rules ([`Notification::check`]): what one side encodes the other accepts, and
//! what it accepts encodes to the same bytes. Halves of a rename are still halves here;
//! [`join`](crate::guest::join) puts them together.

use std::num::NonZeroU32;

use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{
    FUSE_FSNOTIFY_CHILD, FUSE_FSNOTIFY_KIND_MASK, FUSE_FSNOTIFY_KIND_SHIFT, FUSE_FSNOTIFY_LINK,
    FUSE_FSNOTIFY_PAIRED, FUSE_NOTIFY_FSNOTIFY, NOTIFY_BUF_SIZE, fuse_notify_fsnotify_out,
    fuse_out_header,
};
use crate::{Cookie, FileKind, Generation, Mask, Name, NameError, Node, NodeId, Submount};

/// One message: `fuse_out_header`, `fuse_notify_fsnotify_out`, name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    /// The directory for an event with a name, else the object; `None` exactly for `Q_OVERFLOW`.
    pub node: Option<Node>,
    /// The announced submount that it is in, for an agent that has asked for that.
    pub submount: Option<Submount>,
    /// What happened.
    pub mask: Mask,
    /// Joins two halves. A half that is not paired may bear one too; it then means nothing (S7).
    pub cookie: Option<Cookie>,
    /// One half of a rename; the other half bears the same cookie.
    pub paired: bool,
    /// The created entry is a further name of `child` (`link(2)`).
    pub link: bool,
    /// The object that the entry names, when the client knows it.
    pub child: Option<Node>,
    /// The type of the object, as far as known; [`FileKind::Directory`] exactly with ISDIR.
    pub kind: FileKind,
    /// The entry in the directory `node`.
    pub name: Option<Name>,
}

/// Why some bytes are not a [`Notification`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// Not even both structs.
    #[error("message has {0} bytes, fewer than 64")]
    Short(usize),
    /// `len` is not the length of the message.
    #[error("header says {said} bytes, message has {actual}")]
    Length {
        /// `fuse_out_header.len`
        said: u32,
        /// Bytes there are.
        actual: usize,
    },
    /// Another notify code, or a reply.
    #[error("notify code is {0}")]
    Code(i32),
    /// A reply to a request.
    #[error("unique is {0}, not 0")]
    Unique(u64),
    /// `namelen` is not the rest of the message.
    #[error("namelen says {said} bytes, message has {actual}")]
    NameLength {
        /// `namelen`
        said: u32,
        /// Bytes there are.
        actual: usize,
    },
    /// A submount for a client that has not asked for it.
    #[error("reserved field is {0:#x}, not 0")]
    Reserved(u32),
    /// The name cannot be the name of an entry.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An unknown bit, or no event at all.
    #[error("mask {0:#x} has an unknown bit or no event")]
    Mask(u64),
    /// An unknown flag or `DT_*` number.
    #[error("flags {0:#x} have an unknown bit or file type")]
    Flags(u32),
    /// No node, and yet not a bare overflow; or an overflow with something else.
    #[error("nodeid 0 goes with a bare overflow, and only with that")]
    Overflow,
    /// An event about an entry without its name.
    #[error("create, delete and move need a name")]
    NameMissing,
    /// One half of a rename together with another event.
    #[error("a move shares its message with another event")]
    Move,
    /// A pair without cookie or move, or a cookie without a move.
    #[error("a pair needs a move and a cookie, a cookie needs a move")]
    Pair,
    /// `link` on something that is not one.
    #[error("a link is the creation of a known child that is no directory")]
    Link,
    /// The child fields and the CHILD flag disagree, or there is no entry to be the child of.
    #[error("child fields do not go with flags or name")]
    Child,
    /// ISDIR and the file type disagree.
    #[error("file type {kind:?} does not go with mask {mask:?}")]
    Kind {
        /// The type said.
        kind: FileKind,
        /// The mask said.
        mask: Mask,
    },
}

impl Notification {
    /// Bytes of the longest message.
    pub const LEN_MAX: usize = NOTIFY_BUF_SIZE;
    /// Bytes before the name.
    const HEAD_LEN: usize = Self::LEN_MAX - Name::LEN_MAX;
    /// Single events were given up.
    pub const OVERFLOW: Self = Self {
        node: None,
        submount: None,
        mask: Mask::Q_OVERFLOW,
        cookie: None,
        paired: false,
        link: false,
        child: None,
        kind: FileKind::Unknown,
        name: None,
    };

    /// Writes the message to the start of `out` and returns it. It keeps the rules that
    /// [`Self::decode`] checks when it comes from [`split`](crate::host::split::split).
    pub fn encode<'a>(&self, out: &'a mut [u8; Self::LEN_MAX]) -> &'a [u8] {
        debug_assert_eq!(self.check(), Ok(()), "no client accepts {self:?}");
        let name = self.name.as_ref().map_or(&[][..], Name::as_bytes);
        let len = Self::HEAD_LEN + name.len();
        let header = fuse_out_header {
            len: wire_len(len),
            error: FUSE_NOTIFY_FSNOTIFY.into(),
            unique: 0.into(),
        };
        let (nodeid, generation) = raw_node(self.node);
        let (child_nodeid, child_generation) = raw_node(self.child);
        let body = fuse_notify_fsnotify_out {
            nodeid,
            generation,
            reserved: self.submount.map_or(0, |submount| submount.0.get()).into(),
            mask: self.mask.bits().into(),
            namelen: wire_len(name.len()),
            cookie: self.cookie.map_or(0, |cookie| cookie.0.get()).into(),
            flags: self.flags().into(),
            child_generation,
            child_nodeid,
        };
        let (head, rest) = out.split_at_mut(size_of_val(&header));
        head.copy_from_slice(header.as_bytes());
        let (fields, rest) = rest.split_at_mut(size_of_val(&body));
        fields.copy_from_slice(body.as_bytes());
        rest[..name.len()].copy_from_slice(name);
        &out[..len]
    }

    /// Cuts the first message off what a read on the control node has returned: the message, not yet
    /// decoded, and the rest. `None` when the bytes do not begin with a whole message; then the count
    /// of messages is lost (`docs/PROTOCOL.md` 5.3).
    pub fn split_first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (header, _) = fuse_out_header::ref_from_prefix(bytes).ok()?;
        let len = usize::try_from(header.len.get()).ok()?;
        if len < Self::HEAD_LEN { None } else { bytes.split_at_checked(len) }
    }

    /// Reads one message, which must fill `bytes`, for a client that has not asked for submounts.
    ///
    /// # Errors
    /// When `bytes` are anything but one message that keeps every rule of `docs/PROTOCOL.md`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let notification = Self::decode_with_submount(bytes)?;
        match notification.submount {
            Some(submount) => Err(DecodeError::Reserved(submount.0.get())),
            None => Ok(notification),
        }
    }

    /// The same for an agent that has ([`Hello::submounts`](super::control::Hello::submounts)).
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_with_submount(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short = DecodeError::Short(bytes.len());
        let (header, rest) = fuse_out_header::ref_from_prefix(bytes).map_err(|_| short)?;
        let (body, name) = fuse_notify_fsnotify_out::ref_from_prefix(rest).map_err(|_| short)?;
        check_envelope(header, body, bytes.len(), name.len())?;

        let flags = body.flags.get();
        let known = FUSE_FSNOTIFY_PAIRED
            | FUSE_FSNOTIFY_CHILD
            | FUSE_FSNOTIFY_LINK
            | FUSE_FSNOTIFY_KIND_MASK;
        let kind = FileKind::from_dt((flags & FUSE_FSNOTIFY_KIND_MASK) >> FUSE_FSNOTIFY_KIND_SHIFT);
        let (Some(kind), 0) = (kind, flags & !known) else {
            return Err(DecodeError::Flags(flags));
        };
        let child = parse_node(body.child_nodeid, body.child_generation, DecodeError::Child)?;
        if child.is_some() != (flags & FUSE_FSNOTIFY_CHILD != 0) {
            return Err(DecodeError::Child);
        }
        let mask = body.mask.get();
        let notification = Self {
            node: parse_node(body.nodeid, body.generation, DecodeError::Overflow)?,
            submount: NonZeroU32::new(body.reserved.get()).map(Submount),
            mask: Mask::from_bits(mask).ok_or(DecodeError::Mask(mask))?,
            cookie: NonZeroU32::new(body.cookie.get()).map(Cookie),
            paired: flags & FUSE_FSNOTIFY_PAIRED != 0,
            link: flags & FUSE_FSNOTIFY_LINK != 0,
            child,
            kind,
            name: if name.is_empty() { None } else { Some(Name::parse(name)?) },
        };
        notification.check()?;
        Ok(notification)
    }

    /// The rules between the fields, the same in both directions.
    fn check(&self) -> Result<(), DecodeError> {
        const NAMED: Mask = Mask::MOVE.union(Mask::CREATE).union(Mask::DELETE);
        let mask = self.mask;
        let events = mask.difference(Mask::ISDIR);
        let moves = mask.intersection(Mask::MOVE);
        let is_dir = mask.contains(Mask::ISDIR);
        if events.is_empty() {
            return Err(DecodeError::Mask(mask.bits()));
        }
        if self.node.is_none() || mask.contains(Mask::Q_OVERFLOW) {
            return if *self == Self::OVERFLOW { Ok(()) } else { Err(DecodeError::Overflow) };
        }
        if self.name.is_none() && mask.intersects(NAMED) {
            return Err(DecodeError::NameMissing);
        }
        if !moves.is_empty() && (moves == Mask::MOVE || events != moves) {
            return Err(DecodeError::Move);
        }
        if (self.paired && self.cookie.is_none()) || (self.cookie.is_some() && moves.is_empty()) {
            return Err(DecodeError::Pair);
        }
        if self.link && (!mask.contains(Mask::CREATE) || self.child.is_none() || is_dir) {
            return Err(DecodeError::Link);
        }
        if self.child.is_some() && self.name.is_none() {
            return Err(DecodeError::Child);
        }
        if (self.kind == FileKind::Directory) != is_dir {
            return Err(DecodeError::Kind { kind: self.kind, mask });
        }
        Ok(())
    }

    fn flags(&self) -> u32 {
        let mut flags = self.kind.dt() << FUSE_FSNOTIFY_KIND_SHIFT;
        for (set, flag) in [
            (self.paired, FUSE_FSNOTIFY_PAIRED),
            (self.child.is_some(), FUSE_FSNOTIFY_CHILD),
            (self.link, FUSE_FSNOTIFY_LINK),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }
}

/// The rules that every typed value keeps by its type, and whose fields it does not have.
fn check_envelope(
    header: &fuse_out_header,
    body: &fuse_notify_fsnotify_out,
    actual: usize,
    actual_name: usize,
) -> Result<(), DecodeError> {
    if usize::try_from(header.len.get()) != Ok(actual) {
        return Err(DecodeError::Length { said: header.len.get(), actual });
    }
    if header.error != FUSE_NOTIFY_FSNOTIFY {
        return Err(DecodeError::Code(header.error.get()));
    }
    if header.unique != 0 {
        return Err(DecodeError::Unique(header.unique.get()));
    }
    if usize::try_from(body.namelen.get()) != Ok(actual_name) {
        return Err(DecodeError::NameLength { said: body.namelen.get(), actual: actual_name });
    }
    Ok(())
}

fn parse_node(nodeid: U64, generation: U32, bad: DecodeError) -> Result<Option<Node>, DecodeError> {
    match (NodeId::new(nodeid.get()), generation.get()) {
        (Some(id), generation) => Ok(Some(Node { id, generation: Generation(generation) })),
        (None, 0) => Ok(None),
        (None, 1..) => Err(bad),
    }
}

fn raw_node(node: Option<Node>) -> (U64, U32) {
    let (nodeid, generation) = node.map_or((0, 0), |node| (node.id.get(), node.generation.0));
    (nodeid.into(), generation.into())
}

fn wire_len(len: usize) -> U32 {
    u32::try_from(len).expect("no message is longer than 319 bytes").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODEID: usize = 16;
    const GENERATION: usize = 24;
    const SUBMOUNT: usize = 28;
    const MASK: usize = 32;
    const NAMELEN: usize = 40;
    const COOKIE: usize = 44;
    const FLAGS: usize = 48;
    const CHILD_NODEID: usize = 56;

    fn created() -> Notification {
        Notification {
            node: Some(Node::ROOT),
            mask: Mask::CREATE,
            child: Some(Node { id: NodeId::new(5).unwrap(), generation: Generation(6) }),
            kind: FileKind::Regular,
            name: Some(Name::parse(b"a").unwrap()),
            ..Notification::OVERFLOW
        }
    }

    #[test]
    fn submount_is_accepted_only_by_a_client_that_asked_for_it() {
        let submount = Some(Submount(NonZeroU32::MAX));
        let inside = Notification { submount, ..created() };
        let mut buffer = [0; Notification::LEN_MAX];
        let bytes = inside.encode(&mut buffer);
        assert_eq!(Notification::decode_with_submount(bytes), Ok(inside));
        assert_eq!(Notification::decode(bytes), Err(DecodeError::Reserved(u32::MAX)));
    }

    /// What becomes of `valid` when each `(offset, u32)` is written over it.
    fn decode_changed(
        valid: &Notification,
        changes: &[(usize, u32)],
    ) -> Result<Notification, DecodeError> {
        let mut bytes = valid.encode(&mut [0; Notification::LEN_MAX]).to_vec();
        for &(at, value) in changes {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        Notification::decode(&bytes)
    }

    fn bits(mask: Mask) -> u32 {
        u32::try_from(mask.bits()).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_table_in_the_protocol() {
        let mut buffer = [0; Notification::LEN_MAX];
        let bytes = created().encode(&mut buffer);
        let table: [&[u8]; 13] = [
            &[65, 0, 0, 0],            // len
            &[0x57, 0x46, 0, 0],       // error
            &[0; 8],                   // unique
            &[1, 0, 0, 0, 0, 0, 0, 0], // nodeid
            &[0; 4],                   // generation
            &[0; 4],                   // reserved
            &[0, 1, 0, 0, 0, 0, 0, 0], // mask
            &[1, 0, 0, 0],             // namelen
            &[0; 4],                   // cookie
            &[2, 8, 0, 0],             // flags: CHILD, DT_REG
            &[6, 0, 0, 0],             // child_generation
            &[5, 0, 0, 0, 0, 0, 0, 0], // child_nodeid
            b"a",
        ];
        assert_eq!(bytes, table.concat());
    }

    #[test]
    fn the_longest_name_fills_the_buffer() {
        let name = Name::parse(&[b'n'; Name::LEN_MAX]).ok();
        let longest = Notification { name, ..created() };
        let mut buffer = [0; Notification::LEN_MAX];
        assert_eq!(longest.encode(&mut buffer).len(), NOTIFY_BUF_SIZE);
        assert_eq!(Notification::decode(&buffer), Ok(longest));
    }

    #[test]
    fn an_envelope_that_breaks_a_rule_is_refused_for_that_rule() {
        let refused =
            |changes: &[_], why| assert_eq!(decode_changed(&created(), changes), Err(why));
        refused(&[(0, 66)], DecodeError::Length { said: 66, actual: 65 });
        refused(&[(4, 9)], DecodeError::Code(9));
        refused(&[(8, 1)], DecodeError::Unique(1));
        refused(&[(SUBMOUNT, 1)], DecodeError::Reserved(1));
        refused(&[(NAMELEN, 2)], DecodeError::NameLength { said: 2, actual: 1 });
        refused(&[(FLAGS, 0x1002)], DecodeError::Flags(0x1002));
        refused(&[(FLAGS, 0x302)], DecodeError::Flags(0x302));
        refused(&[(MASK, 0x400)], DecodeError::Mask(0x400));
        refused(&[(MASK, 0)], DecodeError::Mask(0));
        refused(&[(MASK, bits(Mask::ISDIR))], DecodeError::Mask(Mask::ISDIR.bits()));
        assert_eq!(Notification::decode(&[0; 63]), Err(DecodeError::Short(63)));
    }

    #[test]
    fn a_name_that_no_entry_can_have_is_refused() {
        let mut bytes = created().encode(&mut [0; Notification::LEN_MAX]).to_vec();
        bytes[64] = b'/';
        assert_eq!(Notification::decode(&bytes), Err(NameError::BadByte(b'/').into()));
        let mut nameless = bytes[..64].to_vec();
        nameless[0] = 64;
        nameless[NAMELEN] = 0;
        assert_eq!(Notification::decode(&nameless), Err(DecodeError::NameMissing));
    }

    #[test]
    fn nodeid_zero_is_a_bare_overflow_and_nothing_else() {
        let refused = |valid: &Notification, changes: &[_]| {
            assert_eq!(decode_changed(valid, changes), Err(DecodeError::Overflow));
        };
        assert_eq!(decode_changed(&Notification::OVERFLOW, &[]), Ok(Notification::OVERFLOW));
        refused(&created(), &[(NODEID, 0)]);
        refused(&created(), &[(MASK, bits(Mask::Q_OVERFLOW))]);
        refused(&Notification::OVERFLOW, &[(NODEID, 1)]);
        refused(&Notification::OVERFLOW, &[(GENERATION, 1)]);
        refused(&Notification::OVERFLOW, &[(MASK, bits(Mask::Q_OVERFLOW | Mask::MODIFY))]);
        refused(&Notification::OVERFLOW, &[(FLAGS, 0x800)]);
    }

    #[test]
    fn child_fields_and_child_flag_go_together_and_with_a_name() {
        let refused = |valid: &Notification, changes: &[_]| {
            assert_eq!(decode_changed(valid, changes), Err(DecodeError::Child));
        };
        refused(&created(), &[(CHILD_NODEID, 0)]);
        refused(&created(), &[(FLAGS, 0x800)]);
        refused(&created(), &[(FLAGS, 0x800), (CHILD_NODEID, 0)]);
        let object = Notification { mask: Mask::MODIFY, name: None, child: None, ..created() };
        refused(&object, &[(FLAGS, 0x802), (CHILD_NODEID, 5)]);
    }

    #[test]
    fn a_move_shares_its_message_with_isdir_only() {
        let moved = Notification { mask: Mask::MOVED_FROM, ..created() };
        for other in [Mask::MOVED_TO, Mask::MODIFY, Mask::DELETE] {
            let change = (MASK, bits(Mask::MOVED_FROM | other));
            assert_eq!(decode_changed(&moved, &[change]), Err(DecodeError::Move), "{other:?}");
        }
        let is_dir = [(MASK, bits(Mask::MOVED_FROM | Mask::ISDIR)), (FLAGS, 0x402)];
        assert!(decode_changed(&moved, &is_dir).is_ok());
    }

    #[test]
    fn a_pair_needs_a_move_and_a_cookie_and_a_cookie_needs_a_move() {
        let moved = Notification { mask: Mask::MOVED_TO, ..created() };
        let refused = |valid: &Notification, changes: &[_]| {
            assert_eq!(decode_changed(valid, changes), Err(DecodeError::Pair));
        };
        refused(&moved, &[(FLAGS, 0x803)]);
        refused(&created(), &[(FLAGS, 0x803), (COOKIE, 7)]);
        refused(&created(), &[(COOKIE, 7)]);
        assert!(decode_changed(&moved, &[(COOKIE, 7)]).is_ok_and(|plain| !plain.paired));
        assert!(decode_changed(&moved, &[(FLAGS, 0x803), (COOKIE, 7)]).is_ok_and(|n| n.paired));
    }

    #[test]
    fn a_link_is_the_creation_of_a_known_child_that_is_no_directory() {
        let refused = |changes: &[_]| {
            assert_eq!(decode_changed(&created(), changes), Err(DecodeError::Link));
        };
        refused(&[(FLAGS, 0x806), (MASK, bits(Mask::MODIFY))]);
        refused(&[(FLAGS, 0x406), (MASK, bits(Mask::CREATE | Mask::ISDIR))]);
        refused(&[(FLAGS, 0x804), (CHILD_NODEID, 0), (52, 0)]);
        assert!(decode_changed(&created(), &[(FLAGS, 0x806)]).is_ok_and(|n| n.link));
    }

    #[test]
    fn isdir_and_the_directory_type_go_together() {
        for (flags, mask) in [
            (0x402, Mask::CREATE),
            (0x802, Mask::CREATE | Mask::ISDIR),
            (0x002, Mask::CREATE | Mask::ISDIR),
        ] {
            let refused = decode_changed(&created(), &[(FLAGS, flags), (MASK, bits(mask))]);
            assert!(matches!(refused, Err(DecodeError::Kind { .. })), "{flags:#x} {mask:?}");
        }
    }
}
