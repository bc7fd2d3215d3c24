// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Announced submounts: which of them an event is in, and its replay in several superblocks or in none.

use farwatch_proto::host::{Answer, MarkedRequest, Object};
use farwatch_proto::{FileKind, Generation, Mask, Node, NodeId, Submount};

use super::{ENOENT, EPERM, Host, HostChange, HostEntry, Learned, fid, id, known, name};

const DIR: u8 = 2;
const ROOT: u8 = 3;
const SUB: u8 = 4;

/// Beside a directory of the share, the guest knows one on which something is mounted, a directory in that, and files.
fn announced() -> Host {
    let mut host = Host::new();
    let dirs = [(NodeId::ROOT, "dir", DIR), (id(2), "below", ROOT), (id(3), "sub", SUB)];
    let directory = |(dir, entry, number)| (dir, entry, number, FileKind::Directory);
    let files =
        [(id(3), "f", 5), (id(3), "g", 6)].map(|(dir, e, n)| (dir, e, n, FileKind::Regular));
    for (dir, entry, number, kind) in dirs.map(directory).into_iter().chain(files) {
        let learned = Learned { id: id(number.into()), fid: Some(fid(number)), kind, ino: 0 };
        host.engine.learn(learned, dir, &name(entry));
    }
    host.engine.announced(id(ROOT.into()));
    host.engine.tell_submounts();
    host
}

fn created(host: &mut Host, dir: u8, entry: &str, object: u8) {
    let entry = HostEntry { dir: fid(dir), name: name(entry) };
    host.take_in(HostChange::Entry { entry, mask: Mask::CREATE, object: Some(fid(object)) });
}

fn look_up(host: &mut Host, dir: u8, entry: &str) -> Answer {
    host.ask(MarkedRequest::Lookup(id(dir.into()), &name(entry)))
}

#[test]
fn agent_receives_the_nearest_submount_of_a_node_or_none() {
    let mut host = announced();
    for (dir, submount) in [(DIR, None), (ROOT, Some(ROOT)), (SUB, Some(ROOT))] {
        created(&mut host, dir, "new", 9);
        let told = host.next().unwrap();
        assert_eq!(told.submount, submount.map(|root| Submount::of(id(root.into()))), "{dir}");
    }
    host.directory_changed(SUB, Mask::ATTRIB);
    assert_eq!(host.next().unwrap().submount, Some(Submount::of(id(ROOT.into()))));
    host.engine.announced(id(SUB.into()));
    host.directory_changed(SUB, Mask::ATTRIB);
    assert_eq!(host.next().unwrap().submount, Some(Submount::of(id(SUB.into()))));
}

#[test]
fn agent_that_did_not_ask_for_submounts_receives_none() {
    let mut host = Host::new();
    host.guest_knows("below", ROOT, FileKind::Directory);
    host.engine.announced(id(ROOT.into()));
    created(&mut host, ROOT, "new", 9);
    assert_eq!(host.next().unwrap().submount, None);
    assert_eq!(look_up(&mut host, ROOT, ".farwatch-again"), EPERM);
}

/// As the guest's kernel has it.
#[test]
fn root_of_an_announced_submount_has_generation_0() {
    let mut host = announced();
    let tree = host.engine.tree();
    assert_eq!(tree.node(id(3)), Node { id: id(3), generation: Generation(0) });
    assert_ne!(tree.node(id(4)).generation, Generation(0));
    created(&mut host, ROOT, "new", 9);
    assert_eq!(host.next().unwrap().node, Some(Node { id: id(3), generation: Generation(0) }));
}

#[test]
fn limbo_is_found_in_the_root_of_a_submount_and_nowhere_in_it() {
    let mut host = announced();
    assert_eq!(look_up(&mut host, ROOT, ".farwatch-limbo"), Answer::Entry(Object::Limbo));
    assert_eq!(look_up(&mut host, SUB, ".farwatch-limbo"), EPERM);
}

#[test]
fn replay_in_another_superblock_is_granted_as_the_first_was() {
    let mut host = announced();
    let (f, g) = (name("f"), name("g"));
    let (from, to) = (
        HostEntry { dir: fid(ROOT), name: f.clone() },
        HostEntry { dir: fid(ROOT), name: g.clone() },
    );
    let (from, to, object) = (Some(from), Some(to), Some(fid(5)));
    host.take_in(HostChange::Move { from, to, object, directory: false });
    host.next();
    host.engine.send().expect("a rename has two messages");
    let rename = MarkedRequest::Rename(id(3), &f, id(3), &g);
    for pass in ["first", "second", "third"] {
        assert_eq!(look_up(&mut host, ROOT, "f"), known(5, 0, false), "{pass}");
        assert_eq!(look_up(&mut host, ROOT, "g"), known(6, 1, false), "{pass}");
        assert_eq!(host.ask(rename), Answer::Done, "{pass}");
        assert_eq!(host.ask(rename), EPERM, "{pass}");
        assert!(!host.engine.is_behind(), "{pass}");
        assert_eq!(look_up(&mut host, ROOT, ".farwatch-again"), ENOENT);
        assert!(host.engine.is_behind(), "{pass}");
    }
}

#[test]
fn message_replayed_nowhere_counts_as_delivered() {
    let mut host = announced();
    created(&mut host, ROOT, "new", 9);
    host.next();
    assert!(host.engine.is_behind());
    assert_eq!(look_up(&mut host, ROOT, ".farwatch-nowhere"), ENOENT);
    assert!(!host.engine.is_behind());
    let create = MarkedRequest::Create(id(3), &name("new"), FileKind::Regular);
    assert_eq!(host.ask(create), EPERM);
}

#[test]
fn create_of_a_directory_with_a_submount_in_it_becomes_attrib_where_the_guest_has_it() {
    let mut host = announced();
    let cases = [
        // The directory above the submount, and the one that the submount is on.
        (1, "dir", DIR, Mask::ATTRIB),
        (DIR, "below", ROOT, Mask::ATTRIB),
        // In the submount.
        (ROOT, "sub", SUB, Mask::CREATE),
        // The guest does not have it there.
        (1, "other", DIR, Mask::CREATE),
        (1, "dir", 9, Mask::CREATE),
    ];
    for (dir, entry, object, wanted) in cases {
        let entry = HostEntry { dir: fid(dir), name: name(entry) };
        let (mask, object) = (Mask::CREATE | Mask::ISDIR, Some(fid(object)));
        host.take_in(HostChange::Entry { entry: entry.clone(), mask, object });
        assert_eq!(host.next().unwrap().mask, wanted | Mask::ISDIR, "{entry:?}");
    }
}

#[test]
fn create_of_a_directory_is_delivered_once_the_guest_has_given_the_submount_up() {
    let mut host = announced();
    for file in [5, 6] {
        host.engine.forget(id(file), 1);
    }
    host.engine.forget(id(SUB.into()), 1);
    host.engine.forget(id(ROOT.into()), 1);
    created(&mut host, 1, "dir", DIR);
    assert!(host.next().unwrap().mask.contains(Mask::CREATE));
}
