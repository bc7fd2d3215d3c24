// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine makes of host changes, and how it answers the requests of the replay. The guest's
//! kernel is played by the test: it sends what `docs/PROTOCOL.md` says a kernel sends.

#[path = "engine/above.rs"]
mod above;
#[path = "engine/content.rs"]
mod content;
#[path = "engine/figures.rs"]
mod figures;
#[path = "common/ids.rs"]
mod ids;
#[path = "engine/keep.rs"]
mod keep;
#[path = "engine/links.rs"]
mod links;
#[path = "engine/submounts.rs"]
mod submounts;

use std::time::{Instant, SystemTime};

use farwatch_proto::host::{
    Answer, Engine, HostChange, HostEntry, Input, Learned, Look, MarkedRequest, Object, Output,
    OwnChange, Refusal,
};
use farwatch_proto::replay::{OpenMode, Times};
use farwatch_proto::wire::Notification;
use farwatch_proto::{FileKind, Mask, Name, NodeId, Seq};
use ids::{fid, id, name};

const EPERM: Answer = Answer::Refused(Refusal::NotAsked);
const ENOENT: Answer = Answer::Refused(Refusal::NoEntry);
const ESTALE: Answer = Answer::Refused(Refusal::Stale);

/// An engine whose guest knows the root (fid 1), and whose agent listens.
struct Host {
    engine: Engine,
    now: Instant,
    /// The number of the last notification; a request carries it.
    seq: Seq,
    sent: bool,
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn new() -> Self {
        let mut engine = Engine::default();
        engine.reset(Some(fid(1)));
        engine.attach(42).expect("nobody is attached yet");
        engine.listen(SystemTime::UNIX_EPOCH);
        Self { engine, now: Instant::now(), seq: Seq::FIRST, sent: false }
    }

    /// The guest looks an entry of the root up and learns of node `number`, fid `number`.
    fn guest_knows(&mut self, entry: &str, number: u8, kind: FileKind) {
        let learned = Learned { id: id(number.into()), fid: Some(fid(number)), kind, ino: 0 };
        self.engine.learn(learned, NodeId::ROOT, &name(entry));
    }

    fn knows_file(&mut self, entry: &str, number: u8) {
        self.guest_knows(entry, number, FileKind::Regular);
    }

    fn take_in(&mut self, change: HostChange) {
        self.engine.input(self.now, Input::Change(change));
    }

    /// What is to be looked at before the next event is sent.
    fn next_look(&mut self) -> Option<Look> {
        loop {
            match self.engine.poll_output(self.now) {
                Output::Look(look) => return Some(look),
                Output::Wake => {}
                Output::Rescan(_) | Output::Check(_) | Output::Timeout(_) => return None,
            }
        }
    }

    fn looked(&mut self, look: &Look, found: FileKind) {
        self.engine.input(self.now, Input::Looked(look.clone(), found));
    }

    fn changed(&mut self, entry: &str, mask: Mask, object: u8) {
        let entry = HostEntry { dir: fid(1), name: name(entry) };
        let object = Some(fid(object));
        self.take_in(HostChange::Entry { entry, mask, object });
    }

    fn directory_changed(&mut self, object: u8, mask: Mask) {
        let change = HostChange::Object { object: fid(object), mask: mask | Mask::ISDIR };
        self.take_in(change);
    }

    fn moved(&mut self, from: Option<(u8, &str)>, to: Option<(u8, &str)>, object: u8) {
        let side = |side: Option<(u8, &str)>| {
            side.map(|(dir, entry)| HostEntry { dir: fid(dir), name: name(entry) })
        };
        let (from, to, object) = (side(from), side(to), Some(fid(object)));
        self.take_in(HostChange::Move { from, to, object, directory: false });
    }

    /// The next notification, whose number the requests from now on carry.
    fn next(&mut self) -> Option<Notification> {
        let notification = self.engine.send()?;
        self.seq = if self.sent { self.seq.next() } else { self.seq };
        self.sent = true;
        Some(notification)
    }

    fn ask(&mut self, request: MarkedRequest<'_>) -> Answer {
        self.engine.answer(Some(self.seq), request)
    }

