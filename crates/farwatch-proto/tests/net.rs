// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine tells after it has given up single events: the difference between what the guest
//! was told and what is. The test plays the host's directories and the guest's kernel.

#[path = "common/ids.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod ids;

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{
    Answer, Engine, HostChange, HostEntry, Input, Learned, Listed, Listing, MarkedRequest, Object,
    Output, OwnChange, Refusal, Rescan,
};
use farwatch_proto::wire::Notification;
use farwatch_proto::{Fid, FileKind, Mask, NodeId, Seq};
use ids::{id, name};

const ENOENT: Answer = Answer::Refused(Refusal::NoEntry);
const ROOT: NodeId = NodeId::ROOT;
/// The smallest that there is.
const LIMIT: usize = 4;
const FILLER: &str = "zz-filler";

fn fid(number: u64) -> Fid {
    Fid::new([7, 0], 1, &number.to_be_bytes()).expect("a short handle")
}

/// The host's clock. The kernel's queue was last found empty at 100.
fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

const LONG_AGO: u64 = 10;
const LATELY: u64 = 100;

fn listed(entry: &str, object: u64, kind: FileKind, changed: u64) -> Listed {
    let (name, object, changed) = (name(entry), Some(fid(object)), at(changed));
    Listed { name, object, kind, changed, born: None }
}

fn file(entry: &str, object: u64, changed: u64) -> Listed {
    listed(entry, object, FileKind::Regular, changed)
}

fn listing<const N: usize>(entries: [Listed; N]) -> Listing {
    Listing { entries: entries.into(), ..Listing::default() }
}

/// An engine whose guest knows the root (node 1, fid 1) and the directory `sub` (node 2, fid 2), with
/// the smallest backlog.
struct Host {
    engine: Engine,
    seq: Option<Seq>,
    now: Instant,
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn new() -> Self {
        let mut engine = Engine::default();
        engine.limit_backlog(LIMIT);
        engine.reset(Some(fid(1)));
        engine.attach(42).expect("nobody is attached yet");
        engine.listen(at(50));
        let mut host = Self { engine, seq: None, now: Instant::now() };
        host.input(Input::Drained(at(100)));
        host.guest_knows("sub", 2, FileKind::Directory);
        host
    }

    fn input(&mut self, input: Input) {
        self.engine.input(self.now, input);
    }

    fn guest_knows(&mut self, entry: &str, number: u64, kind: FileKind) {
        let learned = Learned { id: id(number), fid: Some(fid(number)), kind, ino: 0 };
        self.engine.learn(learned, ROOT, &name(entry));
    }

    fn changed(&mut self, dir: u64, entry: &str, mask: Mask, object: u64) {
        let entry = HostEntry { dir: fid(dir), name: name(entry) };
        let object = Some(fid(object));
        self.input(Input::Change(HostChange::Entry { entry, mask, object }));
    }

    fn moved(&mut self, from: (u64, &str), to: (u64, &str), object: u64) {
        let side = |(dir, entry): (u64, &str)| HostEntry { dir: fid(dir), name: name(entry) };
        let (from, to, object) = (Some(side(from)), Some(side(to)), Some(fid(object)));
        self.input(Input::Change(HostChange::Move { from, to, object, directory: false }));
    }

    /// More happens to one entry of a directory than the backlog holds.
    fn overflows(&mut self, dir: u64) {
        for i in 0..=LIMIT {
            let mask = if i % 2 == 0 { Mask::CREATE } else { Mask::DELETE };
            self.changed(dir, FILLER, mask, 99);
        }
    }

    fn next(&mut self) -> Option<Notification> {
        let notification = self.engine.send()?;
        self.seq = Some(self.seq.map_or(Seq::FIRST, Seq::next));
        Some(notification)
    }

    /// Takes what waits, up to the overflow.
    fn drained_to_overflow(&mut self) {
        while self.next().expect("an overflow").mask != Mask::Q_OVERFLOW {}
        assert_eq!(self.next(), None);
    }

    fn ask(&mut self, request: MarkedRequest<'_>) -> Answer {
        self.engine.answer(self.seq, request)
    }

    /// The directory that the watch thread is to list now.
    fn rescan(&mut self) -> Option<Rescan> {
        self.input(Input::ReadDone);
        loop {
            match self.engine.poll_output(self.now) {
                Output::Rescan(rescan) => return Some(rescan),
                Output::Wake => {}
                Output::Look(_) | Output::Check(_) | Output::Timeout(_) => return None,
            }
        }
    }

