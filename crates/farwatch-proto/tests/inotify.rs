// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the observer makes of inotify's reports, against a directory that is a table.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "inotify/links.rs"]
mod links;
#[path = "inotify/traced.rs"]
mod traced;
#[path = "inotify/world.rs"]
mod world;

use std::time::{Duration, SystemTime};

use farwatch_proto::host::inotify::{Drained, Expected, Report};
use farwatch_proto::host::{HostChange, Learned};
use farwatch_proto::{Fid, FileKind, Mask, NodeId};
use world::*;

// Halves.

#[test]
fn two_halves_with_one_cookie_are_one_move() {
    let mut world = World::new(true).known("a/old", "f", 9);
    assert_eq!(
        world.read(pair((A, "old"), (B, "new"), 7)),
        [moved(Some("a/old"), Some("b/new"), Some("f"))]
    );
}

#[test]
fn the_mate_may_come_with_the_next_read_and_others_between_keep_their_order() {
    let mut world = World::new(true).known("a/old", "f", 9);
    world.has("a/other", "g");
    let [from, to] = pair((A, "old"), (B, "new"), 7);
    assert_eq!(world.read([from, report(A, "other", Mask::CREATE)]), []);
    assert_eq!(world.read_empty(), (vec![], None), "its mate may come yet");
    let create = change("a/other", Mask::CREATE, Some("g"));
    assert_eq!(world.read([to]), [moved(Some("a/old"), Some("b/new"), Some("f")), create]);
}

#[test]
fn half_is_delivered_alone_when_the_queue_was_empty_at_its_timeout() {
    let mut world = World::new(true).known("a/old", "f", 9);
    let [from, late] = pair((A, "old"), (B, "new"), 7);
    assert_eq!(world.read([from]), []);
    let until = world.observer.poll_timeout().unwrap();
    world.now = until;
    let out = moved(Some("a/old"), None, Some("f"));
    // Something may still be in the queue: that it is late says nothing.
    world.has("b/x", "x");
    assert_eq!(world.read([report(B, "x", Mask::CREATE)]), []);
    let (told, drained) = world.read_empty();
    assert_eq!(told, [out, change("b/x", Mask::CREATE, Some("x"))]);
    assert!(drained.is_some());
    assert_eq!(world.observer.poll_timeout(), None);
    // A mate that comes after all is a half too. The object is what is there.
    world.has("b/new", "f");
    assert_eq!(world.read([late]), [moved(None, Some("b/new"), Some("f"))]);
}

#[test]
fn half_of_a_move_into_view_does_not_wait() {
    let mut world = World::new(true);
    world.has("b/in", "f");
    assert_eq!(
        world.read([half(B, "in", Mask::MOVED_TO, 3)]),
        [moved(None, Some("b/in"), Some("f"))]
    );
}

#[test]
fn interleaved_pairs_go_by_their_cookies() {
    let mut world = World::new(true).known("a/1", "f", 9).known("a/2", "g", 10);
    let ([from1, to1], [from2, to2]) = (pair((A, "1"), (B, "1"), 7), pair((A, "2"), (B, "2"), 8));
    assert_eq!(
        world.read([from1, from2, to2, to1]),
        [moved(Some("a/1"), Some("b/1"), Some("f")), moved(Some("a/2"), Some("b/2"), Some("g"))]
    );
}

#[test]
fn oldest_half_is_delivered_alone_when_too_many_wait() {
    let mut world = World::new(true).known("a/old", "f", 9);
    world.read([half(A, "old", Mask::MOVED_FROM, 7)]);
    let mut told = Vec::new();
    let mut sent = 0;
    while told.is_empty() {
        told =
            world.read([report(A, "f", if sent % 2 == 0 { Mask::CREATE } else { Mask::DELETE })]);
        sent += 1;
        assert!(sent < 10_000, "nothing was let go");
    }
    assert_eq!(told.first(), Some(&moved(Some("a/old"), None, Some("f"))));
    assert_eq!(told.len(), sent + 1, "what waited behind it goes too");
}