    fn lookup(&mut self, entry: &str) -> Answer {
        self.ask(MarkedRequest::Lookup(NodeId::ROOT, &name(entry)))
    }

    fn mknod(&mut self, entry: &str) -> Answer {
        self.ask(MarkedRequest::Create(NodeId::ROOT, &name(entry), FileKind::Regular))
    }

    fn unlink(&mut self, entry: &str) -> Answer {
        self.ask(MarkedRequest::Remove(NodeId::ROOT, &name(entry), false))
    }

    fn rename(&mut self, from: &str, to: &str) -> Answer {
        let (from, to) = (name(from), name(to));
        self.ask(MarkedRequest::Rename(NodeId::ROOT, &from, NodeId::ROOT, &to))
    }
}

fn known(number: u64, links: i64, here: bool) -> Answer {
    Answer::Entry(Object::Known { id: id(number), links, here })
}

fn summary(notification: Option<Notification>) -> Option<(String, Mask)> {
    notification.map(|n| (format!("{:?}", n.name.expect("an entry")), n.mask))
}

#[test]
fn without_an_agent_nothing_is_kept() {
    let mut host = Host::new();
    host.engine.detach();
    host.changed("f", Mask::CREATE, 9);
    assert_eq!(host.engine.backlog_len(), 0);
    assert_eq!(host.next(), None);
}

#[test]
fn change_in_a_directory_unknown_to_the_guest_is_not_reported() {
    let mut host = Host::new();
    let entry = HostEntry { dir: fid(77), name: name("f") };
    let object = Some(fid(9));
    host.take_in(HostChange::Entry { entry, mask: Mask::CREATE, object });
    assert_eq!(host.next(), None);
}

#[test]
fn a_created_file_is_absent_until_it_has_been_made_and_made_once() {
    let mut host = Host::new();
    host.changed("f", Mask::CREATE, 9);
    assert_eq!(summary(host.next()), Some(("\"f\"".into(), Mask::CREATE)));
    // The kernel may look it up twice before it makes it.
    assert_eq!(host.lookup("f"), ENOENT);
    assert_eq!(host.lookup("f"), ENOENT);
    assert_eq!(host.mknod("f"), Answer::Entry(Object::Adopt(FileKind::Regular)));
    assert_eq!(host.mknod("f"), EPERM);
    assert_eq!(host.lookup("f"), Answer::Entry(Object::Adopt(FileKind::Unknown)));
}

#[test]
fn created_object_is_looked_up_before_it_is_reported_and_instantiated() {
    let mut host = Host::new();
    host.changed("l", Mask::CREATE, 9);
    let look = host.next_look().expect("its type is not known");
    assert_eq!((look.dir, &look.name, &look.object), (NodeId::ROOT, &name("l"), &fid(9)));
    host.looked(&look, FileKind::Symlink);
    assert_eq!(host.next_look(), None);
    assert_eq!(host.next().map(|told| told.kind), Some(FileKind::Symlink));
    let made = MarkedRequest::Create(NodeId::ROOT, &name("l"), FileKind::Symlink);
    assert_eq!(host.ask(made), Answer::Entry(Object::Adopt(FileKind::Symlink)));
}

#[test]
fn object_not_found_is_reported_without_a_type_and_looked_up_once() {
    let mut host = Host::new();
    host.changed("a", Mask::CREATE, 8);
    host.changed("b", Mask::CREATE, 9);
    let look = host.next_look().expect("the first");
    host.looked(&look, FileKind::Unknown);
    assert_eq!(host.next_look(), None);
    assert_eq!(host.next().map(|told| told.kind), Some(FileKind::Unknown));
    // An answer that comes late is about what has gone.
    host.looked(&look, FileKind::Fifo);
    let second = host.next_look().expect("the second");
    assert_eq!(second.object, fid(9));
    assert_eq!(host.next().map(|told| told.kind), Some(FileKind::Unknown));
}

