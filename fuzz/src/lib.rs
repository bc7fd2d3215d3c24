// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must hold for any bytes. Each function panics when it does not.
//!
//! The fuzz targets feed these functions, and so do `farwatch-proto`'s own tests, which include this
//! file: they replay the corpus and draw random bytes on a stable compiler.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use farwatch_proto::guest::join::{Join, Joined};
use farwatch_proto::guest::opens::Opens;
use farwatch_proto::guest::plan::{Call, plan};
use farwatch_proto::host::{Engine, State};
use farwatch_proto::wire::Notification;
use farwatch_proto::wire::control::{Hello, Welcome};
use farwatch_proto::wire::sync;
use farwatch_proto::{Cookie, FileKind, GuestEvent, Mask, Name, Node, NodeId, Seq};

/// Bytes that are a notification are its only encoding, and no shorter or longer one is.
pub fn notification_decode(data: &[u8]) {
    let Ok(notification) = Notification::decode(data) else { return };
    assert_eq!(notification.encode(&mut [0; Notification::LEN_MAX]), data);
    let longer = [data, b"x"].concat();
    for other in (0..data.len()).map(|len| &data[..len]).chain([&longer[..]]) {
        assert!(Notification::decode(other).is_err(), "{} of {} bytes", other.len(), data.len());
    }
}

/// Bytes that are a frame are its only encoding, and of one sort.
pub fn control_decode(data: &[u8]) {
    let (hello, welcome) = (Hello::decode(data), Welcome::decode(data));
    if let Ok(hello) = hello {
        assert!(welcome.is_err());
        assert_eq!(hello.encode(), data);
        assert!(
            hello.negotiate().is_none_or(|v| (hello.version_min..=hello.version_max).contains(&v))
        );
    }
    if let Ok(welcome) = welcome {
        assert_eq!(welcome.encode(), data);
        assert!(welcome.control.is_reserved() && welcome.limbo.is_reserved());
    }
    if let Some(ticket) = sync::question(data) {
        assert!(sync::is_question(data) && data.ends_with(&sync::ask(ticket)));
    }
}

/// Bytes that are a state are its only encoding, no shorter or longer ones are, and an engine can take
/// it over: what it is owed and what it knows can be had, and all of it be forgotten.
pub fn state_decode(data: &[u8]) {
    let Ok(state) = State::decode(data) else { return };
    assert_eq!(state.encode(), data);
    let longer = [data, b"x"].concat();
    let shorter = [0, data.len() / 2, data.len() - 1].map(|len| &data[..len]);
    for other in shorter.into_iter().chain([&longer[..]]) {
        assert!(State::decode(other).is_err(), "{} of {} bytes", other.len(), data.len());
    }
    let mut engine = Engine::default();
    engine.load(state, None);
    let known: Vec<_> =
        engine.tree().entries(NodeId::ROOT).into_iter().map(|(id, ..)| id).collect();
    for id in known.into_iter().chain(engine.tree().nameless()) {
        engine.forget(id, u64::MAX);
    }
    assert!(State::decode(&engine.save(0).encode()).is_ok());
}

/// Four bytes are one step: what comes, its cookie, and how many times 16 ms after the step before.
/// Every message comes out once, in a rename if its mate waited, else as itself; only paired halves
/// wait, not too many and not too long.
pub fn join(start: Instant, data: &[u8]) {
    let mut run = Run { now: start, join: Join::new(), next: Seq::FIRST, inside: BTreeMap::new() };
    for step in data.chunks_exact(4) {
        let cookie = Cookie::FIRST.0.saturating_add(u32::from(step[1]));
        run.now += Duration::from_millis(16) * u32::from(step[2]);
        let (mask, paired) = match step[0] % 8 {
            0 | 1 => (Mask::MOVED_FROM, true),
            2 | 3 => (Mask::MOVED_TO, true),
            4 => (Mask::MOVED_FROM, false),
            5 => (Mask::MOVED_TO, false),
            6 => (Mask::MODIFY, false),
            _ => {
                run.timeout();
                continue;
            }
        };
        run.message(mask, paired, Cookie(cookie));
    }
    run.now += Join::WAIT_MAX;
    run.timeout();
    assert!(run.inside.is_empty(), "never came out: {:?}", run.inside);
}

/// The most system calls for one event.
const CALLS_MAX: usize = 8;

