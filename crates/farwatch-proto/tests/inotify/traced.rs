// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was found under names is traced back over what was read by then, and a directory with something in it is exchanged.

use super::*;

#[test]
fn object_moved_to_a_new_name_before_the_look_is_not_the_created_one() {
    let mut world = World::new(true).known("b/x", "other", 9);
    world.observer.handle(world.now, [report(A, "f", Mask::CREATE)]);
    world.has("a/f", "other");
    let moved_there = pair((B, "x"), (A, "f"), 7);
    let delete = report(A, "f", Mask::DELETE);
    let meanwhile = [delete].into_iter().chain(moved_there);
    assert_eq!(world.tell_before(meanwhile), [change("a/f", Mask::CREATE, None)]);
    let told = world.read_empty().0;
    assert_eq!(
        told,
        [change("a/f", Mask::DELETE, None), moved(Some("b/x"), Some("a/f"), Some("other")),]
    );
}

#[test]
fn object_that_left_a_new_name_after_the_look_is_the_created_one() {
    let mut world = World::new(true);
    world.observer.handle(world.now, [report(A, "f", Mask::CREATE)]);
    world.has("a/f", "f");
    let moved_on = pair((A, "f"), (B, "y"), 7);
    let meanwhile = moved_on.into_iter().chain([report(B, "y", Mask::DELETE)]);
    assert_eq!(world.tell_before(meanwhile), [change("a/f", Mask::CREATE, Some("f"))]);
    world.host.clear();
    assert_eq!(
        world.read_empty().0,
        [moved(Some("a/f"), Some("b/y"), Some("f")), change("b/y", Mask::DELETE, Some("f")),]
    );
}

#[test]
fn object_replaced_after_the_look_is_not_the_one_that_replaced_it() {
    let mut world = World::new(true).known("b/y", "old", 9);
    // By the time `a/f` is looked for it has moved, after `b/y` was looked up.
    let rename = pair((B, "x"), (B, "y"), 6);
    let reports = rename.into_iter().chain([report(A, "f", Mask::CREATE)]);
    world.observer.handle(world.now, reports);
    let told = world.tell_before(pair((A, "f"), (B, "y"), 7));
    assert_eq!(told.last(), Some(&change("a/f", Mask::CREATE, None)));
}

#[test]
fn events_waiting_behind_a_half_are_traced_back_too() {
    let mut world = World::new(true).known("b/x", "other", 9);
    let [half, mate] = pair((B, "y"), (B, "z"), 8);
    let delete = report(A, "f", Mask::DELETE);
    let [from, to] = pair((B, "x"), (A, "f"), 7);
    world.observer.handle(world.now, [report(A, "f", Mask::CREATE), half, delete, from, to]);
    world.has("a/f", "other");
    assert_eq!(world.tell(), [change("a/f", Mask::CREATE, None)]);
    assert_eq!(
        world.read([mate]),
        [
            moved(Some("b/y"), Some("b/z"), None),
            change("a/f", Mask::DELETE, None),
            moved(Some("b/x"), Some("a/f"), Some("other")),
        ]
    );
}

#[test]
fn renames_there_and_back_are_no_exchange_with_a_later_object_of_that_name() {
    let mut world = World::new(true).known("a/f", "f", 9);
    world.host.clear();
    world.has("a/f", "later");
    world.has("a/g", "f");
    let [there, back] = [pair((A, "f"), (A, "g"), 7), pair((A, "g"), (A, "f"), 8)];
    let reports = there.into_iter().chain(back).chain(pair((A, "f"), (A, "g"), 9));
    let create = report(A, "f", Mask::CREATE);
    assert_eq!(
        world.read(reports.chain([create])),
        [
            moved(Some("a/f"), Some("a/g"), Some("f")),
            moved(Some("a/g"), Some("a/f"), Some("f")),
            moved(Some("a/f"), Some("a/g"), Some("f")),
            change("a/f", Mask::CREATE, Some("later")),
        ]
    );
}

#[test]
fn directory_with_something_in_it_is_exchanged_and_not_replaced() {
    let isdir = |mut report: Report| {
        if let Report::Entry { mask, .. } = &mut report {
            *mask |= Mask::ISDIR;
        }
        report
    };
    let directory = |mut change: HostChange| {
        if let HostChange::Move { directory, .. } = &mut change {
            *directory = true;
        }
        change
    };
    for is_filled in [true, false] {
        let mut world = World::new(true);
        world.knows_b_at("a/b");
        if is_filled {
            world.has("b/f", "f");
            world.read([report(B, "f", Mask::CREATE)]);
        }
        // What came to `a/x` has gone on since, and so has `b`.
        let there = pair((A, "x"), (A, "b"), 7).map(isdir);
        let back = pair((A, "b"), (A, "x"), 8).map(isdir);
        let second = is_filled.then_some("b");
        assert_eq!(
            world.read(there.into_iter().chain(back)),
            [
                directory(moved(Some("a/x"), Some("a/b"), None)),
                directory(moved(Some("a/b"), Some("a/x"), second)),
            ]
        );
        // With something that is out of view.
        let mut world = World::new(true);
        world.knows_b_at("a/b");
        if is_filled {
            world.read([report(B, "f", Mask::CREATE)]);
        }
        let reports = [half(A, "b", Mask::MOVED_TO, 9), half(A, "b", Mask::MOVED_FROM, 10)];
        let mut told = world.read(reports.map(isdir));
        world.now += Duration::from_secs(1);
        told.extend(world.read_empty().0);
        let out = directory(moved(Some("a/b"), None, second));
        assert_eq!(told, [directory(moved(None, Some("a/b"), None)), out]);
    }
    // The guest has found it under the new name before the rename was reported.
    let mut world = World::new(true);
    world.knows_b_at("a/x");
    world.knows_b_at("a/b");
    world.read([report(B, "f", Mask::CREATE)]);
    let (there, back) = (pair((A, "x"), (A, "b"), 7), pair((A, "b"), (A, "x"), 8));
    let reports = there.into_iter().chain(back).map(isdir);
    let [there, back] = [("a/x", "a/b"), ("a/b", "a/x")]
        .map(|(from, to)| directory(moved(Some(from), Some(to), Some("b"))));
    assert_eq!(world.read(reports), [there, back]);
}
