// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest whose kernel raises the events itself: what it is sent, what counts as told, and what is compared with
//! the host. The kernel is played by the test.

#[path = "common/ids.rs"]
mod ids;

use std::time::{Instant, SystemTime};

use farwatch_proto::host::{
    Check, Checked, Engine, HostChange, HostEntry, Input, InterestError, Learned, Listed, Output,
    OwnChange, Progress,
};
use farwatch_proto::wire::Notification;
use farwatch_proto::{FileKind, Generation, Mask, Node, NodeId};
use ids::{fid, id, name};

const DELETE_SELF: u64 = 0x400;
const MOVE_SELF: u64 = 0x800;
const ON_CHILD: u64 = 0x0800_0000;
const RENAME: u64 = 0x1000_0000;

/// An engine whose guest knows the root (fid 1), and whose kernel takes notifications.
struct Host {
    engine: Engine,
    now: Instant,
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn new(tells: bool) -> Self {
        let mut engine = Engine::default();
        engine.reset(Some(fid(1)));
        engine.attach_kernel(tells).expect("nobody is attached yet");
        engine.listen(SystemTime::UNIX_EPOCH);
        Self { engine, now: Instant::now() }
    }

    fn knows(&mut self, entry: &str, number: u8, kind: FileKind) {
        let learned = Learned { id: id(number.into()), fid: Some(fid(number)), kind, ino: 0 };
        self.engine.learn(learned, NodeId::ROOT, &name(entry));
    }

    fn watch(&mut self, number: u64, mask: Mask) -> Result<u64, InterestError> {
        let node = self.engine.tree().node(id(number));
        self.engine.watch(node, mask.bits(), true)
    }

    fn changed(&mut self, entry: &str, mask: Mask, object: u8) {
        let entry = HostEntry { dir: fid(1), name: name(entry) };
        let change = HostChange::Entry { entry, mask, object: Some(fid(object)) };
        self.engine.input(self.now, Input::Change(change));
    }

    fn moved(&mut self, from: &str, to: &str, object: u8) {
        let side = |entry| Some(HostEntry { dir: fid(1), name: name(entry) });
        let object = Some(fid(object));
        let change = HostChange::Move { from: side(from), to: side(to), object, directory: false };
        self.engine.input(self.now, Input::Change(change));
    }

    /// The kernel takes all that there is.
    fn sent(&mut self) -> Vec<(String, Mask)> {
        let text =
            |n: Notification| (n.name.map_or(String::new(), |name| format!("{name:?}")), n.mask);
        std::iter::from_fn(|| self.engine.send()).map(text).collect()
    }

    fn told(&self, entry: &str) -> Vec<NodeId> {
        self.engine.tree().told(NodeId::ROOT, &name(entry)).to_vec()
    }

    /// The watch thread finds the queue empty, until it is to look at an entry or has nothing to do.
    fn check(&mut self) -> Option<Check> {
        for _ in 0..16 {
            if let Some(mark) = self.engine.to_read() {
                self.engine.input(self.now, Input::ReadUpTo(mark));
            }
            self.engine.input(self.now, Input::ReadDone);
            match self.engine.poll_output(self.now) {
                Output::Check(check) => return Some(check),
                Output::Wake => self.probe(),
                Output::Look(_) | Output::Rescan(_) | Output::Timeout(_) => {}
            }
        }
        None
    }

    /// The kernel takes all that there is, and looks for the node of each probe.
    fn probe(&mut self) {
        while let Some(notification) = self.engine.send() {
            if let Some(node) = notification.node.filter(|node| node.id.is_reserved()) {
                self.engine.probe_seen(node.id);
            }
        }
    }
}

#[test]
fn kernel_is_one_client_like_an_agent() {
    let mut host = Host::new(true);
    assert!(host.engine.attach(42).is_err(), "each event would be raised twice");
    assert!(host.engine.is_native() && host.engine.agent_tid().is_none());
    host.engine.detach();
    assert!(host.engine.attach(42).is_ok() && !host.engine.is_native());
}

#[test]
fn notification_handed_out_counts_as_delivered() {
    let mut host = Host::new(false);
    host.knows("f", 2, FileKind::Regular);
    host.changed("f", Mask::DELETE, 2);
    assert_eq!(host.told("f"), [id(2)]);
    assert_eq!(host.sent(), [("\"f\"".to_owned(), Mask::DELETE)]);
    assert_eq!(host.told("f"), []);
}