/// What a server may send an agent: messages one after the other, each as long as its first field says. Whatever they are,
/// what the agent makes of them is bounded, and all of it is a call on one entry or object of the mount: a
/// [`Name`] is one component, so no message leads outside.
pub fn agent_plan(start: Instant, mut data: &[u8]) {
    let (mut now, mut join, mut seq) = (start, Join::new(), Seq::FIRST);
    let mut messages = 0;
    let mut events = 0;
    while let Some((len, _)) = data.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let (message, rest) = data.split_at(len.clamp(4, data.len()));
        data = rest;
        let Ok(notification) = Notification::decode(message) else { continue };
        messages += 1;
        now += Duration::from_millis(u64::from(seq.get() % 7));
        join.handle(now, seq, notification);
        seq = seq.next();
        events += planned(&mut join);
    }
    join.handle_timeout(now + Join::WAIT_MAX);
    events += planned(&mut join);
    assert!(events <= messages, "{events} events of {messages} messages");
}

/// Plans what the join gives out, and returns how many events that were.
fn planned(join: &mut Join) -> usize {
    let mut events = 0;
    while let Some(Joined { event, .. }) = join.poll_output() {
        events += 1;
        let calls = plan(event);
        assert!(calls.len() <= CALLS_MAX, "{calls:?}");
        for call in calls {
            if let Call::Content(target, mask) = call {
                let steps = Opens::<()>::default().steps(&target, mask);
                assert!(steps.len() <= CALLS_MAX, "{steps:?} for {mask:?}");
            }
        }
    }
    events
}

struct Run {
    now: Instant,
    join: Join,
    next: Seq,
    /// Halves that have not come out: side, cookie, when they came.
    inside: BTreeMap<u32, (Mask, Cookie, Instant)>,
}

impl Run {
    fn message(&mut self, mask: Mask, paired: bool, cookie: Cookie) {
        let seq = self.next;
        self.next = seq.next();
        let notification = Notification {
            node: Some(Node::ROOT),
            submount: None,
            mask,
            cookie: (mask != Mask::MODIFY).then_some(cookie),
            paired,
            link: false,
            child: None,
            kind: FileKind::Regular,
            name: Some(name(seq)),
        };
        let mut waiting = self.inside.values();
        let has_mate = paired && waiting.any(|(side, of, _)| *of == cookie && *side != mask);
        self.inside.insert(seq.get(), (mask, cookie, self.now));
        self.join.handle(self.now, seq, notification);
        assert_eq!(self.drain(), usize::from(has_mate), "renames for {mask:?} {cookie:?}");
        assert!(
            paired || !self.inside.contains_key(&seq.get()),
            "held {mask:?}, which is not paired"
        );
    }

    fn timeout(&mut self) {
        self.join.handle_timeout(self.now);
        assert_eq!(self.drain(), 0, "a timeout joined something");
        let too_long = |since: &Instant| self.now.duration_since(*since) >= Join::WAIT_MAX;
        assert!(!self.inside.values().any(|(_, _, since)| too_long(since)));
    }

    /// Takes out everything, checks it and returns how many renames there were.
    fn drain(&mut self) -> usize {
        let mut renames = 0;
        while let Some(Joined { seq, event, .. }) = self.join.poll_output() {
            match event {
                GuestEvent::Entry { entry, mask, .. } => {
                    assert_eq!(self.leave(&entry.name).0, mask);
                    assert_eq!(entry.name, name(seq));
                }
                GuestEvent::Rename { from, to, .. } => {
                    let (old, new) = (self.leave(&from.name), self.leave(&to.name));
                    assert_eq!((old.0, new.0), (Mask::MOVED_FROM, Mask::MOVED_TO));
                    assert_eq!(old.1, new.1, "halves of different renames");
                    assert_eq!(from.name, name(seq));
                    renames += 1;
                }
                GuestEvent::Object { .. } | GuestEvent::Overflow => {
                    panic!("{event:?} from nowhere")
                }
            }
        }
        assert!(self.inside.len() <= Join::WAITING_MAX);
        let oldest = self.inside.values().map(|(_, _, since)| *since + Join::WAIT_MAX).min();
        assert_eq!(self.join.poll_timeout(), oldest);
        renames
    }

    fn leave(&mut self, name: &Name) -> (Mask, Cookie, Instant) {
        let seq = std::str::from_utf8(name.as_bytes()).ok().and_then(|seq| seq.parse().ok());
        seq.and_then(|seq: u32| self.inside.remove(&seq)).expect("came out once, having gone in")
    }
}

/// The name tells the message, so nothing can come out in the place of another.
fn name(seq: Seq) -> Name {
    Name::parse(seq.get().to_string().as_bytes()).expect("digits are a name")
}
