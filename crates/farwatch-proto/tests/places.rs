// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine makes of a change in a part of the share that is mounted again in another: each
//! object has a node in each place, and each node is told once.
//!
//! Directory `a` (node 2) is mounted on `b` (node 3); both are fid 2.

#[path = "common/ids.rs"]
mod ids;

use std::time::{Instant, SystemTime};

use farwatch_proto::host::{
    Answer, Engine, HostChange, HostEntry, Input, Learned, MarkedRequest, Object, Refusal,
};
use farwatch_proto::{FileKind, Mask, NodeId, Seq};
use ids::{fid, id, name};

const A: u64 = 2;
const B: u64 = 3;

/// The guest has looked a name up in directory `dir`, and learned of node `node`, fid `object`.
fn learn(engine: &mut Engine, dir: u64, entry: &str, node: u64, object: u8, kind: FileKind) {
    let learned = Learned { id: id(node), fid: Some(fid(object)), kind, ino: 0 };
    engine.learn(learned, id(dir), &name(entry));
}

fn engine() -> Engine {
    let mut engine = Engine::default();
    engine.reset(Some(fid(1)));
    engine.attach(42).expect("nobody is attached yet");
    engine.listen(SystemTime::UNIX_EPOCH);
    learn(&mut engine, 1, "a", A, 2, FileKind::Directory);
    learn(&mut engine, 1, "b", B, 2, FileKind::Directory);
    engine
}

fn learn_file(engine: &mut Engine, dir: u64, entry: &str, node: u64) {
    learn(engine, dir, entry, node, 9, FileKind::Regular);
}

#[expect(clippy::disallowed_methods, reason = "the engine wants a time, whichever")]
fn take_in(engine: &mut Engine, change: HostChange) {
    engine.input(Instant::now(), Input::Change(change));
}

fn changed(engine: &mut Engine, entry: &str, mask: Mask) {
    let entry = HostEntry { dir: fid(2), name: name(entry) };
    take_in(engine, HostChange::Entry { entry, mask, object: Some(fid(9)) });
}

fn moved(engine: &mut Engine, from: (u8, &str), to: (u8, &str)) {
    let [from, to] =
        [from, to].map(|(dir, entry)| Some(HostEntry { dir: fid(dir), name: name(entry) }));
    let object = Some(fid(9));
    take_in(engine, HostChange::Move { from, to, object, directory: false });
}

/// What is sent: the directory, the name, the object's node, and whether it is half of a pair.
fn sent(engine: &mut Engine) -> Vec<(u64, String, Option<u64>, bool)> {
    let all = std::iter::from_fn(|| engine.send());
    all.map(|told| {
        let entry = told.name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
        let (dir, child) = (told.node.expect("a directory"), told.child);
        (dir.id.get(), entry.expect("an entry"), child.map(|child| child.id.get()), told.paired)
    })
    .collect()
}

fn told(dir: u64, entry: &str, child: Option<u64>) -> (u64, String, Option<u64>, bool) {
    (dir, entry.into(), child, false)
}

fn half(dir: u64, entry: &str, child: u64) -> (u64, String, Option<u64>, bool) {
    (dir, entry.into(), Some(child), true)
}

#[test]
fn change_is_reported_for_the_node_in_each_place() {
    let mut engine = engine();
    learn_file(&mut engine, A, "f", 20);
    learn_file(&mut engine, B, "f", 30);
    changed(&mut engine, "f", Mask::MODIFY);
    assert_eq!(sent(&mut engine), [told(A, "f", Some(20)), told(B, "f", Some(30))]);
}

#[test]
fn node_known_in_one_place_is_unknown_in_the_other() {
    let mut engine = engine();
    learn_file(&mut engine, B, "f", 30);
    changed(&mut engine, "f", Mask::MODIFY);
    assert_eq!(sent(&mut engine), [told(A, "f", None), told(B, "f", Some(30))]);
    // Nor is it what the replay is answered with.
    let request = MarkedRequest::Lookup(id(A), &name("f"));
    let answer = engine.answer(Some(Seq::FIRST), request);
    assert_eq!(answer, Answer::Entry(Object::Adopt(FileKind::Regular)));
}