#[test]
fn nothing_is_looked_at_that_is_known_or_was_there_before_or_is_closed() {
    let mut host = Host::new();
    host.knows_file("known", 5);
    host.changed("further", Mask::CREATE, 5);
    host.changed("dir", Mask::CREATE | Mask::ISDIR, 7);
    host.changed("file", Mask::CREATE, 8);
    host.changed("file", Mask::CLOSE_WRITE, 8);
    host.changed("old", Mask::ATTRIB, 9);
    host.moved(Some((1, "old")), Some((1, "new")), 9);
    let mut sent = 0;
    while host.engine.has_next() {
        assert_eq!(host.next_look(), None, "before notification {sent}");
        host.next();
        sent += 1;
    }
    assert_eq!(sent, 6);
}

#[test]
fn requests_that_the_notification_did_not_ask_for_are_refused() {
    let mut host = Host::new();
    host.knows_file("g", 5);
    host.changed("f", Mask::CREATE, 9);
    host.next();
    assert_eq!(host.mknod("other"), EPERM);
    assert_eq!(host.unlink("f"), EPERM);
    assert_eq!(host.unlink("g"), EPERM);
    assert_eq!(host.rename("g", "f"), EPERM);
    let root = NodeId::ROOT;
    assert_eq!(host.ask(MarkedRequest::Create(root, &name("f"), FileKind::Directory)), EPERM);
    assert_eq!(host.ask(MarkedRequest::Link(id(5), root, &name("f"))), EPERM);
    assert_eq!(host.ask(MarkedRequest::SetTimes(id(5), Times::Mtime)), EPERM);
    assert_eq!(host.ask(MarkedRequest::Open(id(5), OpenMode::Write)), EPERM);
    let later = host.seq.next();
    let request = MarkedRequest::Create(root, &name("f"), FileKind::Regular);
    assert_eq!(host.engine.answer(Some(later), request), EPERM);
    assert_eq!(host.engine.answer(None, request), EPERM);
}

#[test]
fn a_number_that_was_never_handed_out_retires_nothing() {
    let mut host = Host::new();
    host.changed("f", Mask::CREATE, 9);
    host.next();
    let request = MarkedRequest::Create(NodeId::ROOT, &name("f"), FileKind::Regular);
    let never = Seq::new(host.seq.get() + 9);
    assert_eq!(host.engine.answer(never, request), EPERM);
    assert_eq!(host.mknod("f"), Answer::Entry(Object::Adopt(FileKind::Regular)));
}

#[test]
fn after_the_agent_has_gone_its_records_answer_nothing() {
    let mut host = Host::new();
    host.changed("f", Mask::CREATE, 9);
    host.next();
    host.engine.detach();
    host.engine.attach(43).unwrap();
    host.engine.listen(SystemTime::UNIX_EPOCH);
    assert_eq!(host.mknod("f"), EPERM);
}

#[test]
fn a_second_agent_is_refused_while_one_is_attached() {
    let mut host = Host::new();
    assert!(host.engine.attach(43).is_err());
    host.engine.detach();
    assert!(host.engine.attach(43).is_ok());
}

#[test]
fn a_deleted_file_is_shown_with_the_link_that_it_is_about_to_lose() {
    let mut host = Host::new();
    host.knows_file("f", 5);
    host.changed("f", Mask::DELETE, 5);
    host.next();
    assert_eq!(host.lookup("f"), known(5, 1, false));
    assert_eq!(host.unlink("f"), Answer::Done);
    assert_eq!(host.unlink("f"), EPERM);
    assert_eq!(host.engine.tree().current(NodeId::ROOT, &name("f")), None);
}

#[test]
fn a_deleted_file_that_the_guest_never_knew_is_a_phantom() {
    let mut host = Host::new();
    host.changed("f", Mask::DELETE, 5);
    host.next();
    assert_eq!(host.lookup("f"), Answer::Entry(Object::Phantom(FileKind::Unknown)));
    assert_eq!(host.unlink("f"), Answer::Done);
}

#[test]
fn a_delete_does_not_hit_the_file_that_took_the_name_since() {
    let mut host = Host::new();
    host.knows_file("f", 5);
    host.changed("f", Mask::DELETE, 5);
    host.changed("f", Mask::CREATE, 6);
    // The guest looks ahead of the events.
    host.knows_file("f", 6);
    host.next();
    assert_eq!(host.unlink("f"), ESTALE);
    assert_eq!(host.lookup("f"), known(5, 1, false));
    host.engine.lend(id(5), NodeId::ROOT, &name("f"));
    assert_eq!(host.unlink("f"), Answer::Done);
    assert_eq!(host.engine.tree().told(NodeId::ROOT, &name("f")), [id(6)]);
}

