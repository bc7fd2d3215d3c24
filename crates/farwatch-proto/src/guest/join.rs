// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Join`]: puts the two halves of a rename together again (S6–S11).
//!
//! The agent and the driver of `farwatch mount` own one each. It holds copies, never buffers, so it
//! works with a queue of one element (S10); it neither reads nor waits, the caller passes `now`. The
//! kernel patch has the same rules in C.
//!
//! ```text
//! handle(now, seq, notification)   one message, in the order of the link
//! handle_timeout(now)              when poll_timeout() has come
//! poll_output()                    after either, until None
//! ```
//!
//! A message that is not paired goes straight out and overtakes the halves that wait (S8). A paired
//! one moves the state of its cookie, and perhaps puts something out:
//!
//! ```text
//!  state     from                        to                          timeout, or room is needed
//!  ───────   ─────────────────────────   ─────────────────────────   ──────────────────────────
//!  Nothing   → From                      → To
//!  From      older half alone, → From    rename, → Nothing           half alone, → FromGone
//!  To        rename, → Nothing           older half alone, → To      half alone, → ToGone
//!  FromGone  → From                      half alone, → Nothing
//!  ToGone    half alone, → Nothing       → To
//! ```
//!
//! The mate of a half that was delivered alone has nothing to wait for: later messages about its name
//! would overtake it.
//!
//! Room is needed when [`Join::WAITING_MAX`] halves wait and another comes: the oldest goes. A half
//! alone is what a plain one would have been, `MOVED_FROM` or `MOVED_TO` (S15). That is true for the
//! directory that it names; only the connection to the other one is lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::Notification;
use crate::{Cookie, Entry, FileKind, GuestEvent, Mask, Node, Seq, Submount};

/// An event as it comes out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// The number of its message; of the `MOVED_FROM` half for two halves.
    pub seq: Seq,
    /// Of two halves the number of the `MOVED_TO`.
    pub mate: Option<Seq>,
    /// The announced submount that it is in.
    pub submount: Option<Submount>,
    /// The event.
    pub event: GuestEvent,
}

/// Joins halves by their cookie.
#[derive(Debug, Default)]
pub struct Join {
    /// One half at most for each cookie, the oldest first.
    waiting: VecDeque<Waiting>,
    /// The halves that were delivered alone last and whose mates may still come, the oldest first.
    gone: VecDeque<(Cookie, Side)>,
    /// Never longer than [`Join::WAITING_MAX`] if drained after each input.
    output: VecDeque<Joined>,
}

#[derive(Debug)]
struct Waiting {
    cookie: Cookie,
    until: Instant,
    half: Half,
}

/// What waits under a cookie.
#[derive(Debug)]
enum State {
    /// No half: none has come, or the pair is complete.
    Nothing,
    /// The old name waits for the new one.
    From(Half),
    /// The new name came first and waits for the old one.
    To(Half),
    /// The half of this side was delivered alone.
    Gone(Side),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    From,
    To,
}

#[derive(Debug)]
struct Half {
    seq: Seq,
    submount: Option<Submount>,
    side: Side,
    entry: Entry,
    child: Option<Node>,
    kind: FileKind,
}

impl Join {
    /// How many halves wait at most, and of how many that were delivered alone the mate is known when it
    /// comes. The two halves of a rename leave the server one after the other, so even a handful is rare.
    pub const WAITING_MAX: usize = 64;
    /// How long a half waits at most. Far longer than a link needs, short enough for a person not to
    /// notice.
    pub const WAIT_MAX: Duration = Duration::from_millis(500);

    /// Nothing waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the message with number `seq`. A mate that comes late, but before
    /// [`Self::handle_timeout`] has let its half go, still makes the pair.
    pub fn handle(&mut self, now: Instant, seq: Seq, notification: Notification) {
        let (cookie, half) = match Input::new(seq, notification) {
            Input::Half(cookie, half) => (cookie, half),
            Input::Event(joined) => return self.output.push_back(joined),
        };
        match (self.take(cookie), half.side) {
            (State::Nothing, Side::From | Side::To) => self.wait(now, cookie, half),
            (State::Gone(gone), side) if gone == side => self.wait(now, cookie, half),
            (State::Gone(_), Side::From | Side::To) => self.output.push_back(half.alone()),
            (State::From(from), Side::To) => self.output.push_back(rename(from, half)),
            (State::To(to), Side::From) => self.output.push_back(rename(half, to)),
            (State::From(older), Side::From) | (State::To(older), Side::To) => {
                self.output.push_back(older.alone());
                self.wait(now, cookie, half);
            }
        }
    }

