// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What comes in without an answer, and what the watch thread is to do next.
//!
//! ```text
//!   the watch thread:  read the kernel's queue ── Input::Change …, Input::Drained, Input::ReadUpTo
//!                        │ and until there is no more
//!                        ▼
//!                      Input::ReadDone ──▶ poll_output() ──▶ Look, Check, Rescan: give the answer as an input
//!                        ▲                    ▲     │        Wake: have the sinks call send()
//!                        │                    └─────┤
//!                        └──────────────────────────┴──────▶ Timeout: wait, and read again
//! ```
//!
//! Inputs may come in any order and from any thread, and [`Engine::poll_output`] may be called after each. Only
//! what it gives depends on the state of the queue: directories are listed and entries are compared when the
//! queue was found empty, and one directory for each time that it was, since the kernel drops events of a queue
//! that is not read. After an input of another thread [`Engine::has_work`] says whether to wake the watch thread.
//!
//! Notifications are no output. One counts as sent when it is taken, since the answers to its replay depend on
//! that, so it is taken only when there is a buffer for it: sinks pull by [`Engine::send`].

use std::time::{Instant, SystemTime};

use super::super::backlog::Look;
use super::super::change::HostChange;
use super::super::contested::{Check, Checked};
use super::super::net::{Listing, Rescan};
use super::{Engine, ReadMark};
use crate::{Fid, FileKind, NodeId};

/// Something that happened, or was found out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// The host's watcher has observed a change. The watch thread.
    Change(HostChange),
    /// A change in this directory was missed, and it is not known which. Any thread.
    Lost(Fid),
    /// A known directory could not be watched: it is polled. Whoever makes it known.
    Unwatched(NodeId),
    /// It is watched now: what happens in it from now on is reported. Any thread.
    Watched(NodeId),
    /// The kernel's queue was empty at this time of the host's clock or later, and everything read before has
    /// been handed in: an event that goes missing from now on happened after it. The watch thread.
    Drained(SystemTime),
    /// What was in the kernel's queue at some time after [`Engine::to_read`] gave this has been handed in. The
    /// watch thread.
    ReadUpTo(ReadMark),
    /// The watch thread has read until there was no more, and has time for the host's file system.
    ReadDone,
    /// Answers [`Output::Look`]: the type of the object, unknown if it is not under its name any more.
    Looked(Look, FileKind),
    /// Answers [`Output::Check`].
    Checked(Check, Checked),
    /// Answers [`Output::Check`]: the entry could not be looked at, for a reason that may pass.
    Unchecked(Check),
    /// Answers the last [`Output::Rescan`]. A directory that is gone has an empty listing.
    Listing(Listing),
    /// Answers the last [`Output::Rescan`]: the directory could not be listed, for a reason that may pass.
    Unlisted,
    /// The agent asks for more, which it does when it has replayed all that it was sent. The thread of its READ.
    Asked,
}

/// What the watch thread is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Find out the type of an object, so that the next event can be sent. The answer is [`Input::Looked`].
    Look(Look),
    /// Wake the sinks: there is something new to [send](Engine::send).
    Wake,
    /// List a directory. The answer is [`Input::Listing`] or [`Input::Unlisted`].
    Rescan(Rescan),
    /// Look at an entry. The answer is [`Input::Checked`] or [`Input::Unchecked`].
    Check(Check),
    /// Read the kernel's queue again, up to [`Input::ReadDone`]: when something is reported, when another thread wakes the watch thread, and
    /// not later than this.
    Timeout(Option<Instant>),
}

/// How far the watch thread is with the kernel's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Queue {
    /// It is to be read, or is being read.
    #[default]
    Unread,
    /// It was read until there was no more.
    Empty,
    /// A directory was listed since it was found empty.
    Listed,
}

impl Engine {
    /// Takes in what has happened. `now` is the time at which it is taken in; of a change it may be the time at which
    /// its report was read, from which its latency is measured. Every thread of the daemon calls this; what each
    /// input comes from is said at [`Input`].
    pub fn input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Change(change) => {
                self.queue = Queue::Unread;
                self.observed = Some(now);
                self.handle_change(change);
                self.observed = None;
            }
            Input::Lost(dir) => self.handle_lost(&dir),
            Input::Unwatched(dir) => {
                self.nets.unwatched(dir);
                self.polls_unseen = true;
            }
            Input::Watched(dir) => self.handle_watched(dir),
            Input::Drained(at) => self.drained(at),
            Input::ReadUpTo(mark) => self.handle_read(mark),
            Input::ReadDone => self.queue = Queue::Empty,
            Input::Looked(look, found) => {
                self.backlog.looked(&look, found);
                self.has_news = true;
            }
            Input::Checked(check, checked) => self.handle_checked(now, check, checked),
            Input::Unchecked(check) => self.handle_unchecked(now, check),
            Input::Listing(listing) => self.handle_listing(now, listing),
            Input::Unlisted => self.handle_unlisted(now),
            Input::Asked => self.handle_asked(),
        }
        self.check_invariants();
    }

    /// What to do next. The watch thread calls this until it gives [`Output::Timeout`].
    pub fn poll_output(&mut self, now: Instant) -> Output {
        self.overtake(now);
        let output = self.next_output(now);
        self.checked(output)
    }

    fn next_output(&mut self, now: Instant) -> Output {
        if let Some(look) = self.look() {
            return Output::Look(look);
        }
        if std::mem::take(&mut self.has_news) && self.has_next() {
            return Output::Wake;
        }
        if self.queue == Queue::Empty
            && let Some(rescan) = self.next_rescan(now)
        {
            self.queue = Queue::Listed;
            return Output::Rescan(rescan);
        }
        if self.queue != Queue::Unread
            && let Some(check) = self.next_check(now)
        {
            return Output::Check(check);
        }
        if self.send_probes(now) {
            return Output::Wake;
        }
        self.contested.seen();
        let listed = std::mem::take(&mut self.queue) == Queue::Listed;
        if listed || self.to_read().is_some() {
            return Output::Timeout(Some(now));
        }
        self.polls_unseen = !self.may_rescan();
        let next = [
            self.rescan_timeout(now),
            self.probe_timeout(),
            self.contested.retry_at(),
            self.overtake_at(),
        ];
        Output::Timeout(next.into_iter().flatten().min())
    }

    /// Whether the watch thread is to call [`Engine::poll_output`] although it was given a later time. Whoever
    /// else gives an input, answers a request or takes a notification asks this afterwards.
    pub fn has_work(&self) -> bool {
        self.wants_rescan()
            || self.wants_poll()
            || self.contested.is_unseen()
            || self.to_read().is_some()
    }
}