#[test]
fn rename_counts_as_delivered_with_its_first_half() {
    let mut host = Host::new(false);
    host.knows("f", 2, FileKind::Regular);
    host.moved("f", "g", 2);
    assert_eq!(
        host.engine.send().map(|half| (half.mask, half.paired)),
        Some((Mask::MOVED_FROM, true))
    );
    assert_eq!((host.told("f"), host.told("g")), (vec![], vec![id(2)]));
    assert_eq!(
        host.engine.send().map(|half| (half.mask, half.paired)),
        Some((Mask::MOVED_TO, true))
    );
    assert_eq!(host.engine.send(), None);
}

#[test]
fn nothing_is_looked_up_before_a_creation_is_sent() {
    let mut host = Host::new(false);
    host.changed("new", Mask::CREATE, 9);
    assert!(!host.engine.is_look_pending());
    assert_eq!(host.sent(), [("\"new\"".to_owned(), Mask::CREATE)]);
}

#[test]
fn link_count_is_the_hosts_own() {
    let mut host = Host::new(false);
    host.knows("f", 2, FileKind::Regular);
    host.changed("f", Mask::DELETE, 2);
    assert_eq!((host.engine.links_told(id(2), 0), host.engine.links_named(id(2), 0)), (0, 0));
}

#[test]
fn event_without_a_watcher_is_not_sent_and_counts_as_delivered() {
    let mut host = Host::new(true);
    host.knows("f", 2, FileKind::Regular);
    host.changed("f", Mask::MODIFY, 2);
    host.changed("f", Mask::DELETE, 2);
    assert_eq!(host.sent(), []);
    assert_eq!(host.told("f"), []);
}

#[test]
fn directory_receives_events_it_is_watched_for_and_a_watched_file_all() {
    let mut host = Host::new(true);
    for (entry, number) in [("f", 2), ("g", 3)] {
        host.knows(entry, number, FileKind::Regular);
    }
    let of_directory = host.watch(1, Mask::MODIFY).unwrap();
    assert_eq!(of_directory & (DELETE_SELF | MOVE_SELF | RENAME), DELETE_SELF | MOVE_SELF | RENAME);
    host.watch(3, Mask::ATTRIB).unwrap();
    let change = |host: &mut Host| {
        for (entry, object) in [("f", 2), ("g", 3)] {
            host.changed(entry, Mask::MODIFY, object);
            host.changed(entry, Mask::CLOSE_WRITE, object);
        }
        host.sent()
    };
    let (f, g) = ("\"f\"".to_owned(), "\"g\"".to_owned());
    // The two of one entry share a message.
    let both = Mask::MODIFY | Mask::CLOSE_WRITE;
    assert_eq!(change(&mut host), [(f.clone(), both), (g.clone(), both)]);
    host.watch(1, Mask::CREATE).unwrap();
    assert_eq!(change(&mut host), [(g, both)]);
    host.watch(3, Mask::empty()).unwrap();
    assert_eq!((change(&mut host), host.engine.watched_len()), (vec![], Some(1)));
}

#[test]
fn replaced_watched_file_has_its_event_without_a_watch_on_its_directory() {
    let mut host = Host::new(true);
    host.knows("f", 2, FileKind::Regular);
    host.watch(2, Mask::ATTRIB).unwrap();
    host.moved("new", "f", 9);
    // The kernel may hold it without the name: that it may have lost its last is said apart.
    let masks = host.sent().into_iter().map(|(_, mask)| mask).collect::<Vec<_>>();
    assert_eq!(masks, [Mask::MOVED_FROM, Mask::MOVED_TO, Mask::DELETE]);
}

#[test]
fn file_that_is_replaced_keeps_its_other_name_until_the_kernel_has_seen_that_it_has_no_links() {
    for is_gone in [false, true] {
        let mut host = Host::new(false);
        host.knows("f", 2, FileKind::Regular);
        host.knows("other", 2, FileKind::Regular);
        host.moved("new", "f", 9);
        let end = host.sent().pop().unwrap();
        assert!(end.0.contains("end-"), "{end:?}");
        // The kernel asks for its attributes.
        host.engine.links_told(id(2), u32::from(!is_gone));
        assert_eq!(host.told("other").is_empty(), is_gone);
        if !is_gone {
            host.changed("third", Mask::CREATE, 2);
            let link = host.engine.send().unwrap();
            assert!(link.link, "{link:?}");
        }
    }
}

#[test]
fn watcher_of_renames_in_a_directory_gets_both_halves() {
    let mut host = Host::new(true);
    let root = host.engine.tree().node(NodeId::ROOT);
    host.engine.watch(root, RENAME, true).unwrap();
    host.moved("a", "b", 9);
    assert_eq!(host.sent().len(), 2);
    host.changed("b", Mask::DELETE, 9);
    assert_eq!(host.sent(), []);
}

