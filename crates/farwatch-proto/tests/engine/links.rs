// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Link counts, and the end of the watches on an object: what the guest's kernel is told of both where host and
//! guest change the same names.

use farwatch_proto::host::{Checked, Ending, Listed};

use super::*;

fn listed(entry: &str, number: u8) -> Listed {
    Listed {
        name: name(entry),
        object: Some(fid(number)),
        kind: FileKind::Regular,
        changed: SystemTime::UNIX_EPOCH,
        born: None,
    }
}

impl Host {
    /// The kernel's queue is read until nothing more comes of it. What is compared is found to be `found`. Returns
    /// what was sent, without probes, to which the agent answers.
    fn rest(&mut self, found: Option<&Listed>) -> Vec<Notification> {
        self.rest_where(|_| found)
    }

    /// The same, where what is found depends on the entry.
    fn rest_where<'a>(&mut self, found: impl Fn(&Name) -> Option<&'a Listed>) -> Vec<Notification> {
        let mut sent = Vec::new();
        for _ in 0..8 {
            if let Some(mark) = self.engine.to_read() {
                self.engine.input(self.now, Input::ReadUpTo(mark));
            }
            self.engine.input(self.now, Input::ReadDone);
            loop {
                match self.engine.poll_output(self.now) {
                    Output::Check(check) => {
                        let found = found(&check.name).cloned();
                        let checked = Checked { found, removed: Vec::new() };
                        self.engine.input(self.now, Input::Checked(check, checked));
                    }
                    Output::Timeout(_) => break,
                    Output::Look(_) | Output::Wake | Output::Rescan(_) => {}
                }
            }
            while let Some(notification) = self.next() {
                match (notification.node, &notification.name) {
                    (Some(node), None) if node.id.is_reserved() => {
                        self.engine.probe_seen(node.id);
                    }
                    _ => sent.push(notification),
                }
            }
        }
        sent
    }

    fn own(&mut self, change: OwnChange<'_>) {
        self.engine.guest_changed(change);
    }
}

/// The guest has removed `f`, node 2, and the creation of another `f` is replayed.
fn contested() -> Host {
    let mut host = Host::new();
    host.knows_file("f", 2);
    host.own(OwnChange::Removed(NodeId::ROOT, &name("f")));
    host.changed("f", Mask::CREATE, 3);
    host.next().expect("the creation");
    assert_eq!(host.lookup("f"), ENOENT);
    assert!(matches!(host.mknod("f"), Answer::Entry(_)));
    host
}

#[test]
fn node_that_was_held_under_a_contested_name_is_ended_at_rest() {
    let mut host = contested();
    let sent = host.rest(Some(&listed("f", 3)));
    let [end] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(end.node.map(|node| node.id), Some(NodeId::LIMBO));
    assert_eq!(end.mask, Mask::DELETE);
    assert_eq!(end.child.map(|node| node.id), Some(id(2)));
    let entry = end.name.clone().expect("a name");
    assert!(entry.as_bytes().starts_with(b"end-"), "{entry:?} may be an agent's own");
    assert_eq!(host.ask(MarkedRequest::Lookup(NodeId::LIMBO, &entry)), known(2, 1, false));
    let remove = MarkedRequest::Remove(NodeId::LIMBO, &entry, false);
    assert_eq!(host.ask(remove), Answer::Done);
    assert_eq!(host.ask(remove), EPERM, "once");
}

#[test]
fn node_that_is_there_or_was_forgotten_is_not_ended() {
    let mut host = contested();
    host.engine.forget(id(2), 1);
    host.knows_file("f", 3);
    assert_eq!(host.rest(Some(&listed("f", 3))), []);
}

/// As one in the guest's limbo directory, or one that a program there has open and unlinked.
#[test]
fn node_without_a_name_is_ended_when_the_next_agent_comes() {
    let mut host = Host::new();
    host.knows_file("f", 2);
    host.knows_file("g", 3);
    host.own(OwnChange::Removed(NodeId::ROOT, &name("f")));
    assert_eq!(host.rest(None), []);
    host.engine.detach();
    host.engine.attach(43).unwrap();
    host.engine.listen(SystemTime::UNIX_EPOCH);
    let sent = host.rest(None);
    let [end] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(end.node.map(|node| node.id), Some(NodeId::LIMBO));
    assert_eq!((end.mask, end.child.map(|node| node.id)), (Mask::DELETE, Some(id(2))));
}

#[test]
fn rename_whose_second_half_was_replayed_alone_has_arrived() {
    let mut host = Host::new();
    host.moved(Some((1, "a")), Some((1, "b")), 5);
    host.next().expect("the first half");
    host.next().expect("the second half");
    // The guest has its old directory no more.
    let (b, n1) = (name("b"), name("1"));
    let into = MarkedRequest::Rename(NodeId::LIMBO, &n1, NodeId::ROOT, &b);
    assert_eq!(host.ask(into), Answer::Done);
    // Then the next one, so that the second half is done with.
    host.changed("x", Mask::DELETE, 6);
    host.next().expect("the removal");
    host.lookup("x");
    assert_eq!(host.unlink("x"), Answer::Done);
    let there = listed("b", 5);
    let mut sent = host.rest_where(|entry| (*entry == b).then_some(&there));
    // A probe shows that the replay does not go on.
    host.now += std::time::Duration::from_secs(1);
    sent.extend(host.rest_where(|entry| (*entry == b).then_some(&there)));
    let mut names: Vec<_> = sent.into_iter().filter_map(|sent| sent.name).collect();
    // Nobody replays it, so it is sent more than once.
    names.dedup();
    assert_eq!(names, [name("a")], "where it left nothing was reported");
}

