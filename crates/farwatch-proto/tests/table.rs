// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of replays: `docs/PROTOCOL.md` has it as it is, and an agent keeps to it.

use std::path::Path;

use farwatch_proto::guest::opens::{Opens, Step};
use farwatch_proto::guest::plan::{Call, Place, Target, plan};
use farwatch_proto::replay::{
    AnswerKind, CallKind, Objects, OpenMode, Part, RequestKind, Row, TABLE, Times, asking,
};
use farwatch_proto::{Entry, FileKind, Generation, GuestEvent, Mask, Name, Node, NodeId};

#[test]
fn table_of_the_protocol_document_is_the_table_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/PROTOCOL.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.lines().skip_while(|line| !line.starts_with("### 6.3 ")).skip(1);
    let lines = section.take_while(|line| !line.starts_with("### "));
    let documented: Vec<_> = lines.filter(|line| line.starts_with('|')).skip(2).collect();
    let coded: Vec<_> = TABLE.iter().map(show).collect();
    let coded: Vec<_> = coded.iter().map(String::as_str).collect();
    let lost = |all: &[&str], of: &[&str]| {
        let lost = all.iter().filter(|row| !of.contains(row)).copied();
        lost.collect::<Vec<_>>().join("\n")
    };
    let undocumented = lost(&coded, &documented);
    assert_eq!(undocumented, "", "rows that docs/PROTOCOL.md 6.3 does not have");
    assert_eq!(lost(&documented, &coded), "", "rows that replay::TABLE does not have");
    assert_eq!(documented, coded, "the order of the rows");
}

/// A row as the document has it.
fn show(row: &Row) -> String {
    format!("| {} | {} | {} |", show_event(row), show_call(row), show_requests(row))
}

fn show_event(row: &Row) -> String {
    let event = match row.event {
        Mask::MOVE => "a rename".to_owned(),
        Mask::MOVED_FROM | Mask::MOVED_TO => format!("{} alone", bits(row.event)),
        event => bits(event),
    };
    let objects = match row.objects {
        Objects::Any => "",
        Objects::Directories => " of DIR",
        Objects::NoDirectories => " of anything but DIR",
        Objects::Files => " of REG or unknown",
        Objects::Symlinks => " of LNK",
        Objects::Nodes => " of REG, FIFO, SOCK, CHR, BLK or unknown",
        Objects::Linked => " with LINK",
    };
    event + objects
}

fn bits(mask: Mask) -> String {
    mask.iter_names().map(|(bit, _)| bit).collect::<Vec<_>>().join(" ")
}

fn show_mode(mode: OpenMode) -> &'static str {
    match mode {
        OpenMode::Read => "O_RDONLY",
        OpenMode::Write => "O_WRONLY",
        OpenMode::ReadWrite => "O_RDWR",
    }
}

fn show_call(row: &Row) -> String {
    let kept = |call: &str, mode| {
        format!("{call} what is kept; if nothing is, after an `openat` {}", show_mode(mode))
    };
    match row.call {
        CallKind::Mknod => "`mknodat`".to_owned(),
        CallKind::Mkdir => "`mkdirat`".to_owned(),
        CallKind::Symlink => "`symlinkat`".to_owned(),
        CallKind::Link => "`linkat` of the child".to_owned(),
        CallKind::SetTimes(Times::Mtime) => {
            "`utimensat`, atime UTIME_OMIT, mtime UTIME_NOW".to_owned()
        }
        CallKind::SetTimes(Times::Both) => "`utimensat`, both UTIME_NOW".to_owned(),
        CallKind::Open => "`openat`; what is opened is kept (6.4)".to_owned(),
        CallKind::Read(mode) if is_dir(row) => kept("`getdents64` on", mode),
        CallKind::Read(mode) => kept("`pread` of one byte on", mode),
        CallKind::Close(mode) => kept("`close` of", mode),
        CallKind::Unlink => "`unlinkat`".to_owned(),
        CallKind::Rmdir => "`unlinkat` with AT_REMOVEDIR".to_owned(),
        CallKind::Rename => "one `renameat2`, no flags".to_owned(),
        CallKind::RenameOut => "`renameat2` into the limbo directory".to_owned(),
        CallKind::RenameIn => "`renameat2` out of the limbo directory".to_owned(),
    }
}

/// Requests with the same answer have it once.
fn show_requests(row: &Row) -> String {
    let answers = row.requests.chunk_by(|(_, one), (_, next)| one == next).map(|same| {
        let requests: Vec<_> =
            same.iter().map(|(request, _)| show_request(*request, row)).collect();
        format!("{}: {}", requests.join(", "), show_answer(same[0].1, row))
    });
    answers.collect::<Vec<_>>().join(". ")
}

fn is_dir(row: &Row) -> bool {
    row.objects == Objects::Directories
}