    /// The same, after a pause. The agent takes the probes that are sent in the meantime.
    fn rescan_later(&mut self) -> Option<Rescan> {
        loop {
            if let Some(mark) = self.engine.to_read() {
                self.input(Input::ReadUpTo(mark));
            }
            self.input(Input::ReadDone);
            match self.engine.poll_output(self.now) {
                Output::Rescan(rescan) => return Some(rescan),
                Output::Wake => while self.next().is_some() {},
                Output::Timeout(at) => self.now = at?,
                Output::Look(_) | Output::Check(_) => return None,
            }
        }
    }

    fn answer(&mut self, listing: Listing) {
        self.input(Input::Listing(listing));
    }

    /// All events that wait, each as name and mask.
    fn told(&mut self) -> Vec<(String, Mask)> {
        let told = |n: Notification| (n.name.map_or(String::new(), |n| format!("{n:?}")), n.mask);
        std::iter::from_fn(|| self.next()).map(told).collect()
    }
}

fn event(entry: &str, mask: Mask) -> (String, Mask) {
    (format!("{:?}", name(entry)), mask)
}

const NEW_FILE: Mask = Mask::CREATE.union(Mask::MODIFY).union(Mask::CLOSE_WRITE);

#[test]
fn overflow_is_sent_before_a_directory_is_listed() {
    let mut host = Host::new();
    host.overflows(1);
    for _ in 0..LIMIT {
        assert_eq!(host.rescan(), None, "events wait");
        assert_ne!(host.next().unwrap().mask, Mask::Q_OVERFLOW);
    }
    assert_eq!(host.rescan(), None, "the overflow waits");
    assert_eq!(host.next().unwrap().mask, Mask::Q_OVERFLOW);
    assert_eq!(host.rescan().unwrap().dir, ROOT);
}

#[test]
fn difference_has_deleted_new_replaced_and_changed_entries_and_no_others() {
    let mut host = Host::new();
    for (number, entry) in [(10, "gone"), (11, "replaced"), (12, "same"), (13, "written")] {
        host.guest_knows(entry, number, FileKind::Regular);
    }
    host.guest_knows("fifo", 14, FileKind::Fifo);
    host.overflows(1);
    host.drained_to_overflow();
    host.rescan().unwrap();
    host.answer(listing([
        listed("sub", 2, FileKind::Directory, LONG_AGO),
        listed("fifo", 14, FileKind::Fifo, LATELY),
        file("new", 20, LATELY),
        file("never looked up", 21, LONG_AGO),
        listed("new directory", 22, FileKind::Directory, LATELY),
        // It was moved here, on a file system that does not set the time.
        file("replaced", 23, LONG_AGO),
        file("same", 12, LONG_AGO),
        file("written", 13, LATELY),
    ]));
    let told = [
        event("fifo", Mask::ATTRIB),
        event("gone", Mask::DELETE),
        event("new", NEW_FILE),
        event("new directory", Mask::CREATE | Mask::ISDIR),
        event("replaced", Mask::DELETE),
        event("replaced", NEW_FILE),
        event("written", Mask::CONTENT),
    ];
    // The backlog is too small for this: it takes several pieces.
    let mut all = host.told();
    while let Some(rescan) = host.rescan() {
        assert!(rescan.after.is_some());
        host.answer(listing([
            listed("fifo", 14, FileKind::Fifo, LATELY),
            file("new", 20, LATELY),
            file("never looked up", 21, LONG_AGO),
            listed("new directory", 22, FileKind::Directory, LATELY),
            file("replaced", 23, LONG_AGO),
            file("same", 12, LONG_AGO),
            listed("sub", 2, FileKind::Directory, LONG_AGO),
            file("written", 13, LATELY),
        ]));
        all.extend(host.told());
    }
    assert_eq!(all, told);
    assert_eq!(host.engine.stale_len(), 0);
}

