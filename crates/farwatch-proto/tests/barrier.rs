// SPDX-License-Identifier: Apache-2.0 OR MIT
//! When the engine says that all that happened before a moment has been replayed. The test plays the
//! watch thread and the agent.

#[path = "common/ids.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod ids;

use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{
    Answer, Checked, Engine, HostChange, HostEntry, Input, Learned, Listing, MarkedRequest, Output,
    OwnChange, Progress, Ticket,
};
use farwatch_proto::wire::Notification;
use farwatch_proto::{FileKind, Mask, NodeId, Seq};
use ids::{fid, name};

/// An engine whose guest knows the root and the directory `sub`, and whose agent listens.
struct Host {
    engine: Engine,
    now: Instant,
    /// Notifications of this link.
    sent: u32,
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn new() -> Self {
        let mut host = Self { engine: Engine::default(), now: Instant::now(), sent: 0 };
        host.engine.limit_backlog(4);
        host.engine.reset(Some(fid(1)));
        let id = NodeId::new(2).expect("not 0");
        let learned = Learned { id, fid: Some(fid(2)), kind: FileKind::Directory, ino: 0 };
        host.engine.learn(learned, NodeId::ROOT, &name("sub"));
        host.listen();
        host
    }

    fn listen(&mut self) {
        self.engine.attach(42).expect("nobody is attached");
        self.engine.listen(SystemTime::UNIX_EPOCH);
        self.sent = 0;
    }

    fn ask(&mut self) -> Ticket {
        self.engine.ask_barrier().expect("an agent listens")
    }

    /// The watch thread reads all that there is.
    fn read(&mut self) {
        if let Some(mark) = self.engine.to_read() {
            self.input(Input::ReadUpTo(mark));
        }
        self.work();
    }

    fn input(&mut self, input: Input) {
        self.engine.input(self.now, input);
    }

    /// The watch thread does what the engine wants to have done, and finds nothing where it looks. Returns when
    /// it wakes by itself.
    fn work(&mut self) -> Option<Instant> {
        loop {
            let input = match self.engine.poll_output(self.now) {
                Output::Wake => continue,
                Output::Timeout(at) => return at,
                Output::Look(look) => Input::Looked(look, FileKind::Unknown),
                Output::Check(check) => Input::Checked(check, Checked::default()),
                Output::Rescan(_) => Input::Listing(Listing::default()),
            };
            self.input(input);
        }
    }

    fn changed(&mut self, entry: &str) {
        let entry = HostEntry { dir: fid(1), name: name(entry) };
        let change = HostChange::Entry { entry, mask: Mask::CREATE, object: None };
        self.input(Input::Change(change));
    }

    /// The agent takes one message and replays it; `true` if it was a probe that something waited for.
    fn replay(&mut self) -> bool {
        let sent = self.send();
        self.replayed(&sent)
    }

    fn send(&mut self) -> Notification {
        self.sent += 1;
        self.engine.send().expect("something is to be sent")
    }

    fn replayed(&mut self, sent: &Notification) -> bool {
        let Some(node) = sent.node else { return false };
        if let Some(name) = &sent.name {
            let call = if sent.mask.contains(Mask::MOVED_FROM) {
                MarkedRequest::Rename(node.id, name, NodeId::LIMBO, name)
            } else if sent.mask.contains(Mask::DELETE) {
                MarkedRequest::Remove(node.id, name, false)
            } else {
                MarkedRequest::Create(node.id, name, FileKind::Regular)
            };
            self.engine.answer(Seq::new(self.sent), call);
        }
        self.engine.probe_seen(node.id)
    }

    /// The watch thread lists a piece of a directory, which is empty.
    fn list(&mut self) {
        self.now += Duration::from_secs(2);
        assert!(self.engine.stale_len() > 0);
        self.input(Input::ReadDone);
        self.work();
    }
}

