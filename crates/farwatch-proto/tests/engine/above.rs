// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A directory that a watcher has guessed wrong, and that the guest's kernel holds above the entry: it would refuse to have
//! that there (ELOOP, EINVAL), and watchers would not receive the event.

use super::*;

const DIRECTORY: FileKind = FileKind::Directory;

/// The guest knows directory 2 as `a`, and directory 3 in it as `b`.
fn host() -> Host {
    let mut host = Host::new();
    host.guest_knows("a", 2, DIRECTORY);
    let learned = Learned { id: id(3), fid: Some(fid(3)), kind: DIRECTORY, ino: 0 };
    host.engine.learn(learned, id(2), &name("b"));
    host
}

fn entry(dir: u8, entry: &str) -> HostEntry {
    HostEntry { dir: fid(dir), name: name(entry) }
}

fn phantom() -> Answer {
    Answer::Entry(Object::Phantom(DIRECTORY))
}

#[test]
fn rename_of_a_directory_into_itself_moves_a_stand_in() {
    let (x, y) = (name("x"), name("y"));
    for below in [2, 3] {
        let mut host = host();
        let (from, to) = (Some(entry(1, "x")), Some(entry(below, "y")));
        host.take_in(HostChange::Move { from, to, object: Some(fid(2)), directory: true });
        assert!(host.next().is_some());
        assert_eq!(host.lookup("x"), phantom());
        let dir = id(below.into());
        assert_eq!(host.ask(MarkedRequest::Lookup(dir, &y)), ENOENT);
        let rename = MarkedRequest::Rename(NodeId::ROOT, &x, dir, &y);
        assert_eq!(host.ask(rename), Answer::Done);
        assert_eq!(host.engine.tree().current(NodeId::ROOT, &name("a")), Some(id(2)));
    }
}

#[test]
fn directory_that_leaves_itself_is_a_stand_in() {
    let y = name("y");
    for below in [2, 3] {
        let mut host = host();
        let from = Some(entry(below, "y"));
        host.take_in(HostChange::Move { from, to: None, object: Some(fid(2)), directory: true });
        assert!(host.next().is_some());
        let dir = id(below.into());
        assert_eq!(host.ask(MarkedRequest::Lookup(dir, &y)), phantom());
    }
}

#[test]
fn rename_over_a_directory_that_the_guest_holds_above_the_old_name_replaces_nothing() {
    let (x, a) = (name("x"), name("a"));
    let mut host = host();
    let (from, to) = (Some(entry(3, "x")), Some(entry(1, "a")));
    host.take_in(HostChange::Move { from, to, object: None, directory: true });
    assert!(host.next().is_some());
    assert_eq!(host.ask(MarkedRequest::Lookup(id(3), &x)), phantom());
    assert_eq!(host.lookup("a"), ENOENT);
    let rename = MarkedRequest::Rename(id(3), &x, NodeId::ROOT, &a);
    assert_eq!(host.ask(rename), Answer::Done);
}

#[test]
fn directory_below_another_is_moved_above_it() {
    let mut host = host();
    let (from, to) = (Some(entry(2, "b")), Some(entry(1, "b")));
    host.take_in(HostChange::Move { from, to, object: Some(fid(3)), directory: true });
    assert!(host.next().is_some());
    let answer = host.ask(MarkedRequest::Lookup(id(2), &name("b")));
    assert_eq!(answer, known(3, 0, false));
}