#[test]
fn halves_are_delivered_immediately_without_joining() {
    let mut world = World::new(false).known("a/old", "f", 9);
    world.has("b/new", "f");
    assert_eq!(
        world.read(pair((A, "old"), (B, "new"), 7)),
        [moved(Some("a/old"), None, Some("f")), moved(None, Some("b/new"), Some("f"))]
    );
    assert_eq!(world.observer.poll_timeout(), None);
}

// Objects.

#[test]
fn cookie_identifies_the_second_half_after_the_first_was_delivered_alone() {
    let mut world = World::new(false).known("a/old", "f", 9);
    world.read([half(A, "old", Mask::MOVED_FROM, 7)]);
    let late = [half(B, "new", Mask::MOVED_TO, 7), report(B, "new", Mask::DELETE)];
    // A cookie is for one rename.
    for object in [Some("f"), None] {
        let wanted = [moved(None, Some("b/new"), object), change("b/new", Mask::DELETE, object)];
        assert_eq!(world.read(late.clone()), wanted);
    }
}

#[test]
fn object_created_and_moved_in_one_batch_is_the_one_found() {
    let mut world = World::new(true).known("a/f", "old", 9);
    world.has("a/f", "new");
    let mut reports = vec![
        report(A, "t", Mask::CREATE),
        report(A, "t", Mask::MODIFY),
        report(A, "t", Mask::CLOSE_WRITE),
    ];
    reports.extend(pair((A, "t"), (A, "f"), 7));
    assert_eq!(
        world.read(reports),
        [
            change("a/t", Mask::CREATE, Some("new")),
            change("a/t", Mask::MODIFY, Some("new")),
            change("a/t", Mask::CLOSE_WRITE, Some("new")),
            moved(Some("a/t"), Some("a/f"), Some("new")),
        ]
    );
}

#[test]
fn object_created_and_deleted_before_the_look_is_unknown_and_not_its_successor() {
    let mut world = World::new(true);
    world.has("a/f", "second");
    let [create, delete] = [Mask::CREATE, Mask::DELETE].map(|mask| report(A, "f", mask));
    assert_eq!(
        world.read([create.clone(), report(A, "f", Mask::MODIFY), delete, create]),
        [
            change("a/f", Mask::CREATE, None),
            change("a/f", Mask::MODIFY, None),
            change("a/f", Mask::DELETE, None),
            change("a/f", Mask::CREATE, Some("second")),
        ]
    );
}

#[test]
fn a_directory_that_has_come_since_is_not_the_file_that_was_reported() {
    let mut world = World::new(true);
    world.has("a/f", "later");
    world.directories.insert(fid("later"));
    assert_eq!(
        world.read([report(A, "f", Mask::CREATE), report(A, "f", Mask::CLOSE_WRITE)]),
        [change("a/f", Mask::CREATE, None), change("a/f", Mask::CLOSE_WRITE, None)]
    );
}

#[test]
fn write_to_a_file_whose_name_a_directory_now_has_is_not_reported_for_the_directory() {
    let mut world = World::new(true).known("a/f", "f", 9);
    world.host.clear();
    world.read([report(A, "f", Mask::DELETE)]);
    world.has("a/f", "dir");
    world.directories.insert(fid("dir"));
    world.read([report(A, "f", Mask::CREATE | Mask::ISDIR)]);
    let (id, kind) = (NodeId::new(10).unwrap(), FileKind::Directory);
    let learned = Learned { id, fid: Some(fid("dir")), kind, ino: 10 };
    let dir = *world.tree.nodes_of(&fid("a")).first().unwrap();
    world.tree.learn(learned, dir, &name("f"));
    assert_eq!(
        world.read([report(A, "f", Mask::CLOSE_WRITE)]),
        [change("a/f", Mask::CLOSE_WRITE, None)]
    );
}