#[test]
fn barrier_is_reached_when_events_before_it_have_been_replayed() {
    let mut host = Host::new();
    host.changed("before");
    let ticket = host.ask();
    assert_eq!(host.engine.progress(ticket), Progress::Unread);
    host.read();
    host.changed("after");
    assert_eq!(host.engine.progress(ticket), Progress::Sent);
    assert!(!host.replay());
    assert_eq!(host.engine.progress(ticket), Progress::Sent);
    assert!(host.replay());
    assert_eq!(host.engine.progress(ticket), Progress::Reached);
    assert!(host.engine.has_next(), "what came after it still waits");
}

#[test]
fn a_rename_is_replayed_with_its_second_half_which_comes_before_the_probe() {
    let mut host = Host::new();
    let side = |entry| Some(HostEntry { dir: fid(1), name: name(entry) });
    let (from, to) = (side("a"), side("b"));
    let object = None;
    host.input(Input::Change(HostChange::Move { from, to, object, directory: false }));
    let first = host.send();
    let ticket = host.ask();
    host.read();
    let second = host.send();
    assert!(first.mask.contains(Mask::MOVED_FROM) && second.mask.contains(Mask::MOVED_TO));
    let (old, new) = (name("a"), name("b"));
    let renamed = MarkedRequest::Rename(NodeId::ROOT, &old, NodeId::ROOT, &new);
    assert_eq!(host.engine.answer(Some(Seq::FIRST), renamed), Answer::Done);
    assert_eq!(host.engine.progress(ticket), Progress::Sent);
    assert!(host.replay());
    assert_eq!(host.engine.progress(ticket), Progress::Reached);
}

#[test]
fn barrier_requested_after_the_look_at_the_queue_waits_for_the_next_look() {
    let mut host = Host::new();
    host.ask();
    let looked_at = host.engine.to_read().expect("one was asked for");
    let late = host.ask();
    host.input(Input::ReadUpTo(looked_at));
    host.work();
    assert!(host.replay());
    assert_eq!(host.engine.progress(late), Progress::Unread);
    host.read();
    assert!(host.replay());
    assert_eq!(host.engine.progress(late), Progress::Reached);
}

#[test]
fn barrier_waits_for_directories_marked_for_rescan_before_it_only() {
    let mut host = Host::new();
    host.input(Input::Change(HostChange::Overflow));
    let ticket = host.ask();
    host.read();
    assert_eq!(host.engine.progress(ticket), Progress::Stale);
    assert!(!host.replay(), "the overflow is told first");
    while host.engine.stale_len() > 0 {
        assert_eq!(host.engine.progress(ticket), Progress::Stale);
        while host.engine.has_next() {
            assert!(!host.replay());
        }
        host.list();
    }
    assert_eq!(host.engine.progress(ticket), Progress::Sent);
    host.input(Input::Lost(fid(2)));
    while !host.replay() {}
    assert_eq!(host.engine.progress(ticket), Progress::Reached);
    assert_eq!(host.engine.stale_len(), 1);
}

#[test]
fn a_full_backlog_has_room_for_a_probe() {
    let mut host = Host::new();
    for entry in ["a", "b", "c", "d"] {
        host.changed(entry);
    }
    let ticket = host.ask();
    host.read();
    let replayed = (0..5).map(|_| host.replay()).collect::<Vec<_>>();
    assert_eq!(replayed, [false, false, false, false, true]);
    assert_eq!(host.engine.progress(ticket), Progress::Reached);
    assert_eq!(host.engine.events_forgotten(), 0);
}

#[test]
fn however_many_ask_the_backlog_has_few_probes_and_each_is_reached() {
    let mut host = Host::new();
    let mut tickets = Vec::new();
    for _ in 0..1000 {
        tickets.push(host.ask());
        host.read();
    }
    assert!(host.engine.backlog_len() <= 16, "{}", host.engine.backlog_len());
    while host.engine.has_next() {
        host.replay();
        host.work();
    }
    assert!(tickets.iter().all(|t| host.engine.progress(*t) == Progress::Reached));
}

