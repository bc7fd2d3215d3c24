// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writes the seeds of the corpus, the same files every time; what a fuzzer finds goes beside them.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`

use std::num::NonZeroU32;
use std::path::Path;
use std::{fs, io};

use farwatch_proto::wire::Notification;
use farwatch_proto::wire::control::{Delivery, Hello, Welcome};
use farwatch_proto::{Cookie, FileKind, Generation, Mask, Name, Node, NodeId, Seq};

fn main() -> io::Result<()> {
    notifications()?;
    frames()?;
    joins()
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

fn notifications() -> io::Result<()> {
    let name = |bytes: &[u8]| Name::parse(bytes).ok();
    let created = Notification {
        node: Some(Node::ROOT),
        mask: Mask::CREATE,
        kind: FileKind::Regular,
        name: name(b"a"),
        ..Notification::OVERFLOW
    };
    let child = NodeId::new(5).map(|id| Node { id, generation: Generation(u32::MAX) });
    let directory = |mask| Notification {
        mask: mask | Mask::ISDIR,
        kind: FileKind::Directory,
        ..created.clone()
    };
    let half = |mask, paired| Notification {
        mask,
        cookie: NonZeroU32::new(7).map(Cookie),
        paired,
        child,
        ..created.clone()
    };
    let valid = [
        ("overflow", Notification::OVERFLOW),
        ("create", created.clone()),
        ("create_symlink", Notification { kind: FileKind::Symlink, ..created.clone() }),
        ("mkdir", directory(Mask::CREATE)),
        ("rmdir", directory(Mask::DELETE)),
        ("link", Notification { child, link: true, ..created.clone() }),
        ("content", Notification { mask: Mask::CONTENT, child, ..created.clone() }),
        ("object", Notification { mask: Mask::MODIFY, name: None, ..created.clone() }),
        ("from_paired", half(Mask::MOVED_FROM, true)),
        ("to_paired", half(Mask::MOVED_TO, true)),
        ("from_plain_with_cookie", half(Mask::MOVED_FROM, false)),
        ("to_plain", Notification { cookie: None, ..half(Mask::MOVED_TO, false) }),
        ("name_longest", Notification { name: name(&[b'n'; Name::LEN_MAX]), ..created.clone() }),
        ("name_not_utf8", Notification { name: name(b"\xff\xfe\n"), ..created.clone() }),
    ];
    for (name, notification) in &valid {
        let mut buffer = [0; Notification::LEN_MAX];
        write("notification_decode", name, notification.encode(&mut buffer))?;
    }

    let mut buffer = [0; Notification::LEN_MAX];
    let create = created.encode(&mut buffer).to_vec();
    write("notification_decode", "bad_empty", b"")?;
    write("notification_decode", "bad_truncated", &create[..64])?;
    write("notification_decode", "bad_trailing", &[&create[..], b"x"].concat())?;
    for (name, at, byte) in [
        ("bad_length", 0, 64),
        ("bad_code", 4, 1),
        ("bad_unique", 8, 1),
        ("bad_nodeid_zero", 16, 0),
        ("bad_reserved", 28, 1),
        ("bad_mask_unknown", 37, 1),
        ("bad_mask_empty", 33, 0),
        ("bad_mask_overflow", 33, 0x40),
        ("bad_mask_both_moves", 32, 0xc0),
        ("bad_namelen", 43, 0xff),
        ("bad_cookie_stray", 44, 7),
        ("bad_flags_unknown", 48, 8),
        ("bad_flags_paired", 48, 1),
        ("bad_flags_link", 48, 4),
        ("bad_flags_child", 48, 2),
        ("bad_kind", 49, 3),
        ("bad_kind_directory", 49, 4),
        ("bad_child_stray", 56, 1),
        ("bad_name_slash", 64, b'/'),
        ("bad_name_dot", 64, b'.'),
    ] {
        let mut bytes = create.clone();
        bytes[at] = byte;
        write("notification_decode", name, &bytes)?;
    }
    Ok(())
}

fn frames() -> io::Result<()> {
    let hello =
        Hello { version_min: 1, version_max: 1, delivery: Delivery::Reads, raises: false, submounts: false, events: Mask::DEFAULT };
    let welcome = Welcome {
        version: 1,
        rename_pairs: true,
        marks_proved: false,
        events: Mask::DEFAULT,
        next_seq: Seq::FIRST,
        generation: Generation(9),
        control: NodeId::CONTROL,
        limbo: NodeId::LIMBO,
    };
    let hellos = [
        ("hello_reads", hello),
        ("hello_queue", Hello { delivery: Delivery::Queue, ..hello }),
        ("hello_all_events", Hello { events: Mask::all(), ..hello }),
        ("hello_wide", Hello { version_max: u16::MAX, ..hello }),
        ("hello_too_new", Hello { version_min: 3, version_max: 4, ..hello }),
        ("hello_raises", Hello { version_min: 2, version_max: 2, raises: true, ..hello }),
        ("hello_submounts", Hello { version_min: 3, version_max: 3, submounts: true, ..hello }),
    ];
    for (name, hello) in hellos {
        write("control_decode", name, &hello.encode())?;
    }
    let welcomes = [
        ("welcome", welcome),
        ("welcome_proved", Welcome { marks_proved: true, ..welcome }),
        ("welcome_halves_only", Welcome { rename_pairs: false, ..welcome }),
        ("welcome_last_seq", Welcome { next_seq: Seq::MAX, ..welcome }),
    ];
    for (name, welcome) in welcomes {
        write("control_decode", name, &welcome.encode())?;
    }
    write("control_decode", "bad_empty", b"")?;
    write("control_decode", "bad_hello_short", &hello.encode()[..31])?;
    write("control_decode", "bad_welcome_short", &welcome.encode()[..32])?;
    for (name, at, byte) in [
        ("bad_hello_magic", 2, b'W'),
        ("bad_hello_version_zero", 4, 0),
        ("bad_hello_range", 4, 2),
        ("bad_hello_delivery", 8, 2),
        ("bad_hello_reserved", 12, 1),
        ("bad_hello_events", 23, 1),
    ] {
        let mut bytes = hello.encode();
        bytes[at] = byte;
        write("control_decode", name, &bytes)?;
    }
    for (name, at, byte) in [
        ("bad_welcome_version", 4, 0),
        ("bad_welcome_flags", 6, 4),
        ("bad_welcome_seq", 19, 0xff),
        ("bad_welcome_control", 31, 0),
        ("bad_welcome_same_nodes", 32, 1),
        ("bad_welcome_reserved", 47, 1),
    ] {
        let mut bytes = welcome.encode();
        bytes[at] = byte;
        write("control_decode", name, &bytes)?;
    }
    Ok(())
}

fn joins() -> io::Result<()> {
    // What comes, its cookie, how many times 16 ms later, unused: see farwatch_fuzz::join.
    let from = |cookie, later| [0, cookie, later, 0];
    let to = |cookie, later| [2, cookie, later, 0];
    let (plain_from, plain_to, modify, timer) =
        ([4, 7, 0, 0], [5, 7, 0, 0], [6, 0, 0, 0], [7, 0, 0, 0]);
    let after = |later| [7, 0, later, 0];
    let froms: Vec<_> = (0..64).map(|cookie| from(cookie, 0)).collect();
    let tos: Vec<_> = (0..64).rev().map(|cookie| to(cookie, 0)).collect();
    let aging: Vec<_> = (0..64).map(|cookie| from(cookie, 1)).collect();
    for (name, steps) in [
        ("pair", vec![from(7, 0), to(7, 1)]),
        ("pair_reversed", vec![to(7, 0), from(7, 1)]),
        ("pair_with_others_between", vec![from(7, 0), modify, plain_to, to(7, 1)]),
        ("pairs_crossed", vec![from(1, 0), from(2, 0), to(1, 0), to(2, 0)]),
        ("pair_late", vec![from(7, 0), to(7, 255)]),
        ("pair_at_the_timeout", vec![from(7, 0), after(32), to(7, 0)]),
        ("plain_halves", vec![plain_from, plain_to]),
        ("plain_half_beside_a_waiting_one", vec![from(7, 0), plain_to, plain_from]),
        ("same_side_twice", vec![from(7, 0), from(7, 1), to(7, 1), to(7, 1)]),
        ("timer_with_nothing", vec![timer]),
        ("timer_too_early", vec![from(7, 0), after(31)]),
        ("timer_in_order", vec![from(1, 0), to(2, 1), from(3, 30), after(1), after(1)]),
        ("full", [froms.clone(), vec![from(64, 0), to(0, 0), to(64, 0)]].concat()),
        ("full_then_all_mates", [froms.clone(), tos].concat()),
        ("full_and_the_oldest_again", [froms.clone(), vec![from(0, 0), from(65, 0)]].concat()),
        ("full_and_other_things", [froms, vec![modify, plain_from, timer]].concat()),
        ("aging", [aging, vec![timer, after(16)]].concat()),
        ("half_a_step", vec![from(7, 0)]),
    ] {
        let mut bytes = steps.concat();
        if name == "half_a_step" {
            bytes.push(2);
        }
        write("join", name, &bytes)?;
    }
    Ok(())
}