#[test]
fn a_deleted_name_was_what_the_guest_knew_though_another_is_there_now() {
    let mut world = World::new(true).known("a/f", "old", 9);
    world.has("a/f", "new");
    assert_eq!(
        world.read([report(A, "f", Mask::DELETE), report(A, "f", Mask::CREATE)]),
        [change("a/f", Mask::DELETE, Some("old")), change("a/f", Mask::CREATE, Some("new"))]
    );
    // The guest's tree still says the old one: it has replayed nothing.
    assert_eq!(
        world.read([report(A, "f", Mask::DELETE)]),
        [change("a/f", Mask::DELETE, Some("new"))]
    );
}

#[test]
fn writer_of_a_deleted_file_is_reported_under_its_name() {
    let mut world = World::new(true).known("a/f", "f", 9);
    world.host.clear();
    world.read([report(A, "f", Mask::DELETE)]);
    assert_eq!(
        world.read([report(A, "f", Mask::CLOSE_WRITE)]),
        [change("a/f", Mask::CLOSE_WRITE, Some("f"))]
    );
}

#[test]
fn an_exchange_moves_two_objects_and_there_and_back_moves_one() {
    let swap = || pair((A, "1"), (B, "2"), 7).into_iter().chain(pair((B, "2"), (A, "1"), 8));
    let there = |object| moved(Some("a/1"), Some("b/2"), object);
    let back = |object| moved(Some("b/2"), Some("a/1"), object);
    let mut world = World::new(true).known("a/1", "f", 9).known("b/2", "g", 10);
    world.has("a/1", "g");
    world.has("b/2", "f");
    assert_eq!(world.read(swap()), [there(Some("f")), back(Some("g"))]);

    let mut world = World::new(true).known("a/1", "f", 9);
    assert_eq!(world.read(swap()), [there(Some("f")), back(Some("f"))]);
    // Another has come to the other name since.
    let mut world = World::new(true).known("a/1", "f", 9);
    world.has("b/2", "later");
    assert_eq!(world.read(swap()), [there(Some("f")), back(Some("f"))]);
}

#[test]
fn after_an_exchange_each_name_stands_for_the_other_object_in_whatever_pieces_it_was_read() {
    let (first, second) = (pair((A, "1"), (B, "2"), 7), pair((B, "2"), (A, "1"), 8));
    for pieces in
        [vec![[first.clone(), second.clone()].concat()], vec![first.into(), second.into()]]
    {
        let mut world = World::new(true).known("a/1", "f", 9).known("b/2", "g", 10);
        world.has("a/1", "g");
        world.has("b/2", "f");
        let told: Vec<_> = pieces.into_iter().flat_map(|piece| world.read(piece)).collect();
        let there = moved(Some("a/1"), Some("b/2"), Some("f"));
        assert_eq!(told, [there, moved(Some("b/2"), Some("a/1"), Some("g"))]);
        assert_eq!(
            world.read([report(A, "1", Mask::ATTRIB), report(B, "2", Mask::ATTRIB)]),
            [change("a/1", Mask::ATTRIB, Some("g")), change("b/2", Mask::ATTRIB, Some("f"))]
        );
    }
}

#[test]
fn change_of_a_watched_directory_is_reported_once_by_its_name() {
    let mut world = World::new(true);
    let mask = Mask::ATTRIB | Mask::ISDIR;
    // `b` is in `a` now, on the host and in the tree.
    world.knows_b_at("a/sub");
    world.directories.insert(fid("b"));
    assert_eq!(
        world.read([report(A, "sub", mask), Report::Itself { watch: B, mask }]),
        [change("a/sub", mask, Some("b"))]
    );
    assert_eq!(world.read([Report::Itself { watch: B, mask }]), [], "of its link count");
    let itself = HostChange::Object { object: fid("a"), mask };
    assert_eq!(world.read([Report::Itself { watch: A, mask }]), [itself], "nobody has its name");
    world.tree.mounted(NodeId::new(3).unwrap());
    let itself = HostChange::Object { object: fid("b"), mask };
    assert_eq!(world.read([Report::Itself { watch: B, mask }]), [itself], "of a mount's root");
}

