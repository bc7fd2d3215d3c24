// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directories that the host cannot watch are compared again and again. The test plays the watch thread and the agent.

#[path = "common/ids.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod ids;

use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{
    Engine, HostChange, HostEntry, Input, Learned, Listed, Listing, Output, OwnChange, Progress,
    Rescan,
};
use farwatch_proto::{Fid, FileKind, Mask, NodeId};
use ids::{id, name};

const ROOT: NodeId = NodeId::ROOT;
const INTERVAL: Duration = Duration::from_secs(1);
const NEW_FILE: Mask = Mask::CREATE.union(Mask::MODIFY).union(Mask::CLOSE_WRITE);

fn fid(number: u64) -> Fid {
    Fid::new([7, 0], 1, &number.to_be_bytes()).expect("a short handle")
}

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// Nothing has changed since then when the directory becomes known.
const LONG_AGO: u64 = 10;

fn file(entry: &str, object: u64, changed: u64) -> Listed {
    let (name, object, changed) = (name(entry), Some(fid(object)), at(changed));
    Listed { name, object, kind: FileKind::Regular, changed, born: None }
}

/// The guest knows the root and the directories from `dir(0)` on, which are not watched.
struct Host {
    engine: Engine,
    now: Instant,
    clock: u64,
}

fn dir(nth: u64) -> NodeId {
    id(2 + nth)
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn new(unwatched: u64) -> Self {
        let mut engine = Engine::default();
        engine.reset(Some(fid(1)));
        engine.attach(42).expect("nobody is attached yet");
        engine.listen(at(50));
        let mut host = Self { engine, now: Instant::now(), clock: 100 };
        host.input(Input::Drained(at(host.clock)));
        for nth in 0..unwatched {
            let number = dir(nth).get();
            let kind = FileKind::Directory;
            let learned = Learned { id: dir(nth), fid: Some(fid(number)), kind, ino: 0 };
            host.engine.learn(learned, ROOT, &name(&format!("d{nth}")));
            host.input(Input::Unwatched(dir(nth)));
        }
        host
    }

    fn input(&mut self, input: Input) {
        self.engine.input(self.now, input);
    }

    /// The directory to list now, or when there may be one.
    fn next(&mut self) -> Result<Rescan, Option<Instant>> {
        if let Some(mark) = self.engine.to_read() {
            self.input(Input::ReadUpTo(mark));
        }
        self.clock += 1;
        self.input(Input::Drained(at(self.clock)));
        self.input(Input::ReadDone);
        loop {
            match self.engine.poll_output(self.now) {
                Output::Rescan(rescan) => return Ok(rescan),
                // After a listing the queue is read again before anything else is done.
                Output::Timeout(Some(at)) if at == self.now => self.input(Input::ReadDone),
                Output::Timeout(at) => return Err(at),
                Output::Wake => {}
                // This agent replays nothing, which is found out.
                Output::Check(check) => self.input(Input::Unchecked(check)),
                Output::Look(_) => panic!("nothing is to be looked at"),
            }
        }
    }

    /// Passes time until a directory is to be listed.
    fn rescan(&mut self) -> Rescan {
        loop {
            match self.next() {
                Ok(rescan) => return rescan,
                Err(Some(at)) => self.now = at,
                // The agent takes a probe.
                Err(None) => assert_eq!(self.told(), [], "nothing else waits"),
            }
        }
    }

    fn answer(&mut self, entries: Vec<Listed>) {
        self.input(Input::Listing(Listing { entries, ..Listing::default() }));
    }

    /// Answers the next listing, and gives the events that follow from it.
    fn polled(&mut self, entries: Vec<Listed>) -> Vec<(String, Mask)> {
        self.rescan();
        self.answer(entries);
        self.told()
    }

    fn told(&mut self) -> Vec<(String, Mask)> {
        let mut told = Vec::new();
        while let Some(notification) = self.engine.send() {
            match (notification.name, notification.node) {
                (Some(name), _) => told.push((format!("{name:?}"), notification.mask)),
                // A probe.
                (None, Some(node)) => drop(self.engine.probe_seen(node.id)),
                (None, None) => {}
            }
        }
        self.input(Input::Asked);
        told
    }
}

fn event(entry: &str, mask: Mask) -> (String, Mask) {
    (format!("{:?}", name(entry)), mask)
}

