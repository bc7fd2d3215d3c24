// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Properties of everything that travels: what one side encodes the other decodes to the same value,
//! bytes that decode are the only encoding of their value, and no bytes make a decoder panic.

use std::num::NonZeroU32;

use farwatch_proto::wire::control::{Delivery, Hello, Welcome};
use farwatch_proto::wire::{Notification, abi};
use farwatch_proto::{Cookie, FileKind, Generation, Mask, Name, Node, NodeId, Seq};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

#[path = "../../../fuzz/src/lib.rs"]
pub mod targets;

fn nodes() -> impl Strategy<Value = Node> {
    (1u64.., any::<u32>()).prop_map(|(id, generation)| Node {
        id: NodeId::new(id).expect("from 1"),
        generation: Generation(generation),
    })
}

fn names() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..=Name::LEN_MAX)
        .prop_filter_map("names that entries can have", |bytes| Name::parse(&bytes).ok())
}

fn kinds() -> impl Strategy<Value = FileKind> {
    (0..16u32).prop_filter_map("types that Linux has", FileKind::from_dt)
}

/// Event bits and a name for which there are no further rules.
fn masks() -> impl Strategy<Value = Mask> {
    let bits = Mask::CONTENT | Mask::READS | Mask::CREATE | Mask::DELETE;
    any::<u64>()
        .prop_map(move |any| Mask::from_bits_truncate(any) & bits)
        .prop_filter("at least one event", |mask| !mask.is_empty())
}

/// Every sort of message that the rules allow.
fn notifications() -> impl Strategy<Value = Notification> {
    let is_dir = |kind| if kind == FileKind::Directory { Mask::ISDIR } else { Mask::empty() };
    let entry = (nodes(), masks(), option::of(nodes()), kinds(), names(), any::<bool>()).prop_map(
        move |(dir, mask, child, kind, name, link)| Notification {
            node: Some(dir),
            submount: None,
            mask: mask | is_dir(kind),
            cookie: None,
            paired: false,
            link: link
                && mask.contains(Mask::CREATE)
                && child.is_some()
                && kind != FileKind::Directory,
            child,
            kind,
            name: Some(name),
        },
    );
    let object = (nodes(), masks(), kinds()).prop_filter_map(
        "events that need no name",
        move |(node, mask, kind)| {
            let mask = mask - Mask::CREATE - Mask::DELETE;
            (!mask.is_empty()).then(|| Notification {
                node: Some(node),
                mask: mask | is_dir(kind),
                kind,
                ..Notification::OVERFLOW
            })
        },
    );
    let sides = select(vec![Mask::MOVED_FROM, Mask::MOVED_TO]);
    let cookies = option::of(any::<NonZeroU32>().prop_map(Cookie));
    let half = (nodes(), sides, option::of(nodes()), kinds(), names(), cookies, any::<bool>())
        .prop_map(move |(dir, side, child, kind, name, cookie, paired)| Notification {
            node: Some(dir),
            submount: None,
            mask: side | is_dir(kind),
            cookie,
            paired: paired && cookie.is_some(),
            link: false,
            child,
            kind,
            name: Some(name),
        });
    prop_oneof![8 => entry, 4 => object, 8 => half, 1 => Just(Notification::OVERFLOW)]
}

fn versions() -> impl Strategy<Value = (u16, u16)> {
    (1..=4u16, 0..=3u16).prop_map(|(min, more)| (min, min + more))
}

fn hellos() -> impl Strategy<Value = Hello> {
    let delivery = select(vec![Delivery::Queue, Delivery::Reads]);
    (versions(), delivery, any::<u64>()).prop_map(|((version_min, version_max), delivery, bits)| {
        Hello {
            version_min,
            version_max,
            delivery,
            raises: false,
            submounts: false,
            events: Mask::from_bits_truncate(bits),
        }
    })
}

fn welcomes() -> impl Strategy<Value = Welcome> {
    (1u16.., any::<[bool; 2]>(), any::<u64>(), 1..=Seq::MAX.get(), any::<u32>()).prop_map(
        |(version, [rename_pairs, marks_proved], bits, seq, generation)| Welcome {
            version,
            rename_pairs,
            marks_proved,
            events: Mask::from_bits_truncate(bits),
            next_seq: Seq::new(seq).expect("within the range"),
            generation: Generation(generation),
            control: NodeId::CONTROL,
            limbo: NodeId::LIMBO,
        },
    )
}

/// A valid message with one byte changed: near the rules, where random bytes never come.
fn near(valid: impl AsRef<[u8]>, at: prop::sample::Index, byte: u8) -> Vec<u8> {
    let mut bytes = valid.as_ref().to_vec();
    let at = at.index(bytes.len());
    bytes[at] = byte;
    bytes
}

proptest! {
    #[test]
    fn a_notification_decodes_to_what_was_encoded(sent in notifications()) {
        let mut buffer = [0; Notification::LEN_MAX];
        let bytes = sent.encode(&mut buffer);
        prop_assert_eq!(Notification::decode(bytes), Ok(sent));
        targets::notification_decode(bytes);
    }

    #[test]
    fn bytes_near_a_notification_have_one_meaning_or_none(
        sent in notifications(), at: prop::sample::Index, byte: u8,
    ) {
        targets::notification_decode(&near(sent.encode(&mut [0; Notification::LEN_MAX]), at, byte));
    }

    #[test]
    fn any_bytes_are_a_notification_or_refused(
        body in vec(any::<u8>(), 0..400), honest_header: bool,
    ) {
        let len = u32::try_from(16 + body.len()).unwrap().to_le_bytes();
        let header = [len, abi::FUSE_NOTIFY_FSNOTIFY.to_le_bytes(), [0; 4], [0; 4]].concat();
        let header = if honest_header { &header[..] } else { &[] };
        targets::notification_decode(&[header, &body].concat());
    }

    #[test]
    fn a_hello_decodes_to_what_was_encoded(sent in hellos()) {
        prop_assert_eq!(Hello::decode(&sent.encode()), Ok(sent));
    }

    #[test]
    fn a_welcome_decodes_to_what_was_encoded(sent in welcomes()) {
        prop_assert_eq!(Welcome::decode(&sent.encode()), Ok(sent));
    }

    #[test]
    fn every_truncation_of_a_frame_is_refused(hello in hellos(), welcome in welcomes()) {
        for len in 0..Hello::LEN {
            prop_assert!(Hello::decode(&hello.encode()[..len]).is_err());
        }
        for len in 0..Welcome::LEN {
            prop_assert!(Welcome::decode(&welcome.encode()[..len]).is_err());
        }
    }

    #[test]
    fn bytes_near_a_frame_have_one_meaning_or_none(
        hello in hellos(), welcome in welcomes(), at: prop::sample::Index, byte: u8,
    ) {
        targets::control_decode(&near(hello.encode(), at, byte));
        targets::control_decode(&near(welcome.encode(), at, byte));
    }

    #[test]
    fn any_bytes_are_a_frame_or_refused(bytes in vec(any::<u8>(), 0..64)) {
        targets::control_decode(&bytes);
    }
}