#[test]
fn the_second_report_of_a_directory_may_come_after_the_queue_was_empty_but_soon() {
    let mask = Mask::ATTRIB | Mask::ISDIR;
    for (later, told) in [(Duration::from_millis(999), 0), (Duration::from_secs(1), 1)] {
        let mut world = World::new(true);
        world.directories.insert(fid("b"));
        world.has("a/sub", "b");
        assert_eq!(world.read([report(A, "sub", mask)]), [change("a/sub", mask, Some("b"))]);
        let (none, _) = world.read_empty();
        assert_eq!(none, []);
        world.now += later;
        assert_eq!(world.read([Report::Itself { watch: B, mask }]).len(), told, "{later:?}");
    }
}

#[test]
fn a_file_and_a_directory_that_are_exchanged_are_known_by_their_kind() {
    let isdir = Mask::ISDIR;
    for at_once in [true, false] {
        let mut world = World::new(true).known("a/f", "file", 9);
        world.knows_b_at("a/d");
        world.directories.insert(fid("b"));
        // The directory's name has been given away again.
        world.has("a/f", "b");
        world.has("a/d", "other");
        let one = pair((A, "f"), (A, "d"), 1);
        let two =
            [half(A, "d", Mask::MOVED_FROM | isdir, 2), half(A, "f", Mask::MOVED_TO | isdir, 2)];
        let told = if at_once {
            world.read(one.into_iter().chain(two))
        } else {
            [world.read(one), world.read(two)].concat()
        };
        let (from, to) = (Some(entry("a/d")), Some(entry("a/f")));
        let second = HostChange::Move { from, to, object: Some(fid("b")), directory: true };
        assert_eq!(told, [moved(Some("a/f"), Some("a/d"), Some("file")), second], "{at_once}");
    }
}

#[test]
fn directory_made_where_another_was_is_the_one_that_moves() {
    let isdir = Mask::ISDIR;
    let mut world = World::new(true);
    world.knows_b_at("a/d");
    world.directories.extend([fid("b"), fid("new")]);
    let moves = |from, to, cookie| {
        [
            half(A, from, Mask::MOVED_FROM | isdir, cookie),
            half(A, to, Mask::MOVED_TO | isdir, cookie),
        ]
    };
    let moved = |to, object| HostChange::Move {
        from: Some(entry("a/d")),
        to: Some(entry(to)),
        object: Some(fid(object)),
        directory: true,
    };
    world.has("a/e", "b");
    assert_eq!(world.read(moves("d", "e", 1)), [moved("a/e", "b")]);
    world.has("a/d", "new");
    let made = Mask::CREATE | isdir;
    assert_eq!(world.read([report(A, "d", made)]), [change("a/d", made, Some("new"))]);
    assert_eq!(world.read(moves("d", "f", 2)), [moved("a/f", "new")]);
}

#[test]
fn object_exchanged_with_one_out_of_view_stays_and_the_other_leaves() {
    for joins in [true, false] {
        let mut world = World::new(joins).known("a/f", "old", 9);
        world.has("a/f", "new");
        let (came, left) =
            (moved(None, Some("a/f"), Some("new")), moved(Some("a/f"), None, Some("old")));
        let mut told =
            world.read([half(A, "f", Mask::MOVED_TO, 1), half(A, "f", Mask::MOVED_FROM, 2)]);
        world.now += Duration::from_secs(1);
        told.extend(world.read_empty().0);
        assert_eq!(told, [came, left]);
        let changed = world.read([report(A, "f", Mask::MODIFY)]);
        assert_eq!(changed, [change("a/f", Mask::MODIFY, Some("new"))]);
    }
}

// Watches.

#[test]
fn report_of_a_watch_after_its_removal_is_ignored() {
    let mut world = World::new(true);
    world.has("a/f", "f");
    assert_eq!(world.observer.unwatch(&fid("a")), Some(A));
    assert_eq!(world.observer.unwatch(&fid("a")), None);
    // The kernel has given the number to another directory, and the reports of the first are on
    // their way.
    world.observer.watch(A, fid("b"));
    assert_eq!(world.read([report(A, "f", Mask::CREATE)]), []);
    world.has("b/f", "g");
    assert_eq!(
        world.read([Report::Ignored(A), report(A, "f", Mask::CREATE)]),
        [change("b/f", Mask::CREATE, Some("g"))]
    );
}

