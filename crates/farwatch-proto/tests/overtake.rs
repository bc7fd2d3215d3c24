// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client that is far behind: comparisons overtake many events about few names, and nothing else.

#[path = "common/ids.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod ids;

use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{
    Engine, HostChange, HostEntry, Input, Learned, Listed, Listing, Output, Progress, Rescan,
};
use farwatch_proto::{Fid, FileKind, Mask, NodeId};
use ids::{id, name};

const ROOT: NodeId = NodeId::ROOT;
/// The smallest crowd, of two events each.
const TIMES: usize = 512;
const BEHIND_MAX: Duration = Duration::from_secs(2);
const MOMENT: Duration = Duration::from_millis(1);

fn fid(number: u64) -> Fid {
    Fid::new([7, 0], 1, &number.to_be_bytes()).expect("a short handle")
}

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// The guest knows the root (1) and the directory `sub` (2).
struct Host {
    engine: Engine,
    now: Instant,
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn new() -> Self {
        let mut engine = Engine::default();
        engine.reset(Some(fid(1)));
        engine.attach(42).expect("nobody is attached yet");
        engine.listen(at(50));
        let mut host = Self { engine, now: Instant::now() };
        host.input(Input::Drained(at(100)));
        let sub = Learned { id: id(2), fid: Some(fid(2)), kind: FileKind::Directory, ino: 0 };
        host.engine.learn(sub, ROOT, &name("sub"));
        host
    }

    fn input(&mut self, input: Input) {
        self.engine.input(self.now, input);
    }

    fn changed(&mut self, dir: u64, entry: &str, mask: Mask) {
        let entry = HostEntry { dir: fid(dir), name: name(entry) };
        self.input(Input::Change(HostChange::Entry { entry, mask, object: Some(fid(99)) }));
    }

    /// A file comes and goes in the root.
    fn comes_and_goes(&mut self, times: usize, names: usize) {
        for nth in 0..times {
            for mask in [Mask::CREATE, Mask::DELETE] {
                self.changed(1, &format!("f{}", nth % names), mask);
            }
        }
    }

    /// What the watch thread is to do, when there was nothing to read.
    fn next(&mut self) -> Result<Rescan, Option<Instant>> {
        if let Some(mark) = self.engine.to_read() {
            self.input(Input::ReadUpTo(mark));
        }
        self.input(Input::ReadDone);
        loop {
            match self.engine.poll_output(self.now) {
                Output::Rescan(rescan) => return Ok(rescan),
                Output::Timeout(at) => return Err(at),
                Output::Look(look) => self.input(Input::Looked(look, FileKind::Regular)),
                Output::Wake => {}
                Output::Check(check) => self.input(Input::Unchecked(check)),
            }
        }
    }

    /// The events that are sent until there are no more.
    fn told(&mut self) -> Vec<(String, Mask)> {
        let mut told = Vec::new();
        while let Some(notification) = self.engine.send() {
            match (notification.name, notification.node) {
                (Some(name), _) => told.push((format!("{name:?}"), notification.mask)),
                (None, Some(node)) => drop(self.engine.probe_seen(node.id)),
                (None, None) => told.push((String::new(), notification.mask)),
            }
        }
        told
    }
}

fn there(entry: &str, object: u64, kind: FileKind, changed: u64) -> Listed {
    let (name, object, changed) = (name(entry), Some(fid(object)), at(changed));
    Listed { name, object, kind, changed, born: None }
}

fn event(entry: &str, mask: Mask) -> (String, Mask) {
    (format!("{:?}", name(entry)), mask)
}

#[test]
fn crowd_that_waits_too_long_is_dropped_and_its_directory_compared() {
    let mut host = Host::new();
    host.changed(2, "other", Mask::CREATE);
    host.comes_and_goes(TIMES, 2);
    let late_at = host.now + BEHIND_MAX;
    let looks_at = host.next().expect_err("events wait").expect("the watch thread looks in time");
    assert!(looks_at <= late_at);
    host.now = late_at - MOMENT;
    assert!(host.next().is_err() && host.engine.stale_len() == 0);
    host.now = late_at;
    assert!(host.next().is_err(), "events wait");
    assert_eq!((host.engine.stale_len(), host.engine.events_forgotten()), (1, 2 * TIMES as u64));
    assert_eq!(host.told(), [event("other", Mask::CREATE), (String::new(), Mask::Q_OVERFLOW)]);
    assert_eq!(host.next().expect("a comparison").dir, ROOT);
    // The oldest event that was dropped is of 100, by a clock that may be two seconds off.
    let entries = vec![
        there("f0", 98, FileKind::Regular, 98),
        there("old", 97, FileKind::Regular, 97),
        there("sub", 2, FileKind::Directory, 10),
    ];
    host.input(Input::Drained(at(500)));
    host.input(Input::Listing(Listing { entries, ..Listing::default() }));
    let new = Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE;
    assert_eq!(host.told(), [event("f0", new)]);
}

