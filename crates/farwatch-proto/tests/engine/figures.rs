// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine says of its work: counts, and from when to when an event took.

use std::time::Duration;

use super::*;

fn later(host: &mut Host, secs: u64) -> Instant {
    host.now = host.now.checked_add(Duration::from_secs(secs)).expect("it is not the end of time");
    host.now
}

#[test]
fn replay_finishes_with_the_last_request_that_its_event_asks_for() {
    let mut host = Host::new();
    host.knows_file("f", 2);
    let observed = later(&mut host, 1);
    host.changed("f", Mask::DELETE, 2);
    assert_eq!(host.engine.figures().backlog, 1);
    later(&mut host, 1);
    assert!(host.next().is_some());
    assert_eq!(host.engine.just_sent().and_then(|sent| sent.observed), Some(observed));
    assert_eq!(host.engine.figures().in_replay, 1);
    host.lookup("f");
    assert_eq!(host.engine.take_finished(), None, "the removal itself is still to come");
    assert_eq!(host.unlink("f"), Answer::Done);
    let finished = host.engine.take_finished().map(|finished| (finished.seq, finished.observed));
    assert_eq!(finished, Some((Seq::FIRST, Some(observed))));
    assert_eq!(host.engine.take_finished(), None, "it is told once");
    let figures = host.engine.figures();
    assert_eq!((figures.backlog, figures.in_replay, figures.unreplayed), (0, 0, 0));
}

#[test]
fn event_that_takes_another_in_counts_from_the_first_report() {
    let mut host = Host::new();
    host.knows_file("f", 2);
    let observed = later(&mut host, 1);
    host.changed("f", Mask::MODIFY, 2);
    later(&mut host, 1);
    host.changed("f", Mask::CLOSE_WRITE, 2);
    assert_eq!(host.engine.figures().backlog, 1, "one message carries both");
    assert!(host.next().is_some());
    assert_eq!(host.engine.just_sent().and_then(|sent| sent.observed), Some(observed));
}

#[test]
fn replay_that_the_agent_passes_over_counts_as_unreplayed() {
    let mut host = Host::new();
    for number in [2, 3] {
        host.changed(&format!("f{number}"), Mask::CREATE, number);
        while let Some(look) = host.next_look() {
            host.looked(&look, FileKind::Regular);
        }
        assert!(host.next().is_some());
    }
    host.mknod("f3");
    assert_eq!(host.engine.figures().unreplayed, 1);
}

#[test]
fn rename_counts_as_one_event_though_it_takes_two_messages() {
    let mut host = Host::new();
    host.knows_file("a", 2);
    host.moved(Some((1, "a")), Some((1, "b")), 2);
    assert!(host.next().is_some());
    assert!(host.engine.just_sent().is_some());
    assert!(host.next().is_some());
    assert_eq!(host.engine.just_sent(), None);
}

#[test]
fn nodes_and_directories_are_counted_while_the_guest_knows_them() {
    let mut host = Host::new();
    host.knows_file("f", 2);
    host.guest_knows("d", 3, FileKind::Directory);
    let known = |host: &Host| {
        let figures = host.engine.figures();
        (figures.nodes, figures.directories)
    };
    assert_eq!(known(&host), (3, 2), "the root is one of them");
    host.engine.forget(id(3), 1);
    assert_eq!(known(&host), (2, 1));
}
