// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an agent and the kernel below it make of notifications: the requests of each call, in the
//! kernel's order, with the number of the notification as gid.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use farwatch_proto::guest::join::{Join, Joined};
use farwatch_proto::guest::opens::{Opens, Step};
use farwatch_proto::guest::plan::{Call, Place, Target, plan};
use farwatch_proto::replay::{CallKind, Times, rows};
use farwatch_proto::{Entry, FileKind, Mask, NodeId};
use rustix::io::Errno;

use crate::guest::{Caller, Guest, ROOT, Reply, Told, fh, le64, nodeid};
use crate::requests::{self, Request, fattr, file_type, open_flags};

/// SETATTR of the mtime alone, for MODIFY.
pub(crate) const MODIFY: u32 = fattr::MTIME_NOW;
/// SETATTR of both times, for ATTRIB.
pub(crate) const ATTRIB: u32 = fattr::ATIME_NOW | fattr::MTIME_NOW;

/// `struct fuse_entry_out`, which the reply to CREATE begins with.
const ENTRY_OUT_LEN: usize = 128;

/// A request that would change something, and its reply.
pub(crate) type Answered = (Request, Reply);

/// Puts halves of renames together.
pub(crate) fn joined(notifications: Told) -> Vec<Joined> {
    let (now, mut join) = (Instant::now(), Join::new());
    let mut events = Vec::new();
    for (seq, notification) in notifications {
        join.handle(now, seq, notification);
        events.extend(std::iter::from_fn(|| join.poll_output()));
    }
    events
}

/// Replays one event. Returns those of the requests that would change something.
pub(crate) fn replay(guest: &mut Guest, event: &Joined) -> Vec<Answered> {
    let mut replay = Replay { guest, agent: Caller::agent(event.seq.get()), answered: Vec::new() };
    for call in plan(event.event.clone()) {
        let before = replay.answered.len();
        replay.call(&call);
        // The kernel does this once (`retry_estale()`).
        if replay.answered[before..].iter().any(|(_, reply)| *reply == Err(Errno::STALE)) {
            replay.answered.truncate(before);
            replay.call(&call);
        }
    }
    replay.answered
}

struct Replay<'a> {
    guest: &'a mut Guest,
    agent: Caller,
    answered: Vec<Answered>,
}