fn show_request(request: RequestKind, row: &Row) -> String {
    let text = match request {
        RequestKind::Lookup(Part::Made | Part::Entry) => "LOOKUP",
        RequestKind::Lookup(Part::Old) if row.call == CallKind::RenameIn => "LOOKUP in limbo",
        RequestKind::Lookup(Part::New) if row.call == CallKind::RenameOut => "LOOKUP in limbo",
        RequestKind::Lookup(Part::Old) => "LOOKUP of the old name",
        RequestKind::Lookup(Part::New) => "LOOKUP of the new name",
        RequestKind::Mknod => "MKNOD",
        RequestKind::Mkdir => "MKDIR",
        RequestKind::Symlink => "SYMLINK",
        RequestKind::Link => "LINK",
        RequestKind::SetTimes(Times::Mtime) => "SETATTR of the mtime alone",
        RequestKind::SetTimes(Times::Both) => "SETATTR of both times",
        RequestKind::Open(_) if is_dir(row) => "OPENDIR",
        RequestKind::Open(mode) => return format!("OPEN {}", show_mode(mode)),
        RequestKind::Read if is_dir(row) => "READDIR, READDIRPLUS",
        RequestKind::Read => "READ",
        RequestKind::Close if is_dir(row) => "RELEASEDIR",
        RequestKind::Close => "FLUSH, RELEASE",
        RequestKind::Unlink => "UNLINK",
        RequestKind::Rmdir => "RMDIR",
        RequestKind::Rename | RequestKind::RenameOut | RequestKind::RenameIn => "RENAME, RENAME2",
    };
    text.to_owned()
}

fn show_answer(answer: AnswerKind, row: &Row) -> &'static str {
    match answer {
        AnswerKind::NoEntry => "ENOENT",
        AnswerKind::Entry => "the entry",
        AnswerKind::Replaced => "ENOENT, or the entry that is replaced",
        AnswerKind::Attributes => "the attributes",
        AnswerKind::Done => "done",
        AnswerKind::Nothing if is_dir(row) => "no entry",
        AnswerKind::Nothing => "one byte, which says nothing",
    }
}

fn kinds() -> impl Iterator<Item = FileKind> {
    (0..16).filter_map(FileKind::from_dt)
}

fn entry() -> Entry {
    Entry { dir: Node::ROOT, name: Name::parse(b"f").expect("a letter is a name") }
}

fn event(mask: Mask, kind: FileKind, link: bool) -> GuestEvent {
    let isdir = if kind == FileKind::Directory { Mask::ISDIR } else { Mask::empty() };
    let child =
        link.then(|| Node { id: NodeId::new(7).expect("not 0"), generation: Generation(0) });
    GuestEvent::Entry { entry: entry(), mask: mask | isdir, child, kind, link }
}

#[test]
fn plan_of_each_event_is_the_call_of_its_row() {
    for row in TABLE.iter().filter(|row| row.event != Mask::MOVE) {
        let link = row.objects == Objects::Linked;
        for kind in kinds().filter(|kind| row.objects.contain(*kind, link)) {
            if link && kind == FileKind::Directory {
                continue;
            }
            let calls = plan(event(row.event, kind, link));
            let [call] = &calls[..] else { panic!("{row:?}, {kind:?}: {calls:?}") };
            let limbo = |place: &Place| matches!(place, Place::Limbo(_));
            let fits = match (row.call, call) {
                (CallKind::Mknod | CallKind::Mkdir | CallKind::Symlink, Call::Create(_, made)) => {
                    row.has(RequestKind::create(*made))
                }
                (CallKind::Link, Call::Link(..)) => true,
                (CallKind::Unlink, Call::Remove(_, is_dir)) => !is_dir,
                (CallKind::Rmdir, Call::Remove(_, is_dir)) => *is_dir,
                (CallKind::RenameOut, Call::Rename(from, to)) => !limbo(from) && limbo(to),
                (CallKind::RenameIn, Call::Rename(from, to)) => limbo(from) && !limbo(to),
                (
                    CallKind::SetTimes(_) | CallKind::Open | CallKind::Read(_) | CallKind::Close(_),
                    Call::Content(_, events),
                ) => events.difference(Mask::ISDIR) == row.event,
                _ => false,
            };
            assert!(fits, "{row:?}, {kind:?}: {call:?}");
        }
    }
}

/// All sets of events that change no name.
fn contents() -> impl Iterator<Item = Mask> {
    let bits = Mask::CONTENT | Mask::READS;
    (0..=bits.bits()).map(Mask::from_bits_retain).filter(move |mask| bits.contains(*mask))
}

/// The requests of the steps for a message, of which the agent keeps what it opens.
fn requests(opens: &mut Opens<OpenMode>, target: &Target, events: Mask) -> Vec<RequestKind> {
    let mut requests = Vec::new();
    for step in opens.steps(target, events) {
        match step {
            Step::Open(mode) => {
                assert_eq!(opens.keep(target.clone(), mode, mode), None);
                requests.push(RequestKind::Open(mode));
            }
            Step::Access => requests.push(RequestKind::Read),
            Step::SetTimes(times) => requests.push(RequestKind::SetTimes(times)),
            Step::Refresh => {}
            Step::Close(writes) => {
                let closed = opens.take(target, writes);
                assert_eq!(closed.map(OpenMode::writes), Some(writes), "{events:?}");
            }
        }
    }
    requests
}

#[test]
fn agent_asks_for_nothing_that_the_events_of_the_message_do_not_ask_for() {
    let target = Target::Entry(entry());
    for isdir in [Mask::empty(), Mask::ISDIR] {
        let possible = |mask: &Mask| isdir.is_empty() || !mask.contains(Mask::CLOSE_WRITE);
        for (first, second) in contents()
            .filter(possible)
            .flat_map(|first| contents().filter(possible).map(move |second| (first, second)))
        {
            let mut opens = Opens::default();
            for events in [first, second] {
                for request in requests(&mut opens, &target, events | isdir) {
                    let asked = !asking(events, request).is_empty();
                    assert!(asked, "{first:?}, {second:?}: {request:?} for {events:?}");
                }
            }
        }
    }
}
