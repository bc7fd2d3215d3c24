// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random histories with lost events, a directory that cannot always be watched, a tiny backlog and listings that are
//! out of date when they are handed in: in the end a program that believes what it is told is right about every file. The test
//! plays the host, the file server and the guest's kernel. The program reads a file whenever it is told
//! that there is something, whichever way.

#[path = "common/ids.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod ids;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::host::{
    Answer, Engine, HostChange, HostEntry, Input, Learned, Listed, Listing, MarkedRequest, Output,
    Progress, Rescan,
};
use farwatch_proto::wire::Notification;
use farwatch_proto::{Fid, FileKind, Mask, Name, NodeId, Seq};
use ids::{id, name};
use proptest::prelude::*;

const ROOT: NodeId = NodeId::ROOT;

fn fid(number: u64) -> Fid {
    Fid::new([7, 0], 1, &number.to_be_bytes()).expect("a short handle")
}

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// Enough to be a crowd in a backlog.
const BURST: usize = 9;

/// A step of [`World`].
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Something happens to a name of a directory on the host.
    Create(usize, u8),
    Delete(usize, u8),
    Write(usize, u8),
    Rename((usize, u8), (usize, u8)),
    /// A program in the guest looks at a name.
    Lookup(usize, u8),
    /// The guest's kernel gives up what it has under a name.
    Forget(usize, u8),
    /// The guest takes and replays one notification.
    Replay,
    /// From here to the next one the kernel loses events.
    Lose,
    /// A name of a directory comes and goes many times.
    Burst(usize, u8),
    /// Time passes.
    Wait,
    /// The limit of watches is reached or lifted for the second directory.
    Limit,
    /// A directory is listed, and one thing happens on the host before the listing is handed in.
    Rescan(usize, u8, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let (dir, n) = (0usize..2, 0u8..6);
    let place = (dir.clone(), n.clone());
    prop_oneof![
        3 => place.clone().prop_map(|(d, n)| Op::Create(d, n)),
        2 => place.clone().prop_map(|(d, n)| Op::Delete(d, n)),
        2 => place.clone().prop_map(|(d, n)| Op::Write(d, n)),
        2 => (place.clone(), place.clone()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => place.clone().prop_map(|(d, n)| Op::Lookup(d, n)),
        1 => place.clone().prop_map(|(d, n)| Op::Forget(d, n)),
        4 => Just(Op::Replay),
        1 => Just(Op::Lose),
        1 => Just(Op::Limit),
        1 => place.clone().prop_map(|(d, n)| Op::Burst(d, n)),
        1 => Just(Op::Wait),
        1 => (dir, n, any::<bool>()).prop_map(|(d, n, b)| Op::Rescan(d, n, b)),
    ]
}

#[derive(Clone, Copy, Debug)]
struct File {
    object: u64,
    version: u64,
    changed: u64,
    born: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Watch {
    Set,
    Missing,
    /// It would be set if somebody tried.
    Possible,
}

/// Two directories of files on the host, the guest's kernel as far as it replays, and a program that
/// believes what it is told.
struct World {
    engine: Engine,
    seq: Option<Seq>,
    now: Instant,
    /// When the watch thread wakes by itself.
    wakes_at: Option<Instant>,
    dirs: [BTreeMap<u8, File>; 2],
    /// What the program believes to be there, and which version it has read.
    believed: [BTreeMap<u8, u64>; 2],
    losing: bool,
    /// Of the second directory.
    watch: Watch,
    clock: u64,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn new(backlog_max: usize) -> Self {
        let mut engine = Engine::default();
        engine.limit_backlog(backlog_max);
        engine.reset(Some(fid(1)));
        engine.attach(42).expect("nobody is attached yet");
        engine.listen(SystemTime::UNIX_EPOCH);
        let sub = Learned { id: id(2), fid: Some(fid(2)), kind: FileKind::Directory, ino: 0 };
        engine.learn(sub, ROOT, &name("sub"));
        let (dirs, believed) = Default::default();
        let now = Instant::now();
        let watch = Watch::Set;
        Self {
            engine,
            seq: None,
            now,
            wakes_at: None,
            dirs,
            believed,
            losing: false,
            watch,
            clock: 100,
        }
    }

    fn next(&mut self) -> Option<Notification> {
        let notification = self.engine.send()?;
        self.seq = Some(self.seq.map_or(Seq::FIRST, Seq::next));
        Some(notification)
    }

    fn ask(&mut self, request: MarkedRequest<'_>) -> Answer {
        self.engine.answer(self.seq, request)
    }

    fn tick(&mut self) -> u64 {
        // A step is longer than the clock of any file system is off.
        self.clock += 10;
        if !self.losing {
            self.engine.input(self.now, Input::Drained(at(self.clock)));
        }
        self.clock
    }

    fn observed(&mut self, change: HostChange) {
        if !self.losing {
            self.engine.input(self.now, Input::Change(change));
        }
    }

    fn is_watched(&self, dir: usize) -> bool {
        dir == 0 || self.watch == Watch::Set
    }

    fn entry_changed(&mut self, dir: usize, n: u8, mask: Mask, object: u64) {
        if !self.is_watched(dir) {
            return;
        }
        let (entry, object) = (host_entry(dir, n), Some(fid(object)));
        self.observed(HostChange::Entry { entry, mask, object });
    }

    fn step(&mut self, op: Op) {
        let now = self.tick();
        match op {
            Op::Create(dir, n) => {
                let object = 1000 + now;
                let new = File { object, version: now, changed: now, born: now };
                if let Entry::Vacant(slot) = self.dirs[dir].entry(n) {
                    slot.insert(new);
                    self.entry_changed(dir, n, Mask::CREATE, object);
                }
            }
            Op::Delete(dir, n) => {
                if let Some(file) = self.dirs[dir].remove(&n) {
                    self.entry_changed(dir, n, Mask::DELETE, file.object);
                }
            }
            Op::Write(dir, n) => {
                if let Some(file) = self.dirs[dir].get_mut(&n) {
                    (file.version, file.changed) = (now, now);
                    let object = file.object;
                    self.entry_changed(dir, n, Mask::MODIFY, object);
                }
            }
            Op::Rename(from, to) if from != to => {
                if let Some(mut file) = self.dirs[from.0].remove(&from.1) {
                    file.changed = now;
                    self.dirs[to.0].insert(to.1, file);
                    let seen = |(dir, n)| self.is_watched(dir).then(|| host_entry(dir, n));
                    let (from, to, object) = (seen(from), seen(to), Some(fid(file.object)));
                    if from.is_some() || to.is_some() {
                        self.observed(HostChange::Move { from, to, object, directory: false });
                    }
                }
            }
            Op::Rename(..) => {}
            Op::Lookup(dir, n) => {
                self.learn(dir, n);
            }
            Op::Forget(dir, n) => {
                for node in self.engine.tree().told(dir_node(dir), &file_name(n)).to_vec() {
                    self.engine.forget(node, u64::MAX);
                }
            }
            Op::Replay => {
                self.replay();
            }
            Op::Lose => {
                if self.losing {
                    self.engine.input(self.now, Input::Change(HostChange::Overflow));
                }
                self.losing = !self.losing;
            }
            Op::Burst(dir, n) => {
                for _ in 0..BURST {
                    self.step(Op::Create(dir, n));
                    self.step(Op::Delete(dir, n));
                }
            }
            Op::Wait => {
                self.now += Duration::from_secs(3);
                self.rescan(None);
            }
            Op::Limit => self.limit(),
            Op::Rescan(dir, n, create) => {
                let between = if create { Op::Create(dir, n) } else { Op::Delete(dir, n) };
                self.rescan(Some(between));
            }
        }
    }

    /// The limit of watches is reached, lifted, or reached again before anybody has tried.
    fn limit(&mut self) {
        self.watch = match self.watch {
            Watch::Set => {
                self.engine.input(self.now, Input::Unwatched(id(2)));
                Watch::Missing
            }
            Watch::Missing => Watch::Possible,
            Watch::Possible => Watch::Missing,
        }
    }

    /// The directory that the watch thread is to list now. If there is none, it sleeps.
    fn next_rescan(&mut self) -> Option<Rescan> {
        self.engine.input(self.now, Input::ReadDone);
        loop {
            match self.engine.poll_output(self.now) {
                Output::Rescan(rescan) => return Some(rescan),
                Output::Look(look) => {
                    self.engine.input(self.now, Input::Looked(look, FileKind::Unknown));
                }
                Output::Wake => {}
                Output::Check(check) => panic!("the guest changes nothing: {check:?}"),
                Output::Timeout(at) => {
                    self.wakes_at = at;
                    return None;
                }
            }
        }
    }

    fn rescan(&mut self, between: Option<Op>) -> bool {
        let Some(rescan) = self.next_rescan() else { return false };
        let Rescan { dir, after, upto, len_max, is_polled, .. } = rescan;
        if is_polled && self.watch == Watch::Possible {
            self.watch = Watch::Set;
            self.engine.input(self.now, Input::Watched(dir));
            self.engine.input(self.now, Input::Unlisted);
            return true;
        }
        let wanted = |name: &Name| {
            after.as_ref().is_none_or(|after| name > after)
                && upto.as_ref().is_none_or(|upto| name <= upto)
        };
        let which = usize::from(dir != ROOT);
        let sub = (which == 0).then(|| Listed {
            name: name("sub"),
            object: Some(fid(2)),
            kind: FileKind::Directory,
            changed: at(0),
            born: None,
        });
        let files = self.dirs[which].iter().map(|(n, file)| Listed {
            name: file_name(*n),
            object: Some(fid(file.object)),
            kind: FileKind::Regular,
            changed: at(file.changed),
            born: Some(at(file.born)),
        });
        let mut entries: Vec<_> = files.chain(sub).filter(|l| wanted(&l.name)).collect();
        let full = entries.len() >= len_max;
        entries.truncate(len_max);
        let upto = entries.last().filter(|_| full).map(|last| last.name.clone());
        if let Some(op) = between {
            self.step(op);
        }
        let listing = Listing { entries, upto, removed: Vec::new() };
        self.engine.input(self.now, Input::Listing(listing));
        true
    }

    /// The file server's answer to a LOOKUP.
    fn learn(&mut self, dir: usize, n: u8) -> Option<u64> {
        let (node, name) = (dir_node(dir), file_name(n));
        match self.dirs[dir].get(&n) {
            Some(file) => {
                let (id, fid) = (id(file.object), Some(fid(file.object)));
                let learned = Learned { id, fid, kind: FileKind::Regular, ino: 0 };
                self.engine.learn(learned, node, &name);
                Some(file.object)
            }
            None => {
                self.engine.learn_missing(node, &name);
                None
            }
        }
    }

    /// Takes one notification, makes the kernel's requests and tells the program.
    fn replay(&mut self) -> bool {
        let Some(notification) = self.next() else { return false };
        let (mask, Some(node)) = (notification.mask, notification.node) else { return true };
        let Some(name) = notification.name.clone() else {
            // Perhaps a probe, since nothing here asks for what replays content.
            self.engine.probe_seen(node.id);
            return true;
        };
        let (dir, Some(n)) = (usize::from(node.id != ROOT), number(&name)) else { return true };
        let limbo = file_name(0);
        if mask.contains(Mask::CREATE) {
            self.ask(MarkedRequest::Lookup(node.id, &name));
            let created = MarkedRequest::Create(node.id, &name, FileKind::Regular);
            let made = self.ask(created);
            assert!(matches!(made, Answer::Entry(_)), "{notification:?}: {made:?}");
            self.learn(dir, n);
        }
        for (bit, request) in [
            (Mask::DELETE, MarkedRequest::Remove(node.id, &name, false)),
            (Mask::MOVED_FROM, MarkedRequest::Rename(node.id, &name, NodeId::LIMBO, &limbo)),
            (Mask::MOVED_TO, MarkedRequest::Rename(NodeId::LIMBO, &limbo, node.id, &name)),
        ] {
            if mask.contains(bit) && !notification.paired {
                // ESTALE is told once, and the call repeated.
                let done = [self.ask(request), self.ask(request)];
                assert!(done.contains(&Answer::Done), "{notification:?}: {done:?}");
            }
        }
        if notification.paired && mask.contains(Mask::MOVED_FROM) {
            let to = self.next().expect("the second half");
            let to = to.node.zip(to.name);
            let (to_node, to_name) = to.expect("an entry");
            let request = MarkedRequest::Rename(node.id, &name, to_node.id, &to_name);
            let first = self.seq.map(before);
            let done = [self.engine.answer(first, request), self.engine.answer(first, request)];
            assert!(done.contains(&Answer::Done), "{notification:?}: {done:?}");
            self.believed[dir].remove(&n);
            let to = (usize::from(to_node.id != ROOT), number(&to_name).expect("a file"));
            self.program_reads(to.0, to.1);
        } else if mask.intersects(Mask::DELETE | Mask::MOVED_FROM) {
            self.believed[dir].remove(&n);
        } else {
            self.program_reads(dir, n);
        }
        true
    }

    /// The program was told that there is something, and reads it.
    fn program_reads(&mut self, dir: usize, n: u8) {
        let version = self.dirs[dir].get(&n).map_or(0, |file| file.version);
        self.believed[dir].insert(n, version);
    }

    /// Everything is replayed and every directory is in step.
    fn settle(&mut self) {
        if self.losing {
            self.step(Op::Lose);
        }
        let ticket = self.engine.ask_barrier().expect("an agent listens");
        for _ in 0..10_000 {
            if let Some(mark) = self.engine.to_read() {
                self.engine.input(self.now, Input::ReadUpTo(mark));
            }
            if self.engine.progress(ticket) == Progress::Reached {
                return;
            }
            let replayed = self.replay();
            // A probe may have been put behind what was sent.
            if !self.rescan(None) && !replayed && !self.engine.has_next() {
                self.now = self.wakes_at.expect("it is not over");
            }
        }
        panic!("no end: {} directories are stale", self.engine.stale_len());
    }
}

fn before(seq: Seq) -> Seq {
    Seq::new(seq.get() - 1).unwrap_or(Seq::MAX)
}

fn dir_node(dir: usize) -> NodeId {
    if dir == 0 { ROOT } else { id(2) }
}

fn file_name(n: u8) -> Name {
    name(&format!("f{n}"))
}

fn number(name: &Name) -> Option<u8> {
    std::str::from_utf8(name.as_bytes()).ok()?.strip_prefix('f')?.parse().ok()
}

fn host_entry(dir: usize, n: u8) -> HostEntry {
    HostEntry { dir: fid(dir_node(dir).get()), name: file_name(n) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn model_of_a_program_is_correct_after_any_dropped_events(
        // The smallest that there is, and one in which events wait.
        backlog_max in prop_oneof![Just(4usize), Just(32)],
        ops in prop::collection::vec(op(), 1..80)
    ) {
        let mut world = World::new(backlog_max);
        for op in &ops {
            world.step(*op);
        }
        world.settle();
        for (dir, believed) in world.believed.iter().enumerate() {
            let is: BTreeMap<u8, u64> =
                world.dirs[dir].iter().map(|(n, file)| (*n, file.version)).collect();
            prop_assert_eq!(believed, &is, "directory {}", dir);
        }
    }
}
