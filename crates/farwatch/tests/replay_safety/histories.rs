// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Histories: an agent goes on, whatever becomes of its session. Its control node is closed under it, the guest mounts
//! again or connects again, moves to another host, or the server is started anew, at any moment and in any order.
//!
//! What an agent's thread does bears its uid in all of these: the thread sets its fsuid before it opens the control node,
//! and never sets it back (`farwatch-guest`, `link.rs`). So no history contains a request with the thread id alone: a
//! server that knows of no agent takes that for any program's (`the_thread_id_of_an_agent_that_is_gone_is_anybodys`).

use std::collections::VecDeque;

use farwatch_proto::Seq;
use proptest::collection::vec;
use proptest::prelude::*;

use super::bench::{Bench, uid_alone};
use super::guest::{Caller, ROOT};
use super::replay::{joined, replay};
use super::requests::{self, Request};
use super::served::skip_without_root;
use super::{HOST_CHANGES, Mention, mentions};

/// Histories that are drawn, unless `HISTORIES` says how many.
const CASES: u32 = 12;

/// What comes next.
#[derive(Clone, Debug)]
enum Moment {
    /// The host changes something. If an agent is attached, it takes the notifications.
    Host(usize),
    /// The agent replays the oldest event that it has, of whatever session.
    Replay,
    /// It makes a request of its own, with both tags or the uid alone.
    Marked(bool, u32, Mention),
    /// The same with a request that need not make sense.
    Raw(u32, u32, usize, Vec<u8>),
    /// The control node is closed.
    Release,
    /// The guest mounts again.
    Init,
    /// The guest connects again.
    Reconnect,
    /// The guest moves to another host that shares the same directory.
    Move,
    /// The server is started anew.
    Restart,
    /// An agent attaches, with the same thread id as the last.
    Attach,
}

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let gid = || prop_oneof![20 => 0..20_u32, 1 => any::<u32>()];
    // Not INIT and DESTROY: they are moments of their own.
    let opcode = prop_oneof![0..26_u32, 27..38_u32, 39..60_u32, any::<u32>()];
    let raw = (gid(), opcode, 0..8_usize, vec(any::<u8>(), 0..100));
    let moment = prop_oneof![
        4 => (0..HOST_CHANGES.len()).prop_map(Moment::Host),
        5 => Just(Moment::Replay),
        8 => (any::<bool>(), gid(), mentions()).prop_map(|(both, gid, m)| Moment::Marked(both, gid, m)),
        2 => raw.prop_map(|(gid, opcode, node, body)| Moment::Raw(gid, opcode, node, body)),
        1 => Just(Moment::Release),
        1 => Just(Moment::Init),
        1 => Just(Moment::Reconnect),
        1 => Just(Moment::Move),
        1 => Just(Moment::Restart),
        4 => Just(Moment::Attach),
    ];
    vec(moment, 0..50)
}

/// A bench, and its agent.
struct History {
    bench: Bench,
    /// The control node's file, while an agent is attached.
    control: Option<u64>,
    events: VecDeque<farwatch_proto::guest::join::Joined>,
    known: Vec<u64>,
}

impl History {
    fn new() -> Self {
        let mut bench = Bench::new();
        let control = Some(bench.guest.attach());
        let mut history = Self { bench, control, events: VecDeque::new(), known: Vec::new() };
        history.look_up();
        history
    }

    fn look_up(&mut self) {
        self.known = vec![ROOT];
        for name in ["dir", "file"] {
            let found = self.bench.guest.send(Caller::PROGRAM, &requests::lookup(ROOT, name));
            self.known.extend(found.ok().map(|entry| super::guest::nodeid(&entry)));
        }
    }

    fn goes_on(mut self, moment: Moment) -> Self {
        let after = format!("{moment:?}");
        match moment {
            Moment::Host(nth) => self.host(&format!("{{ {}; }} 2>&- || :", HOST_CHANGES[nth])),
            Moment::Replay => {
                if let Some(event) = self.events.pop_front() {
                    replay(&mut self.bench.guest, &event);
                }
            }
            Moment::Marked(both, gid, mention) => {
                let caller = if both { Caller::agent(gid) } else { uid_alone(gid) };
                // Any answer will do.
                drop(self.bench.guest.send(caller, &mention.request(&self.known)));
            }
            Moment::Raw(gid, opcode, node, body) => {
                let request = Request { opcode, nodeid: Mention::node(node, &self.known), body };
                drop(self.bench.guest.send(Caller::agent(gid), &request));
            }
            Moment::Release => {
                if let Some(file) = self.control.take() {
                    let control = farwatch_proto::NodeId::CONTROL.get();
                    drop(
                        self.bench.guest.send(Caller::agent(0), &requests::release(control, file)),
                    );
                }
            }
            Moment::Init => {
                self.bench.guest.init();
                self.begins_anew();
            }
            Moment::Reconnect => {
                self.bench = self.bench.reconnected();
                self.begins_anew();
            }
            Moment::Move => {
                self.bench = self.bench.moved();
                self.control = None;
            }
            Moment::Restart => {
                self.bench = self.bench.restarted();
                self.begins_anew();
            }
            Moment::Attach => {
                // EBUSY where there is one.
                let attached = self.bench.guest.attach_as(Caller::agent(0));
                self.control = attached.ok().map(|(file, _)| file).or(self.control);
            }
        }
        self.bench.assert_still(&after);
        self
    }

    fn host(&mut self, script: &str) {
        if self.control.is_some() {
            self.events.extend(joined(self.bench.change(script)));
        } else {
            self.bench.host.run(script);
            self.bench.look();
        }
    }

    /// The nodes of before are not known any more. Its agent has not noticed.
    fn begins_anew(&mut self) {
        self.control = None;
        self.look_up();
    }
}

fn cases() -> u32 {
    std::env::var("HISTORIES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES)
}

#[test]
fn agent_that_keeps_replaying_changes_nothing_whatever_becomes_of_its_session() {
    if skip_without_root() {
        return;
    }
    let config =
        ProptestConfig { cases: cases(), max_shrink_iters: 64, ..ProptestConfig::default() };
    proptest!(config, |(moments in moments())| {
        let history = moments.into_iter().fold(History::new(), History::goes_on);
        let mut bench = history.bench;
        for seq in [0, 1, 2, 7, Seq::MAX.get()] {
            let mkdir = requests::mkdir(ROOT, "made by an agent");
            drop(bench.send(Caller::agent(seq), &mkdir));
            drop(bench.send(uid_alone(seq), &mkdir));
        }
        bench.assert_goes_on();
    });
}