#[test]
fn server_that_joins_no_renames_says_so_when_one_is_asked_for() {
    let mut host = Host::new(true);
    let root = host.engine.tree().node(NodeId::ROOT);
    let delivered = host.engine.watch(root, RENAME | Mask::CREATE.bits(), false).unwrap();
    assert_eq!(
        delivered & (RENAME | ON_CHILD | Mask::CREATE.bits()),
        ON_CHILD | Mask::CREATE.bits()
    );
}

#[test]
fn watch_of_a_node_unknown_to_the_guest_is_refused() {
    let mut host = Host::new(true);
    host.knows("f", 2, FileKind::Regular);
    assert_eq!(host.watch(5, Mask::MODIFY), Err(InterestError::Unknown));
    let other = Node { id: id(2), generation: Generation(99) };
    assert_eq!(host.engine.watch(other, 2, true), Err(InterestError::Unknown));
    let node = host.engine.tree().node(id(2));
    assert_eq!(host.engine.watch(node, 0x1_0000, true), Err(InterestError::Bits));
    host.engine.detach();
    assert_eq!(host.engine.watch(node, 2, true), Err(InterestError::NotNative));
}

#[test]
fn forgotten_node_is_not_watched_any_more() {
    let mut host = Host::new(true);
    host.knows("f", 2, FileKind::Regular);
    host.watch(2, Mask::MODIFY).unwrap();
    host.engine.forget(id(2), 1);
    assert_eq!(host.engine.watched_len(), Some(0));
}

#[test]
fn entry_that_both_sides_change_is_compared_when_the_order_is_not_known() {
    let mut host = Host::new(false);
    host.knows("f", 2, FileKind::Regular);
    host.changed("f", Mask::DELETE, 2);
    host.sent();
    // Before or after the kernel has raised the DELETE?
    host.knows("f", 3, FileKind::Regular);
    host.engine.guest_changed(OwnChange::Made(NodeId::ROOT, &name("f"), id(3)));
    let check = host.check().expect("the entry is in doubt");
    assert_eq!((check.dir, &check.name), (NodeId::ROOT, &name("f")));
    let found = Listed {
        name: name("f"),
        object: Some(fid(3)),
        kind: FileKind::Regular,
        changed: SystemTime::UNIX_EPOCH,
        born: None,
    };
    host.engine
        .input(host.now, Input::Checked(check, Checked { found: Some(found), removed: vec![] }));
    while host.check().is_some() {}
    // Whatever the order was: the last that is told is true.
    let last = host.told("f");
    assert_eq!(last, [id(3)]);
}

#[test]
fn entry_that_both_sides_change_in_turn_is_not_reported_again() {
    let mut host = Host::new(false);
    host.knows("f", 2, FileKind::Regular);
    host.changed("f", Mask::DELETE, 2);
    host.sent();
    let ticket = host.engine.ask_barrier().expect("the kernel listens");
    host.check();
    assert_eq!(host.engine.progress(ticket), Progress::Reached, "the DELETE has been raised");
    host.knows("f", 3, FileKind::Regular);
    host.engine.guest_changed(OwnChange::Made(NodeId::ROOT, &name("f"), id(3)));
    assert_eq!(host.check(), None);
}

#[test]
fn read_by_the_kernel_confirms_that_it_has_raised_earlier_events() {
    let mut host = Host::new(false);
    host.knows("f", 2, FileKind::Regular);
    host.changed("f", Mask::DELETE, 2);
    host.sent();
    host.engine.input(host.now, Input::Asked);
    host.knows("f", 3, FileKind::Regular);
    host.engine.guest_changed(OwnChange::Made(NodeId::ROOT, &name("f"), id(3)));
    assert_eq!(host.check(), None);
}

#[test]
fn probe_is_sent_when_much_was_handed_out_that_no_probe_has_shown_to_be_raised() {
    let mut host = Host::new(false);
    for _ in 0..600 {
        host.changed("f", Mask::CREATE, 9);
        host.changed("f", Mask::DELETE, 9);
    }
    host.sent();
    host.engine.input(host.now, Input::ReadDone);
    assert_eq!(host.engine.poll_output(host.now), Output::Wake);
    let probe = host.engine.send().and_then(|probe| probe.node).expect("a probe");
    assert!(probe.id.is_reserved());
    host.engine.probe_seen(probe.id);
    host.engine.input(host.now, Input::ReadDone);
    assert!(matches!(host.engine.poll_output(host.now), Output::Timeout(_)));
}