#[test]
fn two_names_deleted_at_once_are_counted_down_one_by_one() {
    let mut host = Host::new();
    host.knows_file("a", 5);
    host.knows_file("b", 5);
    host.changed("a", Mask::DELETE, 5);
    host.changed("b", Mask::DELETE, 5);
    host.next();
    assert_eq!(host.lookup("a"), known(5, 2, false));
    assert_eq!(host.unlink("a"), Answer::Done);
    host.next();
    assert_eq!(host.lookup("b"), known(5, 1, false));
}

#[test]
fn a_rename_over_a_file_shows_the_file_that_it_replaced() {
    let mut host = Host::new();
    host.knows_file("new", 5);
    host.knows_file("f", 6);
    host.moved(Some((1, "new")), Some((1, "f")), 5);
    let from = host.next().unwrap();
    assert!(from.paired && from.cookie.is_some(), "{from:?}");
    assert_eq!(host.lookup("new"), known(5, 0, false));
    assert_eq!(host.lookup("f"), known(6, 1, false));
    host.engine.lend(id(6), NodeId::ROOT, &name("f"));
    assert_eq!(host.rename("new", "f"), Answer::Done);
    assert_eq!(host.engine.tree().current(NodeId::ROOT, &name("f")), Some(id(5)));
    assert_eq!(host.engine.tree().current(NodeId::ROOT, &name("new")), None);
    assert_eq!(host.rename("new", "f"), EPERM);
}

#[test]
fn exchange_replaces_nothing_even_if_the_guest_sees_one_name_only() {
    for [one, two] in [
        [(Some((1, "new")), Some((1, "f"))), (Some((1, "f")), Some((1, "new")))],
        [(None, Some((1, "f"))), (Some((1, "f")), None)],
    ] {
        for sent in [false, true] {
            let mut host = Host::new();
            host.knows_file("new", 5);
            host.knows_file("f", 6);
            host.moved(one.0, one.1, 5);
            if sent {
                host.next();
            }
            host.moved(two.0, two.1, 6);
            if !sent {
                host.next();
            }
            assert_eq!(host.lookup("f"), ENOENT, "{one:?}");
        }
    }
    let mut host = Host::new();
    host.knows_file("f", 6);
    host.moved(None, Some((1, "f")), 5);
    host.moved(Some((1, "f")), None, 5);
    host.next();
    assert_eq!(host.lookup("f"), known(6, 1, false), "it was replaced, and its successor left");
}

#[test]
fn a_rename_does_not_replace_a_file_that_came_later() {
    let mut host = Host::new();
    host.knows_file("f", 6);
    host.moved(Some((1, "t1")), Some((1, "f")), 7);
    host.moved(Some((1, "t2")), Some((1, "f")), 8);
    // The guest has looked ahead of both.
    host.knows_file("f", 8);
    host.next();
    assert_eq!(host.lookup("f"), known(6, 1, false), "and not 8");
}

#[test]
fn file_moved_to_the_name_of_a_known_directory_replaces_nothing() {
    let mut host = Host::new();
    host.guest_knows("d", 7, FileKind::Directory);
    host.moved(Some((1, "f")), Some((1, "d")), 9);
    host.next();
    host.next();
    host.seq = Seq::FIRST;
    // With the directory there the guest's kernel would refuse the call: EISDIR.
    assert_eq!(host.lookup("d"), ENOENT);
    assert_eq!(host.rename("f", "d"), Answer::Done);
}

#[test]
fn directory_moved_to_the_name_of_a_known_file_replaces_nothing() {
    let mut host = Host::new();
    host.knows_file("f", 7);
    let entry = |text| Some(HostEntry { dir: fid(1), name: name(text) });
    let (from, to, object) = (entry("d"), entry("f"), Some(fid(9)));
    host.take_in(HostChange::Move { from, to, object, directory: true });
    host.next();
    host.next();
    host.seq = Seq::FIRST;
    assert_eq!(host.lookup("f"), ENOENT);
    assert_eq!(host.rename("d", "f"), Answer::Done);
}