#[test]
fn events_about_many_names_are_delivered_however_long_they_wait() {
    let mut host = Host::new();
    // Two events each, and six more of some.
    host.comes_and_goes(TIMES, TIMES / 3);
    host.now += 10 * BEHIND_MAX;
    assert!(host.next().is_err());
    assert_eq!((host.engine.stale_len(), host.told().len()), (0, 2 * TIMES));
}

#[test]
fn fewer_events_than_a_crowd_are_delivered_however_long_they_wait() {
    let mut host = Host::new();
    host.comes_and_goes(TIMES - 1, 1);
    host.now += 10 * BEHIND_MAX;
    assert!(host.next().is_err());
    assert_eq!(host.told().len(), 2 * (TIMES - 1));
}

#[test]
fn rename_between_a_crowd_and_another_directory_has_both_compared() {
    let mut host = Host::new();
    let side = |dir, entry: &str| Some(HostEntry { dir: fid(dir), name: name(entry) });
    let (from, to, object) = (side(1, "f0"), side(2, "f0"), Some(fid(99)));
    host.input(Input::Change(HostChange::Move { from, to, object, directory: false }));
    host.comes_and_goes(TIMES, 1);
    host.now += BEHIND_MAX;
    assert!(host.next().is_err());
    assert_eq!((host.engine.stale_len(), host.told().len()), (2, 1));
}

#[test]
fn barrier_from_before_waits_for_the_comparison() {
    let mut host = Host::new();
    host.comes_and_goes(TIMES, 1);
    let ticket = host.engine.ask_barrier().expect("an agent listens");
    assert!(host.next().is_err());
    host.now += BEHIND_MAX;
    assert!(host.next().is_err());
    host.told();
    assert_eq!(host.engine.progress(ticket), Progress::Stale);
    host.next().expect("a comparison");
    let entries = vec![there("sub", 2, FileKind::Directory, 10)];
    host.input(Input::Listing(Listing { entries, ..Listing::default() }));
    assert!(host.next().is_err());
    assert_eq!(host.told(), []);
    assert_eq!(host.engine.progress(ticket), Progress::Reached);
}

#[test]
fn backlog_without_a_crowd_is_looked_at_once_a_second() {
    let mut host = Host::new();
    host.comes_and_goes(TIMES, TIMES);
    host.now += BEHIND_MAX;
    assert!(host.next().is_err());
    host.comes_and_goes(10 * TIMES, 1);
    host.now += Duration::from_secs(1) - MOMENT;
    assert!(host.next().is_err() && host.engine.stale_len() == 0);
    host.now += MOMENT;
    assert!(host.next().is_err() && host.engine.stale_len() == 1);
}

#[test]
fn content_that_changed_after_the_clock_was_set_back_is_reported() {
    let new = Mask::MODIFY | Mask::ATTRIB | Mask::CLOSE_WRITE;
    for set_back in [false, true] {
        let mut host = Host::new();
        host.changed(1, "f0", Mask::CREATE | Mask::CLOSE_WRITE);
        assert!(host.next().is_err());
        assert_eq!(host.told().len(), 1);
        host.engine.learn(
            Learned { id: id(9), fid: Some(fid(99)), kind: FileKind::Regular, ino: 0 },
            ROOT,
            &name("f0"),
        );
        host.input(Input::Drained(at(1000)));
        host.comes_and_goes(TIMES, 2);
        let changed = if set_back { 400 } else { 1001 };
        host.input(Input::Drained(at(changed)));
        host.now += BEHIND_MAX;
        assert!(host.next().is_err());
        host.told();
        host.next().expect("a comparison");
        let entries = vec![
            there("f0", 99, FileKind::Regular, changed),
            there("sub", 2, FileKind::Directory, 10),
        ];
        host.input(Input::Listing(Listing { entries, ..Listing::default() }));
        assert_eq!(host.told(), [event("f0", new)], "set back: {set_back}");
    }
}