#[test]
fn events_may_be_missing_since_the_queue_was_last_empty_less_two_seconds() {
    for (changed, told) in [(97, false), (98, true)] {
        let mut host = Host::new();
        host.overflows(1);
        // What is read after the overflow is not what counts.
        host.input(Input::Drained(at(500)));
        host.drained_to_overflow();
        host.rescan().unwrap();
        let sub = listed("sub", 2, FileKind::Directory, LONG_AGO);
        host.answer(listing([file("f", 20, changed), sub]));
        assert_eq!(!host.told().is_empty(), told, "changed at {changed}");
    }
}

#[test]
fn file_looked_up_before_its_create_is_still_reported_as_created() {
    let mut host = Host::new();
    host.overflows(1);
    host.drained_to_overflow();
    host.guest_knows("f", 20, FileKind::Regular);
    host.rescan().unwrap();
    let mut f = file("f", 20, LATELY);
    f.born = Some(at(LATELY));
    host.answer(Listing { entries: vec![f], upto: Some(name("f")), removed: vec![] });
    assert_eq!(host.told(), [event("f", NEW_FILE)]);
}

#[test]
fn a_directory_that_is_somewhere_else_now_is_moved_away_and_one_that_is_nowhere_deleted() {
    for (removed, mask) in [(vec![], Mask::MOVED_FROM), (vec![id(2)], Mask::DELETE)] {
        let mut host = Host::new();
        host.overflows(1);
        host.drained_to_overflow();
        assert_eq!(host.rescan().unwrap().subdirs, [id(2)]);
        host.answer(Listing { removed, ..Listing::default() });
        assert_eq!(host.told(), [event("sub", mask | Mask::ISDIR)]);
    }
}

#[test]
fn a_further_name_of_a_known_object_is_created_and_not_linked() {
    let mut host = Host::new();
    host.guest_knows("a", 10, FileKind::Regular);
    host.overflows(1);
    host.drained_to_overflow();
    host.rescan().unwrap();
    let upto = Some(name("b"));
    // Whether `a` is still there makes no difference.
    host.answer(Listing { entries: vec![file("b", 10, LATELY)], upto, removed: vec![] });
    // Pieces of one told name: the first ends with `a`, the second with `b`.
    assert_eq!(host.told(), [event("a", Mask::DELETE)]);
    host.rescan().unwrap();
    let upto = Some(name("b"));
    host.answer(Listing { entries: vec![file("b", 10, LATELY)], upto, removed: vec![] });
    let created = host.next().unwrap();
    assert_eq!((created.mask, created.link), (NEW_FILE, false));
    let (b, ten) = (name("b"), Object::Known { id: id(10), links: 0, here: true });
    assert_eq!(host.ask(MarkedRequest::Lookup(ROOT, &b)), ENOENT);
    let made = MarkedRequest::Create(ROOT, &b, FileKind::Regular);
    assert_eq!(host.ask(made), Answer::Entry(ten));
}

#[test]
fn events_are_queued_for_a_directory_in_step_and_left_to_the_comparison_for_one_marked_for_rescan()
{
    let mut host = Host::new();
    host.overflows(1);
    host.drained_to_overflow();
    let forgotten = host.engine.events_forgotten();
    host.changed(1, "f", Mask::CREATE, 20);
    assert_eq!(host.engine.backlog_len(), 0);
    assert_eq!(host.engine.events_forgotten(), forgotten + 1);
    host.changed(2, "f", Mask::CREATE, 21);
    assert_eq!(host.told(), [event("f", Mask::CREATE)]);
}

#[test]
fn rename_out_of_a_directory_marked_for_rescan_is_an_arrival_and_one_into_it_a_departure() {
    let mut host = Host::new();
    host.overflows(1);
    host.drained_to_overflow();
    host.moved((1, "a"), (2, "a"), 20);
    host.moved((2, "b"), (1, "b"), 21);
    host.moved((1, "c"), (1, "d"), 22);
    assert_eq!(host.told(), [event("a", Mask::MOVED_TO), event("b", Mask::MOVED_FROM)]);
}

