// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the requests of a replay are answered: every event, in every state of its record, with every
//! request. What is not in the snapshot gets EPERM, and what is has its answer in the table of replays.

#[path = "common/ids.rs"]
mod ids;

use std::fmt::Write as _;
use std::time::{Instant, SystemTime};

use farwatch_proto::host::{
    Answer, Engine, HostChange, HostEntry, Input, Learned, MarkedRequest, Object, Output, Refusal,
};
use farwatch_proto::replay::{AnswerKind, OpenMode, RequestKind, TABLE, Times};
use farwatch_proto::{FileKind, Mask, NodeId, Seq};
use ids::{fid, id, name};

/// The object of each event.
const OBJECT: u8 = 9;
/// Another object, which the guest knows.
const OTHER: u8 = 8;
/// A phantom of a plain file.
const PHANTOM: u64 = 0x7ffe_8000_0000_0001;

/// What happens on the host. `f` is the entry, or the old name; `t` the new one.
#[derive(Clone, Copy, Debug)]
enum Event {
    Entry(Mask, FileKind),
    Object(Mask),
    Rename(FileKind),
    MovedOut,
    MovedIn,
}

/// What the guest knows when the first request comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Guest {
    /// The root alone.
    Nothing,
    /// The object, under the name that it had before the event.
    Object,
    /// The object, under a name that the event is not about.
    Elsewhere,
    /// Another object under each of the names: it came to the old name before the event was sent, and
    /// held the new name all the time.
    Other,
}

/// What was asked for before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing.
    New,
    /// Every name.
    LookedUp,
    /// Everything, once.
    Done,
    /// Something of the next notification.
    Past,
}

fn host_entry(text: &str) -> HostEntry {
    HostEntry { dir: fid(1), name: name(text) }
}