#[test]
fn link_count_is_at_least_the_number_of_names() {
    let mut host = Host::new();
    host.knows_file("a", 2);
    assert_eq!(host.engine.links_named(id(2), 1), 1);
    assert!(!host.engine.has_more_links(id(2)));
    // The guest has looked ahead of a rename.
    host.knows_file("b", 2);
    assert_eq!(host.engine.links_told(id(2), 1), 2);
    assert!(host.engine.has_more_links(id(2)));
    host.moved(Some((1, "a")), Some((1, "b")), 2);
    host.next().expect("the first half");
    assert_eq!(host.rename("a", "b"), ESTALE, "the kernel is to forget what it found there");
    assert_eq!(host.lookup("b"), ENOENT);
    assert_eq!(host.rename("a", "b"), Answer::Done);
    assert_eq!(host.engine.links_told(id(2), 1), 1);
    assert!(!host.engine.has_more_links(id(2)));
}

#[test]
fn link_that_a_replay_takes_is_counted_until_it_has_taken_it() {
    let mut host = Host::new();
    host.knows_file("a", 2);
    host.changed("a", Mask::DELETE, 2);
    host.next().expect("the removal");
    assert_eq!(host.engine.links_told(id(2), 1), 2, "it has another name");
    assert_eq!(host.engine.links_named(id(2), 1), 1, "to the agent");
    assert_eq!(host.unlink("a"), Answer::Done);
    assert_eq!(host.engine.links_told(id(2), 1), 1);
}

#[test]
fn file_that_the_guest_has_brought_to_a_name_outlives_an_earlier_change() {
    let mut host = Host::new();
    host.knows_file("a", 2);
    host.knows_file("c", 4);
    host.changed("b", Mask::DELETE, 3);
    host.own(OwnChange::Renamed((NodeId::ROOT, &name("a")), (NodeId::ROOT, &name("b"))));
    host.next().expect("the removal");
    let ending = |host: &Host, entry: &str, number, links| {
        host.engine.mistaken_ending(host.seq, (NodeId::ROOT, &name(entry)), id(number), links)
    };
    assert_eq!(ending(&host, "b", 2, 1), Some(Ending::Removed));
    assert_eq!(ending(&host, "b", 2, 0), None, "it is gone");
    host.changed("c", Mask::DELETE, 4);
    host.next().expect("the removal");
    assert_eq!(ending(&host, "c", 4, 1), None, "it has lost one of its names");
}

#[test]
fn rename_does_not_replace_what_it_moves() {
    let mut host = Host::new();
    host.knows_file("a", 2);
    host.knows_file("b", 3);
    host.knows_file("b", 2);
    host.moved(Some((1, "a")), Some((1, "b")), 2);
    host.next().expect("the first half");
    let ended = host.engine.ending_nodes(host.seq, NodeId::ROOT, &name("b"));
    assert_eq!(ended, [id(3)]);
}

#[test]
fn node_that_the_guest_has_taken_the_last_name_from_is_ended_if_its_count_was_too_high() {
    for looked_ahead in [true, false] {
        let mut host = Host::new();
        host.knows_file("a", 2);
        if looked_ahead {
            host.knows_file("b", 2);
        }
        host.engine.links_told(id(2), 1);
        host.own(OwnChange::Removed(NodeId::ROOT, &name("a")));
        let sent = host.rest(None);
        let ended = sent.iter().any(|sent| sent.child.is_some_and(|child| child.id == id(2)));
        assert_eq!(ended, looked_ahead, "{sent:?}");
    }
}

#[test]
fn link_count_that_the_guest_was_given_last_is_known() {
    let mut host = Host::new();
    host.knows_file("a", 2);
    assert_eq!(host.engine.links_given(id(2)), None);
    host.engine.links_told(id(2), 1);
    assert_eq!(host.engine.links_given(id(2)), Some(1));
    host.guest_knows("d", 3, FileKind::Directory);
    host.engine.links_told(id(3), 2);
    assert_eq!(host.engine.links_given(id(3)), None, "the links of a directory are of those in it");
}

#[test]
fn file_with_another_name_gets_the_event_of_a_rename_over_it_when_the_watcher_merges() {
    let mut host = Host::new();
    host.engine.expect_merges();
    host.knows_file("f", 2);
    host.moved(Some((1, "tmp")), Some((1, "f")), 3);
    host.next().expect("the first half");
    let ending = host.engine.mistaken_ending(host.seq, (NodeId::ROOT, &name("f")), id(2), 1);
    assert_eq!(ending, None, "the guest need not know its other name");
}