#[test]
fn a_change_while_the_directory_is_listed_is_queued_and_the_piece_ends_before_it() {
    let mut host = Host::new();
    host.engine.limit_backlog(64);
    host.input(Input::Change(HostChange::Overflow));
    host.drained_to_overflow();
    assert_eq!(host.rescan().unwrap().dir, id(2));
    host.changed(2, "b", Mask::DELETE, 20);
    host.answer(listing([file("a", 10, LATELY), file("b", 20, LATELY), file("c", 30, LATELY)]));
    assert_eq!(host.told(), [event("b", Mask::DELETE), event("a", NEW_FILE)]);
    // The root takes its turn, then the rest follows.
    assert_eq!(host.rescan().unwrap().dir, ROOT);
    host.answer(listing([listed("sub", 2, FileKind::Directory, LONG_AGO)]));
    assert_eq!(host.told(), [(String::new(), Mask::ATTRIB | Mask::ISDIR)]);
    assert_eq!(host.rescan().unwrap().after, Some(name("a")));
    host.answer(listing([file("a", 10, LATELY), file("c", 30, LATELY)]));
    assert_eq!(host.told(), [event("c", NEW_FILE)]);
    assert_eq!(host.rescan(), None);
}

#[test]
fn entry_removed_by_the_guest_during_a_listing_is_not_created_again() {
    let mut host = Host::new();
    host.engine.limit_backlog(64);
    host.guest_knows("f", 20, FileKind::Regular);
    host.input(Input::Change(HostChange::Overflow));
    host.drained_to_overflow();
    assert_eq!(host.rescan().unwrap().dir, id(2));
    host.answer(Listing::default());
    assert_eq!(host.rescan().unwrap().dir, ROOT);
    host.engine.guest_changed(OwnChange::Removed(ROOT, &name("f")));
    let sub = || listed("sub", 2, FileKind::Directory, LONG_AGO);
    host.answer(listing([file("f", 20, LATELY), sub()]));
    host.told();
    assert_eq!(host.rescan(), None, "nothing could be compared: after a pause again");
    assert_eq!(host.rescan_later().unwrap().after, None);
    host.answer(listing([sub()]));
    assert_eq!(host.told(), []);
}

#[test]
fn listing_is_discarded_when_more_events_were_dropped_in_the_meantime() {
    let mut host = Host::new();
    host.overflows(1);
    host.drained_to_overflow();
    host.rescan().unwrap();
    host.input(Input::Change(HostChange::Overflow));
    host.answer(listing([file("f", 20, LATELY)]));
    assert_eq!(host.told(), [(String::new(), Mask::Q_OVERFLOW)]);
    assert_eq!(host.engine.stale_len(), 2);
}

#[test]
fn after_an_overflow_of_the_kernel_every_directory_is_asked_for_the_last_known_first() {
    let mut host = Host::new();
    host.guest_knows("f", 20, FileKind::Regular);
    host.input(Input::Change(HostChange::Overflow));
    assert_eq!(host.engine.stale_len(), 2);
    host.drained_to_overflow();
    assert_eq!(host.rescan().unwrap().dir, id(2));
    host.answer(Listing::default());
    assert_eq!(host.rescan().unwrap().dir, ROOT);
}

#[test]
fn directory_that_cannot_be_listed_is_listed_again_after_a_while() {
    let mut host = Host::new();
    host.overflows(1);
    host.drained_to_overflow();
    host.rescan().unwrap();
    host.input(Input::Unlisted);
    assert_eq!(host.rescan(), None);
    let failed_at = host.now;
    assert_eq!(host.rescan_later().unwrap().dir, ROOT);
    assert!(host.now > failed_at && host.now <= failed_at + Duration::from_secs(5));
}

#[test]
fn a_directory_that_the_guest_has_forgotten_is_not_asked_for() {
    let mut host = Host::new();
    host.overflows(2);
    host.drained_to_overflow();
    assert_eq!(host.engine.forget(id(2), 1).len(), 1);
    assert_eq!(host.rescan(), None);
    assert_eq!(host.engine.stale_len(), 0);
}