#[test]
fn the_watch_of_a_directory_that_is_gone_ends_with_it() {
    let mut world = World::new(true);
    assert_eq!(world.observer.watches_len(), 2);
    assert_eq!(world.read([Report::Ignored(A), report(A, "f", Mask::CREATE)]), []);
    assert_eq!(world.observer.watches_len(), 1);
    assert_eq!(world.observer.unwatch(&fid("a")), None);
    assert_eq!(world.observer.clear(), [B]);
}

#[test]
fn a_full_queue_is_an_overflow_in_its_place() {
    let mut world = World::new(true);
    world.has("a/f", "f");
    assert_eq!(
        world.read([Report::Overflow, report(A, "f", Mask::CREATE)]),
        [HostChange::Overflow, change("a/f", Mask::CREATE, Some("f"))]
    );
}

// Echo.

fn at(path: &str) -> Expected {
    Expected::Entry(entry(path))
}

fn of(object: &str) -> Expected {
    Expected::Object(fid(object))
}

#[test]
fn announced_change_is_not_reported_and_its_repetition_is() {
    let mut world = World::new(true);
    world.has("a/d", "d");
    let call = world.expect(&at("a/d"), &[Mask::CREATE]);
    let create = report(A, "d", Mask::CREATE);
    assert_eq!(world.read([create.clone()]), [], "while the call is being made");
    assert_eq!(world.observer.end(call, true, None), []);
    let delete = report(A, "d", Mask::DELETE);
    assert_eq!(
        world.read([delete, create]),
        [change("a/d", Mask::DELETE, Some("d")), change("a/d", Mask::CREATE, Some("d"))]
    );
}

#[test]
fn an_announcement_ends_when_the_queue_was_empty_after_the_call() {
    let mut world = World::new(true).known("a/f", "f", 9);
    let call = world.expect(&of("f"), &[Mask::ATTRIB]);
    let attrib = || report(A, "f", Mask::ATTRIB);
    let (_, drained) = world.read_empty();
    assert_eq!(drained, Some(Drained { doubts: vec![], again: false }), "the call is being made");
    // The queue is read while the call ends: what was read may have been before it.
    let mark = world.observer.begin();
    world.observer.end(call, true, None);
    world.observer.handle(world.now, []);
    assert!(world.observer.drained(mark).unwrap().again);
    assert!(!world.read_empty().1.unwrap().again);
    assert_eq!(world.read([attrib()]), [change("a/f", Mask::ATTRIB, Some("f"))]);
}

#[test]
fn empty_queue_ends_announcements_unless_the_watch_thread_is_busy() {
    let mut world = World::new(true).known("a/f", "f", 9);
    let attrib = || report(A, "f", Mask::ATTRIB);
    let call = world.expect(&of("f"), &[Mask::ATTRIB]);
    let mark = world.observer.begin();
    world.observer.end(call, true, None);
    assert!(!world.observer.is_idle());
    world.observer.found_empty();
    // It had this in hand.
    world.observer.handle(world.now, [attrib()]);
    assert_eq!(world.tell(), []);
    world.observer.drained(mark);

    world.read_empty();
    let call = world.expect(&of("f"), &[Mask::ATTRIB]);
    world.observer.end(call, true, None);
    assert!(world.observer.is_idle());
    world.observer.found_empty();
    assert_eq!(world.read([attrib()]), [change("a/f", Mask::ATTRIB, Some("f"))]);
}

