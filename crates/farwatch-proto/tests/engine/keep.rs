// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest may keep since it is told of each change, and how far its agent is.

use farwatch_proto::host::{Held, MarkedRequest};
use farwatch_proto::replay::Times;
use farwatch_proto::{FileKind, Mask, NodeId};

use super::{Host, HostChange, Learned, fid, id, name};

#[test]
fn entries_are_cached_while_an_agent_replays_and_their_directory_is_in_step() {
    let mut host = Host::new();
    assert!(host.engine.tells_entries_of(NodeId::ROOT));
    host.take_in(HostChange::Overflow);
    assert!(!host.engine.tells_entries_of(NodeId::ROOT));

    let mut host = Host::new();
    host.engine.detach();
    assert!(!host.engine.tells_entries_of(NodeId::ROOT));
}

#[test]
fn kernel_that_raises_events_receives_only_watched_events() {
    let mut host = Host::new();
    host.knows_file("f", 2);
    host.engine.raises();
    assert!(!host.engine.tells_entries_of(NodeId::ROOT));
    assert_eq!(host.engine.tells_attributes_of(id(2), 1), None);
}

#[test]
fn attributes_of_a_file_are_cached_if_the_guest_knows_each_of_its_names() {
    let mut host = Host::new();
    host.guest_knows("dir", 3, FileKind::Directory);
    host.knows_file("f", 2);
    assert_eq!(host.engine.tells_attributes_of(id(2), 1), Some(vec![NodeId::ROOT]));
    assert_eq!(host.engine.tells_attributes_of(id(2), 2), None, "it has a name elsewhere");
    assert_eq!(host.engine.tells_attributes_of(id(3), 7), Some(vec![id(3)]));
    host.changed("f", Mask::DELETE, 2);
    host.next();
    host.lookup("f");
    host.unlink("f");
    assert_eq!(host.engine.tells_attributes_of(id(2), 0), None, "nothing tells of it any more");
}

#[test]
fn mount_point_is_not_cached() {
    let mut host = Host::new();
    host.knows_file("f", 2);
    host.engine.mounted(id(2));
    assert!(!host.engine.is_on_its_name(id(2)));
    assert_eq!(host.engine.tells_attributes_of(id(2), 1), None);
}

#[test]
fn node_below_a_mount_is_known_to_be_there() {
    let mut host = Host::new();
    for (dir, entry, number) in
        [(NodeId::ROOT, "dir", 2), (id(2), "sub", 3), (NodeId::ROOT, "other", 4)]
    {
        let (fid, kind) = (Some(fid(number)), FileKind::Directory);
        let learned = Learned { id: id(number.into()), fid, kind, ino: 0 };
        host.engine.learn(learned, dir, &name(entry));
    }
    host.engine.mounted(id(2));
    let in_mount = [2, 3, 4].map(|number| host.engine.is_in_mount(id(number)));
    assert_eq!(in_mount, [true, true, false]);
    assert!(!host.engine.is_in_mount(NodeId::ROOT));
}

#[test]
fn agent_is_behind_until_the_last_request_of_the_last_replay() {
    let mut host = Host::new();
    host.knows_file("f", 2);
    assert!(!host.engine.is_behind());
    host.changed("f", Mask::MODIFY, 2);
    assert!(host.engine.is_behind());
    host.next();
    assert!(host.engine.is_behind());
    host.lookup("f");
    assert!(host.engine.is_behind());
    host.ask(MarkedRequest::SetTimes(id(2), Times::Mtime));
    assert!(!host.engine.is_behind());
}

#[test]
fn replay_waits_for_a_request_that_holds_the_lock_it_needs_and_for_no_other() {
    let mut host = Host::new();
    host.knows_file("f", 2);
    host.knows_file("g", 3);
    let [f, g] = ["f", "g"].map(name);
    let kept = |host: &Host, held| host.engine.is_next_kept_by(held);

    host.changed("f", Mask::MODIFY, 2);
    host.next();
    assert!(kept(&host, Held::Node(id(2))));
    assert!(kept(&host, Held::Entry(NodeId::ROOT, &f)));
    assert!(!kept(&host, Held::Node(id(3))));
    assert!(!kept(&host, Held::Entry(NodeId::ROOT, &g)));
    host.ask(MarkedRequest::SetTimes(id(2), Times::Mtime));

    host.changed("g", Mask::DELETE, 3);
    host.next();
    assert!(kept(&host, Held::Entry(NodeId::ROOT, &f)), "the lock of the directory");
    assert!(kept(&host, Held::Node(NodeId::ROOT)), "it may be listed");
    assert!(!kept(&host, Held::Node(id(2))));
}