#[test]
fn a_directory_of_any_size_goes_through_the_smallest_backlog_once() {
    const ENTRIES: u64 = 1000;
    let mut host = Host::new();
    for number in 0..ENTRIES {
        host.guest_knows(&format!("old{number}"), 10_000 + number, FileKind::Regular);
    }
    host.input(Input::Change(HostChange::Overflow));
    host.drained_to_overflow();
    let forgotten = host.engine.events_forgotten();
    let mut told = Vec::new();
    while let Some(rescan) = host.rescan() {
        let Rescan { dir, after, upto, len_max, .. } = rescan;
        let mut entries: Vec<Listed> = (0..ENTRIES)
            .map(|number| file(&format!("new{number}"), 20_000 + number, LATELY))
            .chain([listed("sub", 2, FileKind::Directory, LONG_AGO)])
            .filter(|listed| dir == ROOT && after.as_ref().is_none_or(|a| listed.name > *a))
            .filter(|listed| upto.as_ref().is_none_or(|upto| listed.name <= *upto))
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.truncate(len_max);
        let full = entries.len() == len_max;
        let upto = entries.last().filter(|_| full).map(|last| last.name.clone());
        host.answer(Listing { entries, upto, removed: vec![] });
        assert!(host.engine.backlog_len() <= LIMIT);
        told.extend(host.told());
    }
    assert_eq!(host.engine.stale_len(), 0);
    assert_eq!(host.engine.events_forgotten(), forgotten);
    for (prefix, mask) in [("\"new", NEW_FILE), ("\"old", Mask::DELETE)] {
        let names = told.iter().filter(|event| event.0.starts_with(prefix) && event.1 == mask);
        let names: Vec<&String> = names.map(|event| &event.0).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!((names.len(), distinct.len()), (1000, 1000));
    }
}

#[test]
fn object_reported_but_gone_before_it_was_known_is_deleted() {
    let mut host = Host::new();
    host.changed(1, "f", Mask::CREATE, 20);
    host.next().unwrap();
    let f = name("f");
    assert_eq!(host.ask(MarkedRequest::Lookup(ROOT, &f)), ENOENT);
    host.ask(MarkedRequest::Create(ROOT, &f, FileKind::Regular));
    // It is not there any more: the reply was a phantom. Its DELETE is lost.
    host.input(Input::Change(HostChange::Overflow));
    host.drained_to_overflow();
    host.rescan().unwrap();
    host.answer(Listing::default());
    assert_eq!(host.rescan().unwrap().dir, ROOT);
    host.answer(Listing { upto: Some(name("f")), ..Listing::default() });
    let told = [(String::new(), Mask::ATTRIB | Mask::ISDIR), event("f", Mask::DELETE)];
    assert_eq!(host.told(), told);
}

#[test]
fn object_that_the_kernel_has_dropped_since_is_deleted() {
    let mut host = Host::new();
    host.guest_knows("a", 20, FileKind::Regular);
    assert_eq!(host.engine.forget(id(20), 1).len(), 1);
    host.overflows(1);
    host.drained_to_overflow();
    host.rescan().unwrap();
    host.answer(Listing { upto: Some(name("a")), ..Listing::default() });
    assert_eq!(host.told(), [event("a", Mask::DELETE)]);
}

#[test]
fn notification_sent_but_not_replayed_counts_as_delivered() {
    let mut host = Host::new();
    host.guest_knows("d", 10, FileKind::Regular);
    host.changed(1, "c", Mask::CREATE, 20);
    host.changed(1, "d", Mask::DELETE, 10);
    host.input(Input::Change(HostChange::Overflow));
    host.drained_to_overflow();
    host.rescan().unwrap();
    host.answer(Listing::default());
    assert_eq!(host.rescan().unwrap().dir, ROOT);
    // Since then `c` has gone, and `d` is still gone.
    host.answer(Listing { upto: Some(name("d")), ..Listing::default() });
    let told = [(String::new(), Mask::ATTRIB | Mask::ISDIR), event("c", Mask::DELETE)];
    assert_eq!(host.told(), told);
}

#[test]
fn a_created_file_that_the_guest_knows_already_is_replayed_like_any_other() {
    let mut host = Host::new();
    host.overflows(1);
    host.drained_to_overflow();
    host.guest_knows("f", 20, FileKind::Regular);
    host.rescan().unwrap();
    let mut f = file("f", 20, LATELY);
    f.born = Some(at(LATELY));
    host.answer(Listing { entries: vec![f], upto: Some(name("f")), removed: vec![] });
    host.next().unwrap();
    let (f, five) = (name("f"), Object::Known { id: id(20), links: 0, here: true });
    assert_eq!(host.ask(MarkedRequest::Lookup(ROOT, &f)), ENOENT);
    let made = MarkedRequest::Create(ROOT, &f, FileKind::Regular);
    assert_eq!(host.ask(made), Answer::Entry(five));
}

#[test]
fn when_the_agent_has_gone_nothing_is_asked_for() {
    let mut host = Host::new();
    host.overflows(1);
    host.drained_to_overflow();
    host.engine.detach();
    assert_eq!(host.rescan(), None);
}

