// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which known object has lost a name that the guest never looked up: those with several names are kept.

use super::*;

#[test]
fn unknown_name_belonged_to_the_known_object_that_lost_a_link() {
    let mut world = World::new(true).known("a/f", "f", 9).known("a/other", "other", 10);
    for object in ["f", "other"] {
        world.has(&format!("b/of-{object}"), object);
        world.has(&format!("b/more-of-{object}"), object);
        world.observer.learn(fid(object), 3, &world.tree);
    }
    let mut delete = |path: &str, watch, name: &str| {
        world.host.remove(&entry(path));
        world.read([report(watch, name, Mask::DELETE)])
    };
    let gone = |path: &str, object| [change(path, Mask::DELETE, object)];
    assert_eq!(delete("b/stranger", B, "stranger"), gone("b/stranger", None));
    assert_eq!(delete("b/of-other", B, "of-other"), gone("b/of-other", Some("other")));
    assert_eq!(delete("b/stranger2", B, "stranger2"), gone("b/stranger2", None));
    assert_eq!(delete("a/f", A, "f"), gone("a/f", Some("f")));
    assert_eq!(delete("b/stranger3", B, "stranger3"), gone("b/stranger3", None));
}

#[test]
fn a_name_that_another_object_took_is_not_looked_for_when_the_next_one_goes() {
    let mut world = World::new(true).known("a/f", "f", 9).known("a/other", "other", 10);
    world.has("b/of-f", "f");
    world.observer.learn(fid("f"), 2, &world.tree);
    world.host.remove(&entry("a/other"));
    world.has("a/f", "other");
    world.read(pair((A, "other"), (A, "f"), 7));
    assert_eq!(
        world.read([report(B, "stranger", Mask::DELETE)]),
        [change("b/stranger", Mask::DELETE, None)]
    );
}

#[test]
fn of_too_many_objects_with_several_names_the_last_are_not_kept() {
    let mut world = World::new(true);
    for i in 0..2000 {
        world = world.known(&format!("a/f{i}"), &format!("o{i}"), 100 + i);
        world.observer.learn(fid(&format!("o{i}")), 2, &world.tree);
    }
    world.host.insert(entry("b/link"), fid("o0"));
    let delete = [report(B, "x", Mask::DELETE)];
    assert_eq!(world.read(delete), [change("b/x", Mask::DELETE, Some("o1"))]);
    let looks = |world: &mut World| {
        world.observer.handle(world.now, [report(B, "y", Mask::DELETE)]);
        world.observer.looks(&world.tree).links.len()
    };
    assert_eq!(looks(&mut world), 1024);
}

#[test]
fn objects_that_the_guest_has_forgotten_make_room_for_others_with_several_names() {
    let mut world = World::new(true);
    for i in 0..2000 {
        world = world.known(&format!("a/f{i}"), &format!("o{i}"), 100 + i);
        world.observer.learn(fid(&format!("o{i}")), 2, &world.tree);
    }
    for i in 0..2000 {
        world.tree.forget(NodeId::new(100 + i).unwrap(), 1);
    }
    for i in 3000..4000 {
        world = world.known(&format!("a/f{i}"), &format!("o{i}"), 100 + i);
        world.observer.learn(fid(&format!("o{i}")), 2, &world.tree);
    }
    world.observer.handle(world.now, [report(B, "y", Mask::DELETE)]);
    let looks = world.observer.looks(&world.tree).links;
    assert!(looks.contains(&fid("o3999")), "{} are looked at", looks.len());
    assert!(!looks.contains(&fid("o0")));
}
