// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the share says of its work.

use farwatch_proto::host::{Answer, Learned, MarkedRequest};
use farwatch_proto::{NodeId, Seq};

use super::*;
use crate::meter::{Kind, Record};
use crate::share::{ClientKind, Known};

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

/// What has been recorded about an event that `create` leads to.
fn records(share: &Share) -> Vec<(Kind, String, bool)> {
    let show = |record: Record| (record.kind, record.path, record.latency_us.is_some());
    share.journal(Some(0)).records.into_iter().map(show).collect()
}

/// The guest knows directory 3 as `a/b`.
fn learn_directories(share: &Share) {
    let engine = &mut share.lock().engine;
    for (number, dir, text) in [(2, NodeId::ROOT, "a"), (3, NodeId::new(2).unwrap(), "b")] {
        let (id, fid) = (NodeId::new(number.into()).unwrap(), Some(fid(number)));
        let learned = Learned { id, fid, kind: FileKind::Directory, ino: 0 };
        engine.learn(learned, dir, &name(text));
    }
}

#[test]
fn event_is_recorded_when_it_is_reported_sent_and_replayed() {
    let (share, _work) = listening(Delivery::Queue);
    share.watch_ended();
    assert_eq!(share.journal(None).records, []);
    create(&share);
    assert!(matches!(share.pull(Sink::Queue), Pulled::Notification(_)));
    let new = name("new");
    share.answer(Some(Seq::FIRST), MarkedRequest::Lookup(NodeId::ROOT, &new));
    let create = MarkedRequest::Create(NodeId::ROOT, &new, FileKind::Regular);
    assert!(matches!(share.answer(Some(Seq::FIRST), create), Answer::Entry(_)));
    let expected = [(Kind::Reported, false), (Kind::Sent, false), (Kind::Replayed, true)];
    let expected = expected.map(|(kind, took)| (kind, "new".to_owned(), took));
    assert_eq!(records(&share), expected);
    let reading = share.shown().reading;
    assert_eq!(reading.latency_of_minute.count(), 1);
    assert_eq!((reading.totals.observed, reading.totals.replayed), (1, 1));
}

#[test]
fn latency_ends_with_the_send_where_the_client_raises_the_event() {
    let (share, _work) = attached(Delivery::Queue, true);
    share.journal(None);
    create(&share);
    assert!(matches!(share.pull(Sink::Queue), Pulled::Notification(_)));
    assert_eq!(records(&share)[1], (Kind::Sent, "new".to_owned(), true));
    let shown = share.shown();
    assert_eq!(shown.reading.latency_of_minute.count(), 1);
    assert_eq!(shown.client.map(|client| client.kind), Some(ClientKind::Module));
}

#[test]
fn nothing_is_recorded_without_a_reader() {
    let (share, _work) = listening(Delivery::Queue);
    create(&share);
    assert_eq!(records(&share), []);
}

#[test]
fn path_leads_from_the_root_to_the_entry_and_begins_with_a_mark_where_it_is_not_known() {
    let (share, _work) = listening(Delivery::Queue);
    learn_directories(&share);
    share.journal(None);
    let entry = |dir| HostEntry { dir: fid(dir), name: name("f") };
    let moved = |from, to| HostChange::Move {
        from: Some(entry(from)),
        to: Some(entry(to)),
        object: None,
        directory: false,
    };
    let object = |dir| HostChange::Object { object: fid(dir), mask: Mask::ATTRIB | Mask::ISDIR };
    let mut changes = vec![moved(3, 2), moved(9, 1), object(3), object(1), object(9)];
    share.take_in(&mut |_| Observed {
        changes: std::mem::take(&mut changes),
        ..Observed::default()
    });
    let places = share.journal(Some(0)).records.into_iter().map(|record| (record.path, record.to));
    let expected =
        [("a/b/f", Some("a/f")), ("?/f", Some("f")), ("a/b", None), (".", None), ("?", None)];
    let expected = expected.map(|(path, to)| (path.to_owned(), to.map(str::to_owned)));
    assert_eq!(places.collect::<Vec<_>>(), expected);
}

#[test]
fn directory_is_watched_if_it_is_known_and_could_be_marked() {
    let (share, _work) = listening(Delivery::Queue);
    learn_directories(&share);
    share.lock().unmarked.insert(NodeId::new(3).unwrap(), "no room".to_owned());
    let known = |path: &[&str]| share.known(path.iter().map(|name| name.as_bytes()));
    assert_eq!(known(&[]), Known::Watched);
    assert_eq!(known(&["a"]), Known::Watched);
    assert_eq!(known(&["a", "b"]), Known::Unwatched);
    assert_eq!(known(&["a", "c"]), Known::Unknown);
    assert_eq!(known(&["a", ".."]), Known::Unknown, "no path leads out");
}

#[test]
fn agent_that_has_gone_is_shown_no_more() {
    let (share, _work) = listening(Delivery::Reads);
    assert_eq!(share.shown().client.map(|client| client.kind), Some(ClientKind::Agent));
    share.detach();
    assert!(share.shown().client.is_none());
    assert!(share.shown().session_since.is_some(), "the guest has the share mounted still");
    share.reset(None);
    assert!(share.shown().session_since.is_none());
}