#[test]
fn renames_beyond_the_limit_for_a_directory_marked_for_rescan_are_delivered_together() {
    let mut host = Host::new();
    host.input(Input::Lost(fid(2)));
    let mut tickets = Vec::new();
    for _ in 0..100 {
        tickets.push(host.ask());
        host.read();
    }
    assert!(tickets.iter().all(|t| host.engine.progress(*t) == Progress::Stale));
    host.list();
    while host.engine.has_next() {
        host.replay();
    }
    assert!(tickets.iter().all(|t| host.engine.progress(*t) == Progress::Reached));
}

#[test]
fn the_end_of_a_link_is_the_end_of_its_barriers_and_no_probe_of_it_counts() {
    let mut host = Host::new();
    let ticket = host.ask();
    let mark = host.engine.to_read().expect("one was asked for");
    host.read();
    let probe = host.send();
    host.engine.detach();
    assert_eq!(host.engine.progress(ticket), Progress::Void);
    assert_eq!(host.engine.ask_barrier(), None);
    host.input(Input::ReadUpTo(mark));
    host.listen();
    assert!(!host.replayed(&probe));
    assert_eq!(host.engine.progress(ticket), Progress::Void);
    let never = Ticket::new(1 << 40).expect("not 0");
    assert_eq!(host.engine.progress(never), Progress::Void);
    // The next link owes the difference, and its barriers wait for that.
    let next = host.ask();
    host.read();
    assert_eq!(host.engine.progress(next), Progress::Stale);
}

#[test]
fn barrier_after_a_difference_was_sent_is_reached() {
    let mut host = Host::new();
    // The guest removes what the host has made, and then the creation is replayed.
    host.engine.guest_changed(OwnChange::Removed(NodeId::ROOT, &name("f")));
    host.changed("f");
    let rounds = |host: &mut Host| {
        let mut removed = 0;
        for _ in 0..8 {
            host.read();
            while host.engine.has_next() {
                let sent = host.send();
                removed += u32::from(sent.mask.contains(Mask::DELETE));
                host.replayed(&sent);
            }
            host.input(Input::ReadDone);
            host.work();
        }
        removed
    };
    assert_eq!(rounds(&mut host), 1, "the file does not exist");
    let ticket = host.ask();
    assert_eq!(rounds(&mut host), 0);
    assert_eq!(host.engine.progress(ticket), Progress::Reached);
}

#[test]
fn probe_behind_an_unfinished_replay_wakes_the_watch_thread() {
    let mut host = Host::new();
    host.changed("f");
    let ticket = host.ask();
    host.read();
    // The agent's call fails.
    host.send();
    assert!(host.replay(), "the entry is to be compared");
    assert!(host.engine.to_read().is_some());
    assert_eq!(host.engine.progress(ticket), Progress::Stale);
}

#[test]
fn barrier_waits_for_a_replay_that_failed_before_another_succeeded() {
    let mut host = Host::new();
    host.changed("f");
    host.changed("g");
    let ticket = host.ask();
    host.read();
    // The agent's call fails, and the next one shows that it is done with it.
    host.send();
    assert!(!host.replay());
    host.replay();
    assert_eq!(host.engine.progress(ticket), Progress::Stale);
}

#[test]
fn replay_that_fails_after_the_watch_thread_has_gone_to_sleep_is_found_out() {
    let mut host = Host::new();
    host.engine.guest_changed(OwnChange::Removed(NodeId::ROOT, &name("f")));
    host.read();
    host.changed("f");
    // The watch thread has nothing more to do, and the agent has not begun.
    let mut asleep_until = host.work();
    // The agent's call fails, and nothing follows.
    host.send();
    for _ in 0..3 {
        let Some(until) = asleep_until else { break };
        host.now = host.now.max(until);
        asleep_until = host.work();
    }
    assert!(host.engine.has_next(), "a probe shows that the replay did not end");
}