#[test]
fn directory_that_cannot_be_watched_is_listed_at_once_and_then_at_the_interval() {
    let mut host = Host::new(1);
    assert!(host.engine.has_work(), "the watch thread does not know of it");
    let begun = host.now;
    let rescan = host.next().expect("at once");
    assert_eq!((rescan.dir, rescan.is_polled), (dir(0), true));
    host.answer(vec![file("f", 10, LONG_AGO)]);
    assert_eq!(host.next(), Err(Some(begun + INTERVAL)));
    assert_eq!((host.told(), host.engine.stale_len()), (vec![], 0));
    host.now = begun + INTERVAL;
    assert_eq!(host.next().expect("it is time").dir, dir(0));
}

#[test]
fn new_deleted_replaced_and_changed_entries_are_delivered_once() {
    let mut host = Host::new(1);
    let old = || {
        vec![
            file("changed", 10, LONG_AGO),
            file("gone", 11, LONG_AGO),
            file("replaced", 12, LONG_AGO),
        ]
    };
    assert_eq!(host.polled(old()), []);
    let new = || vec![file("changed", 10, 200), file("new", 13, 200), file("replaced", 14, 200)];
    let expected = [
        event("changed", Mask::CONTENT),
        event("gone", Mask::DELETE),
        event("new", NEW_FILE),
        event("replaced", Mask::DELETE),
        event("replaced", NEW_FILE),
    ];
    assert_eq!(host.polled(new()), expected);
    assert_eq!(host.polled(new()), []);
}

#[test]
fn change_between_the_reply_and_the_first_listing_is_delivered() {
    let mut host = Host::new(1);
    assert_eq!(host.polled(vec![file("f", 10, 100)]), [event("f", NEW_FILE)]);
}

#[test]
fn barrier_waits_for_a_comparison_of_each_that_was_begun_later() {
    let mut host = Host::new(3);
    for _ in 0..3 {
        host.polled(vec![]);
    }
    // This one was begun before.
    let before = host.rescan().dir;
    let ticket = host.engine.ask_barrier().expect("an agent listens");
    host.answer(vec![]);
    let since = host.now;
    let mut dirs = Vec::new();
    for _ in 0..3 {
        assert_eq!(
            host.engine.progress(ticket),
            if dirs.is_empty() { Progress::Unread } else { Progress::Stale }
        );
        dirs.push(host.rescan().dir);
        assert!(host.engine.uncompared_len(false) > 0);
        host.answer(vec![]);
    }
    assert_eq!(
        (host.now, host.engine.uncompared_len(true)),
        (since, 0),
        "it does not wait for the interval"
    );
    assert!(dirs.contains(&before), "it was compared once more: {dirs:?}");
    assert!(host.next().is_err());
    host.told();
    assert_eq!(host.engine.progress(ticket), Progress::Reached);
}

#[test]
fn directory_that_cannot_be_listed_is_counted_and_holds_no_barrier_up() {
    let mut host = Host::new(1);
    let ticket = host.engine.ask_barrier().expect("an agent listens");
    host.rescan();
    host.input(Input::Unlisted);
    assert!(host.next().is_err());
    host.told();
    assert_eq!(host.engine.progress(ticket), Progress::Reached);
    assert_eq!((host.engine.uncompared_len(true), host.engine.stale_len()), (1, 0));
    host.polled(vec![]);
    assert_eq!(host.engine.uncompared_len(true), 0);
}

#[test]
fn directory_that_is_watched_at_last_is_compared_once_more_and_not_polled() {
    let mut host = Host::new(1);
    host.polled(vec![file("old", 10, LONG_AGO)]);
    assert!(host.rescan().is_polled);
    host.input(Input::Watched(dir(0)));
    host.input(Input::Unlisted);
    let rescan = host.rescan();
    assert_eq!((rescan.dir, rescan.is_polled), (dir(0), false));
    host.answer(vec![file("new", 11, LONG_AGO)]);
    assert_eq!(host.told(), [event("new", NEW_FILE), event("old", Mask::DELETE)]);
    assert_eq!(host.engine.figures().polled, 0);
    let entry = HostEntry { dir: fid(dir(0).get()), name: name("f") };
    host.input(Input::Change(HostChange::Entry { entry, mask: Mask::CREATE, object: None }));
    assert_eq!(host.told(), [event("f", Mask::CREATE)]);
}