/// A request in words that a line of the snapshot has.
#[derive(Clone, Debug)]
enum Asked {
    Lookup(&'static str),
    Create(&'static str, FileKind),
    Link(u64, &'static str),
    Remove(&'static str, bool),
    Rename(&'static str, &'static str),
    SetTimes(u64, Times),
    Open(u64, OpenMode),
    Read(u64),
}

/// Every request: lookups, then names, then content.
fn requests() -> Vec<Asked> {
    let mut all: Vec<_> = ["f", "t", "z", "limbo"].map(Asked::Lookup).to_vec();
    let kinds = [FileKind::Regular, FileKind::Fifo, FileKind::Symlink, FileKind::Directory];
    all.extend(kinds.map(|kind| Asked::Create("f", kind)));
    for other in ["t", "z", "limbo"] {
        all.push(Asked::Create(other, FileKind::Regular));
    }
    for entry in ["f", "t", "z"] {
        all.extend([OBJECT, OTHER].map(|node| Asked::Link(node.into(), entry)));
    }
    for entry in ["f", "t", "z"] {
        all.extend([false, true].map(|directory| Asked::Remove(entry, directory)));
    }
    for from in ["f", "t", "z", "limbo"] {
        all.extend(["f", "t", "z", "limbo"].map(|to| Asked::Rename(from, to)));
    }
    for node in [u64::from(OBJECT), OTHER.into(), PHANTOM, 1] {
        all.extend([Times::Mtime, Times::Both].map(|times| Asked::SetTimes(node, times)));
        let modes = [OpenMode::Read, OpenMode::Write, OpenMode::ReadWrite];
        all.extend(modes.map(|mode| Asked::Open(node, mode)));
        all.push(Asked::Read(node));
    }
    all
}

fn node_name(node: u64) -> &'static str {
    match node {
        1 => "root",
        PHANTOM => "phantom",
        node if node == u64::from(OBJECT) => "object",
        node if node == u64::from(OTHER) => "other",
        node => panic!("no request is about node {node}"),
    }
}

impl Asked {
    fn show(&self) -> String {
        match self {
            Self::Lookup(entry) => format!("lookup {entry}"),
            Self::Create(entry, kind) => {
                format!("create {entry} as {}", format!("{kind:?}").to_lowercase())
            }
            Self::Link(node, entry) => format!("link {} as {entry}", node_name(*node)),
            Self::Remove(entry, directory) => {
                format!("{} {entry}", if *directory { "rmdir" } else { "unlink" })
            }
            Self::Rename(from, to) => format!("rename {from} to {to}"),
            Self::SetTimes(node, Times::Mtime) => format!("set mtime of {}", node_name(*node)),
            Self::SetTimes(node, Times::Both) => format!("set times of {}", node_name(*node)),
            Self::Open(node, mode) => {
                let how = match mode {
                    OpenMode::Read => "to read",
                    OpenMode::Write => "to write",
                    OpenMode::ReadWrite => "for both",
                };
                format!("open {how}: {}", node_name(*node))
            }
            Self::Read(node) => format!("read: {}", node_name(*node)),
        }
    }

    /// Asks with number `seq`.
    fn ask(&self, engine: &mut Engine, seq: Seq) -> Answer {
        let place = |text: &str| match text {
            "limbo" => (NodeId::LIMBO, name("1")),
            entry => (NodeId::ROOT, name(entry)),
        };
        let mut answer = |request: MarkedRequest<'_>| engine.answer(Some(seq), request);
        match self {
            Self::Lookup(entry) => {
                let (dir, name) = place(entry);
                answer(MarkedRequest::Lookup(dir, &name))
            }
            Self::Create(entry, kind) => {
                let (dir, name) = place(entry);
                answer(MarkedRequest::Create(dir, &name, *kind))
            }
            Self::Link(node, entry) => {
                let (dir, name) = place(entry);
                answer(MarkedRequest::Link(id(*node), dir, &name))
            }
            Self::Remove(entry, directory) => {
                let (dir, name) = place(entry);
                answer(MarkedRequest::Remove(dir, &name, *directory))
            }
            Self::Rename(from, to) => {
                let ((dir, from), (to_dir, to)) = (place(from), place(to));
                answer(MarkedRequest::Rename(dir, &from, to_dir, &to))
            }
            Self::SetTimes(node, times) => answer(MarkedRequest::SetTimes(id(*node), *times)),
            Self::Open(node, mode) => answer(MarkedRequest::Open(id(*node), *mode)),
            Self::Read(node) => answer(MarkedRequest::Read(id(*node))),
        }
    }
}

fn show(answer: &Answer) -> String {
    let object = |object: &Object| match object {
        Object::Known { id, links, here } => {
            let node = if id.phantom_kind().is_some() { "phantom" } else { node_name(id.get()) };
            let links = if *links == 0 { String::new() } else { format!(" {links:+} links") };
            format!("{node}{links}{}", if *here { " here" } else { "" })
        }
        Object::Adopt(kind) => format!("adopt {kind:?}").to_lowercase(),
        Object::Phantom(kind) => format!("phantom {kind:?}").to_lowercase(),
        Object::Limbo => "limbo".to_owned(),
    };
    match answer {
        Answer::Refused(Refusal::NotAsked) => "EPERM".to_owned(),
        Answer::Refused(Refusal::NoEntry) => "ENOENT".to_owned(),
        Answer::Refused(Refusal::Stale) => "ESTALE".to_owned(),
        Answer::Entry(it) => format!("entry of {}", object(it)),
        Answer::Attr(it) => format!("attributes of {}", object(it)),
        Answer::Opened => "opened".to_owned(),
        Answer::Done => "done".to_owned(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
fn begin() -> Instant {
    Instant::now()
}

fn learn(engine: &mut Engine, entry: &str, number: u8, kind: FileKind) {
    let learned = Learned { id: id(number.into()), fid: Some(fid(number)), kind, ino: 0 };
    engine.learn(learned, NodeId::ROOT, &name(entry));
}

impl Event {
    fn kind(self) -> FileKind {
        match self {
            Self::Entry(_, kind) | Self::Rename(kind) => kind,
            Self::MovedOut | Self::MovedIn => FileKind::Regular,
            Self::Object(_) => FileKind::Directory,
        }
    }

    /// The old name, under which the guest knew the object before, if it had one.
    fn creates(self) -> bool {
        match self {
            Self::Entry(mask, _) => mask.contains(Mask::CREATE),
            Self::MovedIn => true,
            Self::Object(_) | Self::Rename(_) | Self::MovedOut => false,
        }
    }

    /// An engine that has handed the event out. Another event follows it.
    fn handed_out(self, guest: Guest) -> HandedOut {
        let mut engine = Engine::default();
        engine.reset(Some(fid(1)));
        engine.attach(42).expect("nobody is attached yet");
        engine.listen(SystemTime::UNIX_EPOCH);
        engine.want(Mask::DEFAULT | Mask::READS);
        let known = if self.kind() == FileKind::Unknown { FileKind::Regular } else { self.kind() };
        match guest {
            Guest::Object if !self.creates() => learn(&mut engine, "f", OBJECT, known),
            Guest::Elsewhere => learn(&mut engine, "x", OBJECT, known),
            Guest::Other => learn(&mut engine, "t", OTHER, known),
            Guest::Nothing | Guest::Object => {}
        }
        let later = host_entry("later");
        let later = HostChange::Entry { entry: later, mask: Mask::DELETE, object: None };
        let now = begin();
        engine.input(now, Input::Change(self.change()));
        engine.input(now, Input::Change(later));
        let (mut messages, mut seq) = (Vec::new(), Seq::FIRST);
        loop {
            while let output @ (Output::Look(_) | Output::Wake) = engine.poll_output(now) {
                if let Output::Look(look) = output {
                    engine.input(now, Input::Looked(look, self.kind()));
                }
            }
            let message = engine.send().expect("the event, and then the later one");
            if message.name == Some(name("later")) {
                break;
            }
            messages.push((seq, message.mask));
            seq = seq.next();
        }
        match guest {
            Guest::Object if self.creates() => learn(&mut engine, "f", OBJECT, known),
            Guest::Other => learn(&mut engine, "f", OTHER, known),
            Guest::Nothing | Guest::Object | Guest::Elsewhere => {}
        }
        HandedOut { engine, messages, later: seq }
    }

    fn change(self) -> HostChange {
        let object = Some(fid(OBJECT));
        let (from, to) = (Some(host_entry("f")), Some(host_entry("t")));
        match self {
            Self::Entry(mask, kind) => {
                let is_dir = kind == FileKind::Directory;
                let mask = if is_dir { mask | Mask::ISDIR } else { mask };
                HostChange::Entry { entry: host_entry("f"), mask, object }
            }
            Self::Object(mask) => HostChange::Object { object: fid(1), mask: mask | Mask::ISDIR },
            Self::Rename(kind) => {
                let directory = kind == FileKind::Directory;
                HostChange::Move { from, to, object, directory }
            }
            Self::MovedOut => HostChange::Move { from, to: None, object, directory: false },
            Self::MovedIn => HostChange::Move { from: None, to: from, object, directory: false },
        }
    }

    /// Whether the table of replays has this answer to this request, for one of the bits.
    fn table_has(self, request: &Asked, answer: &Answer) -> bool {
        let events = match self {
            Self::Entry(mask, _) | Self::Object(mask) => mask,
            Self::Rename(_) => Mask::MOVE,
            Self::MovedOut => Mask::MOVED_FROM,
            Self::MovedIn => Mask::MOVED_TO,
        };
        // What was made is there.
        let made = events.contains(Mask::CREATE) && matches!(answer, Answer::Entry(_));
        let is_it = |kind: RequestKind| match (request, kind) {
            (Asked::Lookup(_), RequestKind::Lookup(_)) => true,
            (Asked::Create(_, kind), it) => RequestKind::create(*kind) == it,
            (Asked::Link(..), RequestKind::Link) => true,
            (Asked::Remove(_, directory), it) => RequestKind::remove(*directory) == it,
            (Asked::Rename(from, to), it) => {
                let place = |text| if text == "limbo" { NodeId::LIMBO } else { NodeId::ROOT };
                RequestKind::rename(place(*from), place(*to)) == Some(it)
            }
            (Asked::SetTimes(_, times), it) => it == RequestKind::SetTimes(*times),
            (Asked::Open(_, mode), it) => it == RequestKind::Open(*mode),
            (Asked::Read(_), it) => it == RequestKind::Read,
            (Asked::Lookup(_) | Asked::Link(..), _) => false,
        };
        let fits = |may: AnswerKind| match answer {
            Answer::Refused(Refusal::NotAsked) => false,
            Answer::Refused(Refusal::NoEntry) => {
                matches!(may, AnswerKind::NoEntry | AnswerKind::Replaced)
            }
            Answer::Refused(Refusal::Stale) => !matches!(request, Asked::Lookup(_)),
            Answer::Entry(_) => made || matches!(may, AnswerKind::Entry | AnswerKind::Replaced),
            Answer::Attr(_) => may == AnswerKind::Attributes,
            Answer::Opened => may == AnswerKind::Done,
            Answer::Done => matches!(may, AnswerKind::Done | AnswerKind::Nothing),
        };
        let rows = TABLE.iter().filter(|row| events.contains(row.event));
        let mut all = rows.flat_map(|row| row.requests);
        all.any(|(kind, may)| is_it(*kind) && fits(*may))
    }

    fn show(self) -> String {
        match self {
            Self::Entry(mask, kind) => {
                format!("{} of {}", bits(mask), format!("{kind:?}").to_lowercase())
            }
            Self::Object(mask) => format!("{} without a name", bits(mask)),
            Self::Rename(kind) => format!("rename of {}", format!("{kind:?}").to_lowercase()),
            Self::MovedOut => "MOVED_FROM alone".to_owned(),
            Self::MovedIn => "MOVED_TO alone".to_owned(),
        }
    }
}

fn bits(mask: Mask) -> String {
    mask.iter_names().map(|(bit, _)| bit).collect::<Vec<_>>().join(" ")
}

fn events() -> Vec<Event> {
    let kinds = (0..16).filter_map(FileKind::from_dt);
    let mut all: Vec<_> = kinds.map(|kind| Event::Entry(Mask::CREATE, kind)).collect();
    for kind in [FileKind::Regular, FileKind::Directory] {
        for bit in Mask::ORDER {
            if bit != Mask::CREATE && !(bit == Mask::CLOSE_WRITE && kind == FileKind::Directory) {
                all.push(Event::Entry(bit, kind));
            }
        }
    }
    let whole = Mask::CREATE | Mask::CONTENT | Mask::READS | Mask::DELETE;
    all.push(Event::Entry(whole, FileKind::Regular));
    all.push(Event::Entry(whole - Mask::CLOSE_WRITE, FileKind::Directory));
    all.extend([Mask::MODIFY, Mask::ATTRIB, Mask::READS].map(Event::Object));
    all.extend([FileKind::Regular, FileKind::Directory].map(Event::Rename));
    all.extend([Event::MovedOut, Event::MovedIn]);
    all
}

struct HandedOut {
    engine: Engine,
    /// The messages of the event.
    messages: Vec<(Seq, Mask)>,
    /// The number of the message that follows them.
    later: Seq,
}

impl HandedOut {
    fn bring_to(&mut self, state: State, seq: Seq) {
        let before = match state {
            State::New => Vec::new(),
            State::LookedUp => ["f", "t", "limbo"].map(Asked::Lookup).to_vec(),
            State::Done => requests(),
            State::Past => {
                let (later, name) = (Some(self.later), name("later"));
                let answer = self.engine.answer(later, MarkedRequest::Lookup(NodeId::ROOT, &name));
                assert_ne!(show(&answer), "EPERM", "the message that follows is answered");
                Vec::new()
            }
        };
        for request in before {
            request.ask(&mut self.engine, seq);
        }
    }
}

/// What one message grants in a state: each request with the answer, and the answer to the same again.
fn granted(event: Event, guest: Guest, state: State, seq: Seq) -> String {
    let mut granted = Vec::new();
    for request in requests() {
        let mut out = event.handed_out(guest);
        out.bring_to(state, seq);
        let answers = [(); 2].map(|()| request.ask(&mut out.engine, seq));
        let refused = Answer::Refused(Refusal::NotAsked);
        for answer in answers.iter().filter(|answer| **answer != refused) {
            let in_table = event.table_has(&request, answer);
            assert!(in_table, "{event:?}, {guest:?}, {state:?}: {request:?} gets {answer:?}");
        }
        let [first, second] = answers.each_ref().map(show);
        if first == second && first != "EPERM" {
            granted.push(format!("{}: {first}", request.show()));
        } else if first != second {
            granted.push(format!("{}: {first}, {second}", request.show()));
        }
    }
    if granted.is_empty() { "EPERM".to_owned() } else { granted.join("; ") }
}

#[test]
fn every_request_is_answered_for_every_event_and_state_as_the_snapshot_says() {
    let mut table = "event\n  message, what the guest knows, what was asked for before: \
         request: answer, answer to the same again if it is another\n"
        .to_owned();
    for event in events() {
        writeln!(table, "\n{}", event.show()).expect("memory");
        for guest in [Guest::Nothing, Guest::Object, Guest::Elsewhere, Guest::Other] {
            for (seq, mask) in event.handed_out(guest).messages {
                for state in [State::New, State::LookedUp, State::Done, State::Past] {
                    let granted = granted(event, guest, state, seq);
                    writeln!(table, "  {}, {guest:?}, {state:?}: {granted}", bits(mask))
                        .expect("memory");
                }
            }
        }
    }
    insta::assert_snapshot!("every_event_state_and_request", table);
}