#[test]
fn a_renamed_file_that_the_guest_found_under_its_new_name_is_taken_from_there() {
    let mut host = Host::new();
    host.knows_file("a", 5);
    host.moved(Some((1, "a")), Some((1, "b")), 5);
    host.knows_file("b", 5);
    host.next();
    assert_eq!(host.rename("a", "b"), ESTALE, "the same inode twice would be no rename");
    assert_eq!(host.lookup("b"), ENOENT);
    assert_eq!(host.rename("a", "b"), Answer::Done);
}

#[test]
fn move_out_of_view_is_replayed_as_a_rename_to_limbo() {
    let mut host = Host::new();
    host.knows_file("f", 5);
    host.moved(Some((1, "f")), None, 5);
    let half = host.next().unwrap();
    assert!(!half.paired, "S8: delivered at once");
    let (f, n1) = (name("f"), name("1"));
    assert_eq!(host.ask(MarkedRequest::Lookup(NodeId::LIMBO, &n1)), ENOENT);
    let out = MarkedRequest::Rename(NodeId::ROOT, &f, NodeId::LIMBO, &n1);
    assert_eq!(host.rename("f", "g"), EPERM);
    assert_eq!(host.ask(out), Answer::Done);
    assert_eq!(host.ask(out), EPERM);
}

#[test]
fn a_move_into_view_comes_from_limbo() {
    let mut host = Host::new();
    host.moved(None, Some((1, "f")), 5);
    host.next();
    let (f, n1) = (name("f"), name("1"));
    let phantom = Answer::Entry(Object::Phantom(FileKind::Unknown));
    assert_eq!(host.ask(MarkedRequest::Lookup(NodeId::LIMBO, &n1)), phantom);
    assert_eq!(host.lookup("f"), ENOENT);
    let into = MarkedRequest::Rename(NodeId::LIMBO, &n1, NodeId::ROOT, &f);
    assert_eq!(host.ask(into), Answer::Done);
}

#[test]
fn each_half_of_a_pair_can_be_replayed_alone() {
    let mut host = Host::new();
    host.knows_file("a", 5);
    host.moved(Some((1, "a")), Some((1, "b")), 5);
    let (a, b, n1) = (name("a"), name("b"), name("1"));
    let from = host.next().unwrap();
    let out = MarkedRequest::Rename(NodeId::ROOT, &a, NodeId::LIMBO, &n1);
    assert_eq!(host.ask(out), Answer::Done);
    let to = host.next().unwrap();
    assert_eq!(from.cookie, to.cookie, "S6");
    assert!(from.paired && to.paired, "S7");
    assert_eq!(host.ask(MarkedRequest::Lookup(NodeId::LIMBO, &n1)), known(5, 0, false));
    let into = MarkedRequest::Rename(NodeId::LIMBO, &n1, NodeId::ROOT, &b);
    assert_eq!(host.ask(into), Answer::Done);
}

#[test]
fn a_second_name_is_linked_to_the_node_that_the_guest_knows() {
    let mut host = Host::new();
    host.knows_file("a", 5);
    host.changed("b", Mask::CREATE, 5);
    let create = host.next().unwrap();
    assert!(create.link && create.child.is_some_and(|child| child.id == id(5)), "S2: {create:?}");
    assert_eq!(host.lookup("b"), ENOENT);
    let b = name("b");
    assert_eq!(host.ask(MarkedRequest::Link(id(5), NodeId::ROOT, &b)), known(5, 0, true));
}

#[test]
fn a_file_that_came_and_went_is_created_first_one_that_was_there_deleted_first() {
    let mut host = Host::new();
    let both = Mask::CREATE | Mask::DELETE;
    host.changed("new", both, 9);
    assert_eq!(summary(host.next()).unwrap().1, Mask::CREATE);
    assert_eq!(summary(host.next()).unwrap().1, Mask::DELETE);
    host.knows_file("old", 5);
    host.changed("old", both, 5);
    assert_eq!(summary(host.next()).unwrap().1, Mask::DELETE);
    assert_eq!(summary(host.next()).unwrap().1, Mask::CREATE);
}