#[test]
fn no_directory_is_marked_for_rescan_after_the_session() {
    let mut host = Host::new();
    host.overflows(1);
    host.engine.reset(None);
    assert_eq!(host.engine.stale_len(), 0);
}

/// The next agent, which has to be told the difference.
fn another_agent(host: &mut Host) {
    host.engine.attach(43).expect("the first is gone");
    host.engine.listen(at(200));
    host.seq = None;
}

#[test]
fn next_agent_receives_changes_since_the_last_one_was_in_step() {
    let mut host = Host::new();
    for (number, entry) in [(10, "gone"), (11, "written"), (12, "same")] {
        host.guest_knows(entry, number, FileKind::Regular);
    }
    host.input(Input::Asked);
    // It was sent this, and perhaps killed before it could replay it.
    host.changed(1, "written", Mask::CONTENT, 11);
    host.next().unwrap();
    host.input(Input::Drained(at(110)));
    host.engine.detach();
    host.changed(1, "gone", Mask::DELETE, 10);
    another_agent(&mut host);

    assert_eq!(host.next(), None, "what waited for the first agent is not sent to the second");
    let mut told = Vec::new();
    while let Some(rescan) = host.rescan() {
        let entries = if rescan.dir == ROOT {
            let sub = listed("sub", 2, FileKind::Directory, LONG_AGO);
            vec![file("same", 12, LONG_AGO), sub, file("written", 11, LATELY)]
        } else {
            Vec::new()
        };
        host.answer(Listing { entries, ..Listing::default() });
        told.extend(host.told().into_iter().filter(|(name, _)| !name.is_empty()));
    }
    assert_eq!(told, [event("gone", Mask::DELETE), event("written", Mask::CONTENT)]);
    assert_eq!(host.engine.stale_len(), 0);
}

#[test]
fn difference_is_owed_to_the_next_agent_when_one_has_taken_it_and_gone_before_its_replay() {
    let mut host = Host::new();
    host.guest_knows("f", 11, FileKind::Regular);
    host.input(Input::Asked);
    for _ in 0..2 {
        host.engine.detach();
        another_agent(&mut host);
        let mut told = Vec::new();
        while let Some(rescan) = host.rescan() {
            let is_root = rescan.dir == ROOT;
            let entries = is_root.then(|| file("f", 11, LATELY)).into_iter().collect();
            host.answer(Listing { entries, ..Listing::default() });
            told.extend(host.told());
        }
        assert!(told.contains(&event("f", Mask::CONTENT)), "{told:?}");
    }
}

#[test]
fn next_agent_receives_the_difference_of_a_directory_that_became_known_without_an_agent() {
    let mut host = Host::new();
    host.engine.detach();
    host.guest_knows("between", 3, FileKind::Directory);
    another_agent(&mut host);
    let asked = std::iter::from_fn(|| {
        let rescan = host.rescan()?;
        host.answer(Listing::default());
        host.told();
        Some(rescan.dir)
    });
    assert!(asked.collect::<Vec<_>>().contains(&id(3)));
}

#[test]
fn the_first_agent_is_owed_nothing_from_before() {
    let mut engine = Engine::default();
    engine.reset(Some(fid(1)));
    engine.attach(42).expect("nobody is attached");
    engine.detach();
    engine.attach(43).expect("the first is gone");
    engine.listen(at(200));
    assert_eq!(engine.stale_len(), 0);
}

#[test]
fn an_agent_that_asks_while_events_wait_is_not_in_step() {
    let mut host = Host::new();
    host.guest_knows("written", 11, FileKind::Regular);
    host.input(Input::Asked);
    host.changed(1, "written", Mask::CONTENT, 11);
    host.input(Input::Drained(at(300)));
    host.input(Input::Asked);
    host.engine.detach();
    another_agent(&mut host);
    let mut told = Vec::new();
    while let Some(rescan) = host.rescan() {
        let is_root = rescan.dir == ROOT;
        let entries = is_root.then(|| file("written", 11, LATELY)).into_iter().collect();
        host.answer(Listing { entries, ..Listing::default() });
        told.extend(host.told());
    }
    assert!(told.contains(&event("written", Mask::CONTENT)), "{told:?}");
}