#[test]
fn an_announcement_ends_when_the_queue_as_it_was_at_the_calls_end_has_been_read_though_it_is_never_empty()
 {
    let mut world = World::new(true).known("a/f", "f", 9);
    let attrib = || report(A, "f", Mask::ATTRIB);
    // One report comes of what was announced twice.
    let call = world.expect(&of("f"), &[Mask::ATTRIB; 2]);
    world.observer.end(call, true, None);
    let mark = world.observer.begin();
    world.observer.handle(world.now, [attrib()]);
    let position = world.observer.position();
    // Read after a look, and told with the next read.
    world.observer.read_on(world.now, [report(A, "g", Mask::CREATE)]);
    assert_eq!(world.tell(), []);
    assert_eq!(world.observer.passed(mark, world.observer.position()), None, "g waits");
    assert!(!world.observer.passed(mark, position).unwrap().again);
    assert!(!world.observer.is_idle());
    world.observer.handle(world.now, [attrib()]);
    assert!(world.tell().contains(&change("a/f", Mask::ATTRIB, Some("f"))), "somebody else's");
}

#[test]
fn a_report_under_another_name_of_the_object_is_its_echo_too() {
    let mut world = World::new(true).known("a/f", "f", 9);
    world.has("b/link", "f");
    let call = world.expect(&of("f"), &[Mask::MODIFY]);
    assert_eq!(world.read([report(B, "link", Mask::MODIFY)]), []);
    world.observer.end(call, true, None);
}

#[test]
fn write_to_a_replaced_file_is_an_echo_under_its_old_name() {
    let mut world = World::new(true).known("a/f", "f", 9).known("a/g", "g", 10);
    world.read(pair((A, "g"), (A, "f"), 7));
    world.expect(&of("f"), &[Mask::MODIFY, Mask::CLOSE_WRITE]);
    let modify = report(A, "f", Mask::MODIFY);
    assert_eq!(world.read([modify.clone(), report(A, "f", Mask::CLOSE_WRITE)]), []);
    assert_eq!(world.read([modify]), [change("a/f", Mask::MODIFY, Some("g"))]);
}

#[test]
fn a_late_close_is_the_echo_of_a_file_that_the_guest_has_deleted() {
    let mut world = World::new(true).known("a/f", "f", 9);
    let unlink = world.expect(&at("a/f"), &[Mask::DELETE]);
    // The guest has its reply before the report is read.
    world.tree.cleared(NodeId::new(2).unwrap(), &name("f"));
    world.observer.end(unlink, true, None);
    world.expect(&of("f"), &[Mask::CLOSE_WRITE]);
    world.host.clear();
    let reports = [report(A, "f", Mask::DELETE), report(A, "f", Mask::CLOSE_WRITE)];
    assert_eq!(world.read(reports), []);
}

#[test]
fn bits_that_arrive_together_are_separated() {
    let mut world = World::new(true).known("a/f", "f", 9);
    world.expect(&of("f"), &[Mask::MODIFY]);
    assert_eq!(
        world.read([report(A, "f", Mask::MODIFY | Mask::ATTRIB)]),
        [change("a/f", Mask::ATTRIB, Some("f"))]
    );
}

#[test]
fn both_names_of_a_rename_have_to_be_announced() {
    let mut world = World::new(true).known("a/f", "f", 9).known("a/g", "g", 10);
    let rename = [(at("a/f"), Mask::MOVED_FROM), (at("b/f"), Mask::MOVED_TO)];
    world.observer.expect(rename.to_vec(), &world.tree);
    assert_eq!(world.read(pair((A, "f"), (B, "f"), 7)), []);
    world.observer.expect(rename.to_vec(), &world.tree);
    assert_eq!(
        world.read(pair((A, "g"), (B, "f"), 8)),
        [moved(Some("a/g"), Some("b/f"), Some("g"))],
        "somebody else's, to the same name"
    );
}

#[test]
fn the_report_of_a_call_that_failed_was_somebody_elses_and_its_directory_is_compared() {
    let mut world = World::new(true);
    world.has("a/d", "d");
    let call = world.expect(&at("a/d"), &[Mask::CREATE]);
    let create = report(A, "d", Mask::CREATE);
    assert_eq!(world.read([create.clone()]), []);
    assert_eq!(world.observer.end(call, false, None), [fid("a")]);

    let call = world.expect(&at("a/d"), &[Mask::CREATE]);
    assert_eq!(world.observer.end(call, false, None), [], "nothing was taken");
    assert_eq!(world.read([create]), [change("a/d", Mask::CREATE, Some("d"))]);
}