impl Replay<'_> {
    fn call(&mut self, call: &Call) {
        match call {
            Call::Create(entry, kind) => {
                self.lookup(entry);
                self.change(create(entry, *kind));
            }
            Call::CreateAndClose(entry, events) => self.create_and_close(entry, *events),
            Call::Link(node, entry, _) => {
                self.lookup(entry);
                self.change(requests::link(node.id.get(), dir(entry), name(entry)));
            }
            Call::Content(target, events) => {
                let node = match target {
                    Target::Entry(entry) => self.lookup(entry),
                    Target::Node(node) => Some(node.id.get()),
                };
                if let Some(node) = node {
                    self.content(target, node, *events);
                }
            }
            Call::Remove(entry, directory) => {
                self.lookup(entry);
                let remove = if *directory { requests::rmdir } else { requests::unlink };
                self.change(remove(dir(entry), name(entry)));
            }
            Call::Rename(from, to) => {
                let (old, new) = (self.place(from), self.place(to));
                for (dir, name) in [&old, &new] {
                    self.lookup_in(*dir, name);
                }
                self.change(requests::rename((old.0, &old.1), (new.0, &new.1)));
            }
        }
    }

    fn create_and_close(&mut self, entry: &Entry, events: Mask) {
        self.lookup(entry);
        let exclusive = open_flags::WRONLY | open_flags::EXCL;
        let create = requests::create(dir(entry), name(entry), exclusive);
        let Some(made) = self.change(create) else { return };
        let node = nodeid(&made);
        for row in rows(events, FileKind::Regular, false) {
            if let CallKind::SetTimes(times) = row.call {
                self.change(set_times(node, times));
            }
        }
        let fh = le64(&made, ENTRY_OUT_LEN);
        assert_eq!(self.guest.send(self.agent, &requests::release(node, fh)), Ok(Vec::new()));
    }

    /// What an agent would keep open is closed at the end of the event.
    fn content(&mut self, target: &Target, node: u64, events: Mask) {
        let mut opens = Opens::default();
        let is_dir = events.contains(Mask::ISDIR);
        for step in opens.steps(target, events) {
            match step {
                // OPENDIR has no place among the answered: again, it is answered as if it were anyone's.
                Step::Open(mode) if is_dir => {
                    if let Ok(opened) = self.guest.send(self.agent, &requests::opendir(node)) {
                        assert_eq!(opens.keep(target.clone(), mode, fh(&opened)), None);
                    }
                }
                Step::Open(mode) => {
                    if let Some(opened) = self.change(requests::open(node, mode.flags())) {
                        assert_eq!(opens.keep(target.clone(), mode, fh(&opened)), None);
                    }
                }
                Step::Access => {
                    if let Some(fh) = opens.any(target).copied() {
                        let read = if is_dir { requests::readdir } else { requests::read };
                        self.change(read(node, fh, 4096));
                    }
                }
                Step::SetTimes(times) => {
                    self.change(set_times(node, times));
                }
                Step::Refresh => {}
                Step::Close(writes) => {
                    if let Some(fh) = opens.take(target, writes) {
                        self.close(node, fh, is_dir);
                    }
                }
            }
        }
        while let Some(fh) = opens.take(target, false).or_else(|| opens.take(target, true)) {
            self.close(node, fh, is_dir);
        }
    }

    fn close(&mut self, node: u64, fh: u64, is_dir: bool) {
        let close = if is_dir {
            vec![requests::releasedir(node, fh)]
        } else {
            vec![requests::flush(node, fh), requests::release(node, fh)]
        };
        for request in close {
            assert_eq!(self.guest.send(self.agent, &request), Ok(Vec::new()));
        }
    }

    fn change(&mut self, request: Request) -> Option<Vec<u8>> {
        let reply = self.guest.send(self.agent, &request);
        self.answered.push((request, reply.clone()));
        reply.ok()
    }

    fn lookup(&mut self, entry: &Entry) -> Option<u64> {
        self.lookup_in(dir(entry), name(entry))
    }

    fn lookup_in(&mut self, dir: u64, name: &str) -> Option<u64> {
        let entry = self.guest.send(self.agent, &requests::lookup(dir, name)).ok()?;
        Some(nodeid(&entry))
    }

    fn place(&mut self, place: &Place) -> (u64, String) {
        match place {
            Place::Entry(entry) => (dir(entry), name(entry).to_owned()),
            Place::Limbo(_) => {
                let limbo = requests::lookup(ROOT, ".farwatch-limbo");
                // An agent whose session has ended still has it open.
                let limbo = self.guest.send(self.agent, &limbo);
                let limbo = limbo.map_or(NodeId::LIMBO.get(), |entry| nodeid(&entry));
                (limbo, self.agent.gid.to_string())
            }
        }
    }
}

fn set_times(node: u64, times: Times) -> Request {
    let valid = match times {
        Times::Mtime => MODIFY,
        Times::Both => ATTRIB,
    };
    requests::setattr(node, valid, 0)
}

fn create(entry: &Entry, kind: FileKind) -> Request {
    let (dir, name) = (dir(entry), name(entry));
    let file_type = match kind {
        FileKind::Directory => return requests::mkdir(dir, name),
        FileKind::Symlink => return requests::symlink(dir, name),
        FileKind::Unknown | FileKind::Regular => file_type::REGULAR,
        FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Socket => {
            kind.mode()
        }
    };
    requests::mknod(dir, name, file_type | 0o644)
}

fn dir(entry: &Entry) -> u64 {
    entry.dir.id.get()
}

fn name(entry: &Entry) -> &str {
    std::str::from_utf8(entry.name.as_bytes()).unwrap()
}
