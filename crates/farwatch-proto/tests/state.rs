// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What moves with a guest to another host: nothing of it is lost on the way, the difference is owed
//! for every directory, and no bytes from elsewhere do harm.

use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{
    Engine, HostChange, HostEntry, Input, Learned, Listed, Listing, Output, OwnChange, Rescan,
    State, StateError,
};
use farwatch_proto::{Fid, FileKind, Mask, Name, NodeId};
use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../../../fuzz/src/lib.rs"]
pub mod targets;

fn name(number: u8) -> Name {
    Name::parse(&[b'a' + number % 8]).expect("a name")
}

fn fid(host: u32, number: u8) -> Fid {
    Fid::new([host, 0], 1, &[number]).expect("a short handle")
}

fn id(number: u8) -> NodeId {
    NodeId::new(u64::from(number) + 1).expect("from 1")
}

/// A directory that the guest knows under this number, or the root.
fn dir(engine: &Engine, number: u8) -> NodeId {
    let dir = id(number % 4);
    if engine.tree().kind(dir) == Some(FileKind::Directory) { dir } else { NodeId::ROOT }
}

/// One step of a guest's life, decided by four numbers.
fn step(engine: &mut Engine, [what, which, place, called]: [u8; 4]) {
    let (dir, name) = (dir(engine, place), name(called));
    let kind = if which < 4 { FileKind::Directory } else { FileKind::Regular };
    let node = id(which);
    match what % 8 {
        0..=2 => {
            let fid = Some(fid(1, which));
            engine.learn(Learned { id: node, fid, kind, ino: which.into() }, dir, &name);
        }
        3 => drop(engine.lend(node, dir, &name)),
        4 => engine.guest_changed(OwnChange::Removed(dir, &name)),
        5 => drop(engine.forget(node, (called % 3).into())),
        6 => {
            let to = Name::parse(b"moved").expect("a name");
            engine.guest_changed(OwnChange::Renamed((dir, &name), (NodeId::ROOT, &to)));
        }
        _ => drop(engine.phantom(dir, &name, kind)),
    }
}

fn engine() -> Engine {
    let mut engine = Engine::default();
    engine.reset(Some(fid(1, 0)));
    engine
}

proptest! {
    #[test]
    fn a_guest_that_has_moved_is_the_guest_that_it_was(
        steps in vec((any::<u8>(), 0..16u8, any::<u8>(), any::<u8>()), 0..200),
        opened in 0..1u64 << 60,
    ) {
        let mut source = engine();
        for numbers in steps {
            step(&mut source, numbers.into());
        }
        let state = source.save(opened);
        let bytes = state.encode();
        targets::state_decode(&bytes);
        let decoded = State::decode(&bytes).expect("what was encoded");
        prop_assert_eq!(&decoded, &state);
        prop_assert_eq!(decoded.control_opened(), opened);
        let mut destination = engine();
        destination.load(decoded, Some(fid(2, 0)));
        prop_assert_eq!(destination.tree().generation(), source.tree().generation());
        for number in 0..16 {
            prop_assert_eq!(destination.tree().entry(id(number)), source.tree().entry(id(number)));
        }
        prop_assert_eq!(destination.save(opened), state);
    }

    #[test]
    fn no_bytes_make_it_panic(data in vec(any::<u8>(), 0..300)) {
        targets::state_decode(&data);
        let head = [&b"fwST"[..], &State::VERSION.to_le_bytes()].concat();
        targets::state_decode(&[head, data].concat());
    }

    #[test]
    fn a_damaged_state_is_another_or_none(
        steps in vec((any::<u8>(), 0..16u8, any::<u8>(), any::<u8>()), 0..40),
        damage in vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let mut engine = engine();
        for numbers in steps {
            step(&mut engine, numbers.into());
        }
        let mut bytes = engine.save(7).encode();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        targets::state_decode(&bytes);
    }
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut bytes = engine().save(0).encode();
    bytes[4] = 9;
    let error = State::decode(&bytes).expect_err("another version");
    assert_eq!(error, StateError::Version(9));
    assert_eq!(
        error.to_string(),
        "the state is of version 9, and this farwatch knows version 1: use the same farwatch on \
            both sides"
    );
    assert_eq!(State::decode(b"something else"), Err(StateError::Foreign));
    assert_eq!(State::decode(b""), Err(StateError::Foreign));
}

/// The agent of the source had been told all; what has changed since is the new one's.
#[test]
fn agent_of_a_guest_that_has_moved_receives_changes_made_in_the_meantime() {
    let time = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
    let mut source = engine();
    source.attach(42).expect("nobody is attached yet");
    source.listen(time(1000));
    for (number, kind) in [(1, FileKind::Directory), (5, FileKind::Regular)] {
        let learned = Learned { id: id(number), fid: Some(fid(1, number)), kind, ino: 0 };
        source.learn(learned, NodeId::ROOT, &name(number));
    }
    let state = State::decode(&source.save(1).encode()).expect("what was encoded");

    let mut destination = engine();
    destination.load(state, Some(fid(2, 0)));
    assert_eq!(destination.stale_len(), 2, "the root and the directory");
    destination.identify(id(1), fid(2, 1), 11);
    destination.identify(id(5), fid(2, 5), 55);
    let now = now();
    assert_eq!(next_rescan(&mut destination, now), None, "nobody listens");
    assert!(destination.agent_tid().is_none());
    destination.attach(43).expect("the old agent is none here");
    destination.listen(time(2000));

    let rescan = next_rescan(&mut destination, now).expect("a directory to list");
    assert_eq!(rescan.dir, id(1));
    destination.input(now, Input::Listing(Listing::default()));
    let rescan = next_rescan(&mut destination, now).expect("the other one");
    assert_eq!(rescan.dir, NodeId::ROOT);
    let listed = |number: u8, kind, changed| Listed {
        name: name(number),
        object: Some(fid(2, number)),
        kind,
        changed: time(changed),
        born: Some(time(10)),
    };
    let entries = vec![listed(1, FileKind::Directory, 500), listed(5, FileKind::Regular, 1500)];
    destination.input(now, Input::Listing(Listing { entries, ..Listing::default() }));
    let itself = destination.send().expect("what happened to the root itself");
    assert_eq!((itself.mask, itself.name), (Mask::ATTRIB | Mask::ISDIR, None));
    let told = destination.send().expect("the file has changed");
    assert_eq!((told.mask, told.name), (Mask::CONTENT, Some(name(5))));
    assert_eq!(destination.send(), None);

    // And then single events, by the names that this host has for things.
    let entry = HostEntry { dir: fid(2, 1), name: name(3) };
    let change = HostChange::Entry { entry, mask: Mask::CREATE, object: None };
    destination.input(now, Input::Change(change));
    assert_eq!(destination.send().expect("an event").name, Some(name(3)));
}

/// The directory to list, if nothing else is to be done first.
fn next_rescan(engine: &mut Engine, now: Instant) -> Option<Rescan> {
    engine.input(now, Input::ReadDone);
    if let Output::Rescan(rescan) = engine.poll_output(now) { Some(rescan) } else { None }
}

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
fn now() -> Instant {
    Instant::now()
}