#[test]
fn a_further_name_is_linked_to_the_node_of_its_place() {
    let mut engine = engine();
    learn_file(&mut engine, A, "f", 20);
    learn_file(&mut engine, B, "f", 30);
    changed(&mut engine, "g", Mask::CREATE);
    assert_eq!(sent(&mut engine), [told(A, "g", Some(20)), told(B, "g", Some(30))]);
    let link = |engine: &mut Engine, seq, node| {
        engine.answer(Some(seq), MarkedRequest::Link(id(node), id(B), &name("g")))
    };
    let second = Seq::FIRST.next();
    assert_eq!(link(&mut engine, second, 20), Answer::Refused(Refusal::NotAsked));
    let linked = Answer::Entry(Object::Known { id: id(30), links: 0, here: true });
    assert_eq!(link(&mut engine, second, 30), linked);
}

#[test]
fn a_name_that_goes_from_two_places_is_one_link_less_in_each() {
    let mut engine = engine();
    learn_file(&mut engine, A, "f", 20);
    learn_file(&mut engine, B, "f", 30);
    changed(&mut engine, "f", Mask::DELETE);
    assert_eq!(sent(&mut engine), [told(A, "f", Some(20)), told(B, "f", Some(30))]);
    for (seq, dir, node) in [(Seq::FIRST, A, 20), (Seq::FIRST.next(), B, 30)] {
        let found = Answer::Entry(Object::Known { id: id(node), links: 1, here: false });
        assert_eq!(engine.answer(Some(seq), MarkedRequest::Lookup(id(dir), &name("f"))), found);
        let removed = MarkedRequest::Remove(id(dir), &name("f"), false);
        assert_eq!(engine.answer(Some(seq), removed), Answer::Done);
    }
}

#[test]
fn a_rename_is_one_in_each_place_whatever_the_guest_looked_at_first() {
    let mut engine = engine();
    learn(&mut engine, B, "sub", 31, 4, FileKind::Directory);
    learn(&mut engine, A, "sub", 21, 4, FileKind::Directory);
    learn_file(&mut engine, A, "f", 20);
    learn_file(&mut engine, B, "f", 30);
    moved(&mut engine, (2, "f"), (4, "g"));
    let in_b = [half(B, "f", 30), half(31, "g", 30)];
    let in_a = [half(A, "f", 20), half(21, "g", 20)];
    assert_eq!(sent(&mut engine), [in_a, in_b].concat());
}

#[test]
fn move_from_one_place_to_another_leaves_only_the_first() {
    let mut engine = engine();
    learn(&mut engine, B, "sub", 31, 4, FileKind::Directory);
    learn_file(&mut engine, A, "f", 20);
    learn_file(&mut engine, B, "f", 30);
    moved(&mut engine, (2, "f"), (4, "g"));
    let in_b = vec![half(B, "f", 30), half(31, "g", 30)];
    assert_eq!(sent(&mut engine), [in_b, vec![told(A, "f", Some(20))]].concat());
}

#[test]
fn object_moved_out_of_one_place_returns_as_the_same_node() {
    let mut engine = engine();
    learn_file(&mut engine, A, "f", 20);
    learn_file(&mut engine, B, "f", 30);
    // To the root, which is in one place.
    moved(&mut engine, (2, "f"), (1, "f"));
    assert_eq!(sent(&mut engine).len(), 3);
    let (f, root, limbo) = (name("f"), NodeId::ROOT, NodeId::LIMBO);
    let [first, last] = [Seq::FIRST, Seq::FIRST.next().next()];
    let moved_up = MarkedRequest::Rename(id(A), &f, root, &f);
    assert_eq!(engine.answer(Some(first), moved_up), Answer::Done);
    let moved_out = MarkedRequest::Rename(id(B), &f, limbo, &f);
    assert_eq!(engine.answer(Some(last), moved_out), Answer::Done);

    moved(&mut engine, (1, "f"), (2, "f"));
    let told = [half(1, "f", 20), half(A, "f", 20), told(B, "f", Some(30))];
    assert_eq!(sent(&mut engine), told);
}

#[test]
fn rename_to_a_name_replaces_the_object_beneath_and_not_the_mount() {
    let mut engine = engine();
    learn(&mut engine, 1, "below", 40, 5, FileKind::Directory);
    engine.mounted(id(40));
    learn(&mut engine, 1, "below", 41, 6, FileKind::Directory);
    let entry = |text| Some(HostEntry { dir: fid(1), name: name(text) });
    let (from, to, object) = (entry("other"), entry("below"), Some(fid(9)));
    take_in(&mut engine, HostChange::Move { from, to, object, directory: true });
    assert_eq!(sent(&mut engine).len(), 2);
    let request = MarkedRequest::Lookup(NodeId::ROOT, &name("below"));
    let replaced = Answer::Entry(Object::Known { id: id(41), links: 1, here: false });
    assert_eq!(engine.answer(Some(Seq::FIRST), request), replaced);
}