#[test]
fn a_report_that_may_be_anothers_is_settled_by_the_objects_ctime() {
    let mut world = World::new(true).known("a/f", "f", 9);
    let modify = || report(A, "f", Mask::MODIFY);
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(5);

    let during = world.expect(&of("f"), &[Mask::MODIFY]);
    assert_eq!(world.read([modify()]), []);
    world.observer.end(during, true, Some(changed));
    let (_, drained) = world.read_empty();
    assert_eq!(drained.unwrap().doubts, [], "the guest looks after the call");

    let call = world.expect(&of("f"), &[Mask::MODIFY]);
    world.observer.end(call, true, Some(changed));
    assert_eq!(world.read([modify()]), []);
    // While another call is being made the object cannot tell.
    let next = world.expect(&of("f"), &[Mask::ATTRIB]);
    assert_eq!(world.read_empty().1.unwrap().doubts, []);
    // Nor is what that has changed anybody else's doing, or what a link of it has, of which nothing
    // is reported.
    let linked = world.expect(&of("f"), &[Mask::empty()]);
    world.observer.end(next, true, Some(changed + Duration::from_secs(1)));
    let changed = changed + Duration::from_secs(2);
    world.observer.end(linked, true, Some(changed));
    let (_, drained) = world.read_empty();
    let doubts = drained.unwrap().doubts;
    assert_eq!(doubts.len(), 1);
    let doubt = &doubts[0];
    assert_eq!((&doubt.entry, &doubt.object), (&entry("a/f"), &fid("f")));
    assert_eq!((doubt.mask, doubt.changed), (Mask::MODIFY, changed));
    assert_eq!(world.read_empty().1.unwrap().doubts, [], "it is settled once");
}

#[test]
fn a_report_is_the_calls_own_if_the_object_was_not_changed_until_it_was_read() {
    let mut world = World::new(true).known("a/f", "f", 9);
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let call = world.expect(&of("f"), &[Mask::MODIFY]);
    world.observer.end(call, true, Some(changed));
    assert_eq!(world.read([report(A, "f", Mask::MODIFY)]), []);
    let doubts = world.observer.doubts();
    assert_eq!(doubts.iter().map(|doubt| doubt.changed).collect::<Vec<_>>(), [changed]);
    world.observer.settled(&fid("f"));
    assert_eq!(world.observer.doubts(), []);
    assert_eq!(world.read_empty().1.unwrap().doubts, [], "whatever happens to it later");
}

#[test]
fn calls_whose_end_is_not_read_are_forgotten_oldest_first() {
    let mut world = World::new(true);
    world.has("a/f0", "f");
    world.has("a/f20000", "g");
    for i in 0..=20_000 {
        let call = world.expect(&at(&format!("a/f{i}")), &[Mask::CREATE]);
        world.observer.end(call, true, None);
    }
    assert_eq!(world.read([report(A, "f20000", Mask::CREATE)]), []);
    assert_eq!(
        world.read([report(A, "f0", Mask::CREATE)]),
        [change("a/f0", Mask::CREATE, Some("f"))]
    );
}

#[test]
fn objects_without_file_handles_differ_by_device_number_and_birth() {
    let born = |secs| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
    let fids = [
        Fid::of_inode(1, 2, born(3)),
        Fid::of_inode(1 << 40 | 1, 2, born(3)),
        Fid::of_inode(1, 3, born(3)),
        Fid::of_inode(1, 2, born(4)),
        Fid::of_inode(1, 2, None),
    ];
    for (i, one) in fids.iter().enumerate() {
        for (j, other) in fids.iter().enumerate() {
            assert_eq!(one == other, i == j);
        }
    }
}

#[test]
fn report_with_a_number_in_place_of_a_name_is_of_an_unknown_object() {
    let mut world = World::new(true).known("a/f", "file", 10);
    let told = world.read([report(A, "#10", Mask::ATTRIB)]);
    assert_eq!(told, [change("a/#10", Mask::ATTRIB, None)]);
}