#[test]
fn a_node_is_known_until_its_last_reference_is_given_back() {
    let mut host = Host::new();
    host.knows_file("f", 5);
    host.knows_file("f", 5);
    let engine = &mut host.engine;
    assert!(engine.lend(id(5), NodeId::ROOT, &name("f")));
    assert_eq!(engine.forget(id(5), 2), []);
    let forgotten = engine.forget(id(5), 1);
    assert_eq!(forgotten.len(), 1);
    assert_eq!(forgotten[0].borrowed, 2, "the one that was lent is not owed to the file server");
    assert!(!engine.lend(id(5), NodeId::ROOT, &name("f")));
    assert!(engine.tree().told(NodeId::ROOT, &name("f")).is_empty());
    assert_eq!(engine.forget(NodeId::ROOT, u64::MAX), []);
}

#[test]
fn a_forgotten_directory_stays_until_the_last_object_in_it_is_forgotten() {
    let mut host = Host::new();
    host.guest_knows("d", 5, FileKind::Directory);
    let engine = &mut host.engine;
    for (number, dir, entry) in [(6, 5, "e"), (7, 6, "f"), (8, 6, "g")] {
        let kind = if number == 6 { FileKind::Directory } else { FileKind::Regular };
        let fid = Some(fid(u8::try_from(number).expect("small")));
        engine.learn(Learned { id: id(number), fid, kind, ino: 0 }, id(dir), &name(entry));
    }
    assert_eq!(engine.forget(id(5), 1), []);
    assert_eq!(engine.forget(id(6), 1), []);
    assert_eq!(engine.tree().nodes_of(&fid(6)), [id(6)], "its changes are still told");
    assert_eq!(engine.forget(id(7), 1).len(), 1);
    // The other one is deleted: the directories go with the next FORGET.
    engine.guest_changed(OwnChange::Removed(id(6), &name("g")));
    let mut gone: Vec<_> = engine.forget(id(8), 1).iter().map(|node| node.id.get()).collect();
    gone.sort_unstable();
    assert_eq!(gone, [5, 6, 8]);
}

#[test]
fn a_new_session_has_another_generation_and_knows_nothing() {
    let mut host = Host::new();
    host.knows_file("f", 5);
    let before = host.engine.tree().node(id(5));
    host.engine.reset(Some(fid(1)));
    assert!(!host.engine.tree().knows(id(5)));
    assert_ne!(host.engine.tree().node(id(5)), before, "S1");
    assert_eq!(host.engine.tree().node(NodeId::ROOT).generation.0, 0);
}

#[test]
fn change_in_a_directory_not_yet_reported_is_raised_at_its_future_place() {
    let mut host = Host::new();
    host.directory_changed(7, Mask::ATTRIB);
    assert_eq!(host.next(), None, "nobody knows where that is");
    host.changed("d", Mask::CREATE | Mask::ISDIR, 7);
    host.directory_changed(7, Mask::ATTRIB);
    let told = host.next().expect("both in one");
    assert_eq!(
        (told.name, told.mask),
        (Some(name("d")), Mask::CREATE | Mask::ATTRIB | Mask::ISDIR)
    );
    assert_eq!(host.next(), None);
}

#[test]
fn mkdir_that_the_kernel_repeats_gets_a_stand_in() {
    let mut host = Host::new();
    host.guest_knows("elsewhere", 5, FileKind::Directory);
    host.changed("d", Mask::CREATE | Mask::ISDIR, 5);
    host.next();
    let d = name("d");
    let mkdir = MarkedRequest::Create(NodeId::ROOT, &d, FileKind::Directory);
    assert_eq!(host.lookup("d"), ENOENT);
    assert_eq!(host.ask(mkdir), known(5, 0, true));
    assert_eq!(host.ask(mkdir), EPERM, "it is granted once");
    // ESTALE: the kernel looks again, and finds that it is still to be made.
    assert_eq!(host.lookup("d"), ENOENT);
    assert_eq!(host.ask(mkdir), Answer::Entry(Object::Phantom(FileKind::Directory)));
    assert_ne!(host.lookup("d"), ENOENT, "it is repeated once");
    assert_eq!(host.ask(mkdir), EPERM);
}