    /// Lets go of every half that has waited long enough, the oldest first.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.poll_timeout().is_some_and(|until| until <= now) {
            self.release_oldest();
        }
    }

    /// When [`Self::handle_timeout`] is due; `None` while nothing waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.front().map(|oldest| oldest.until)
    }

    /// The next event; to be called until `None` after each input.
    pub fn poll_output(&mut self) -> Option<Joined> {
        self.output.pop_front()
    }

    fn take(&mut self, cookie: Cookie) -> State {
        let at = self.waiting.iter().position(|waiting| waiting.cookie == cookie);
        match at.and_then(|at| self.waiting.remove(at)) {
            None => {
                let gone = self.gone.iter().position(|(gone, _)| *gone == cookie);
                let gone = gone.and_then(|at| self.gone.remove(at));
                gone.map_or(State::Nothing, |(_, side)| State::Gone(side))
            }
            Some(Waiting { half, .. }) => match half.side {
                Side::From => State::From(half),
                Side::To => State::To(half),
            },
        }
    }

    fn wait(&mut self, now: Instant, cookie: Cookie, half: Half) {
        if self.waiting.len() == Self::WAITING_MAX {
            self.release_oldest();
        }
        self.waiting.push_back(Waiting { cookie, until: now + Self::WAIT_MAX, half });
    }

    fn release_oldest(&mut self) {
        let Some(Waiting { cookie, half, .. }) = self.waiting.pop_front() else { return };
        if self.gone.len() == Self::WAITING_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back((cookie, half.side));
        self.output.push_back(half.alone());
    }
}

/// What a message is to the state machine.
enum Input {
    Half(Cookie, Half),
    Event(Joined),
}

impl Input {
    /// [`Notification::decode`] has seen to it that a pair has a cookie, a name and one side.
    fn new(seq: Seq, notification: Notification) -> Self {
        let Notification { node, submount, mask, cookie, paired, link, child, kind, name } =
            notification;
        let event = match (node, name) {
            (None, None | Some(_)) => GuestEvent::Overflow,
            (Some(node), None) => GuestEvent::Object { node, mask },
            (Some(dir), Some(name)) => {
                let entry = Entry { dir, name };
                if let Some(cookie) = cookie.filter(|_| paired) {
                    let side = if mask.contains(Mask::MOVED_TO) { Side::To } else { Side::From };
                    let half = Half { seq, submount, side, entry, child, kind };
                    return Self::Half(cookie, half);
                }
                GuestEvent::Entry { entry, mask, child, kind, link }
            }
        };
        Self::Event(Joined { seq, mate: None, submount, event })
    }
}

impl Half {
    fn alone(self) -> Joined {
        let Self { seq, submount, side, entry, child, kind } = self;
        let side = match side {
            Side::From => Mask::MOVED_FROM,
            Side::To => Mask::MOVED_TO,
        };
        let is_dir = if kind == FileKind::Directory { Mask::ISDIR } else { Mask::empty() };
        let event = GuestEvent::Entry { entry, mask: side | is_dir, child, kind, link: false };
        Joined { seq, mate: None, submount, event }
    }
}

/// The halves of one rename know the same object. Where they differ the later look is right, which
/// is the one at the new name.
fn rename(from: Half, to: Half) -> Joined {
    let kind = if to.kind == FileKind::Unknown { from.kind } else { to.kind };
    let child = to.child.or(from.child);
    let event = GuestEvent::Rename { from: from.entry, to: to.entry, child, kind };
    Joined { seq: from.seq, mate: Some(to.seq), submount: from.submount, event }
}