#[test]
fn change_between_the_watch_and_the_last_comparison_is_delivered_once() {
    let mut host = Host::new(1);
    host.polled(vec![]);
    host.input(Input::Watched(dir(0)));
    let (entry, object) = (HostEntry { dir: fid(dir(0).get()), name: name("f") }, Some(fid(10)));
    host.input(Input::Change(HostChange::Entry { entry, mask: Mask::CREATE, object }));
    assert_eq!(host.polled(vec![file("f", 10, 200)]), [event("f", NEW_FILE)]);
}

#[test]
fn listings_take_a_twentieth_of_the_time_and_the_oldest_is_next() {
    const TOOK: Duration = Duration::from_millis(50);
    let mut host = Host::new(40);
    let begun = host.now;
    let mut dirs = Vec::new();
    for _ in 0..80 {
        dirs.push(host.rescan().dir);
        host.now += TOOK;
        host.answer(vec![]);
    }
    assert_eq!(dirs[..40], dirs[40..], "each has its turn");
    let took = host.now - begun;
    assert!(took >= TOOK * 80 * 19, "80 listings took {took:?} in all");
}

#[test]
fn listings_that_a_barrier_waits_for_take_a_quarter_of_the_time() {
    const TOOK: Duration = Duration::from_millis(50);
    let mut host = Host::new(10);
    let ticket = host.engine.ask_barrier().expect("an agent listens");
    let begun = host.now;
    while host.engine.progress(ticket) != Progress::Reached {
        match host.next() {
            Ok(_) => {
                host.now += TOOK;
                host.answer(vec![]);
            }
            Err(at) => host.now = at.unwrap_or(host.now),
        }
        host.told();
    }
    let took = host.now - begun;
    assert!(took > TOOK * 10 * 3 && took < TOOK * 10 * 5, "10 listings took {took:?} in all");
}

#[test]
fn changes_by_the_guest_are_not_repeated_by_the_comparison() {
    let mut host = Host::new(1);
    let old = || file("old", 10, LONG_AGO);
    host.polled(vec![old()]);
    let learned = Learned { id: id(20), fid: Some(fid(20)), kind: FileKind::Regular, ino: 0 };
    host.engine.learn(learned, dir(0), &name("made"));
    host.engine.guest_changed(OwnChange::Made(dir(0), &name("made"), id(20)));
    host.engine.guest_changed(OwnChange::Removed(dir(0), &name("old")));
    // Others may have written to it as well.
    assert_eq!(host.polled(vec![file("made", 20, 200)]), [event("made", Mask::CONTENT)]);
    assert_eq!(host.polled(vec![file("made", 20, 200)]), []);
}

#[test]
fn difference_not_delivered_when_the_agent_exited_is_found_again() {
    let mut host = Host::new(1);
    host.polled(vec![]);
    host.rescan();
    host.answer(vec![file("f", 10, 200)]);
    host.engine.detach();
    host.engine.attach(43).expect("nobody is attached");
    host.engine.listen(at(400));
    let mut told = Vec::new();
    for _ in 0..4 {
        let entries = if host.rescan().dir == dir(0) { vec![file("f", 10, 200)] } else { vec![] };
        host.answer(entries);
        told.extend(host.told());
    }
    assert!(told.contains(&event("f", NEW_FILE)), "{told:?}");
}

#[test]
fn directory_that_the_guest_has_forgotten_is_not_polled() {
    let mut host = Host::new(1);
    host.polled(vec![]);
    host.engine.forget(dir(0), 1);
    host.now += INTERVAL;
    assert_eq!((host.next(), host.engine.figures().polled), (Err(None), 0));
}

#[test]
fn poll_that_falls_due_while_events_wait_is_made_when_they_are_taken() {
    let mut host = Host::new(1);
    host.polled(vec![]);
    let entry = HostEntry { dir: fid(1), name: name("f") };
    host.input(Input::Change(HostChange::Entry { entry, mask: Mask::MODIFY, object: None }));
    host.now += INTERVAL;
    assert!(host.next().is_err());
    assert!(!host.engine.has_work());
    host.told();
    assert!(host.engine.has_work());
    assert_eq!(host.next().expect("it is time").dir, dir(0));
}
