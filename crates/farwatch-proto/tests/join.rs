// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The join from outside: the cases in `tests/join` (its README tells how to write one), a table of
//! every state and input, and the property that it undoes the split.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, iter};

use farwatch_proto::guest::join::{Join, Joined};
use farwatch_proto::host::split::split;
use farwatch_proto::wire::Notification;
use farwatch_proto::{
    Cookie, Entry, FileKind, Generation, GuestEvent, Mask, Name, Node, NodeId, Seq,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn every_case_file_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/join");
    let mut cases: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{} has no case", folder.display());
    for path in cases {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# S"), "{}: which requirement does it show?", path.display());
        println!("{}", path.display());
        Bench::new().run(&text);
    }
}

#[test]
fn every_state_and_input_matches_the_table() {
    let full = "at 0ms moved_from c2..c64 paired dir=2 name=x\n";
    let fuller = "at 0ms moved_from c2..c65 paired dir=2 name=x\n";
    let from = "at 0ms moved_from c1 paired dir=1 name=a\n";
    let to = "at 0ms moved_to c1 paired dir=1 name=b\n";
    let states = [
        ("nothing", String::new()),
        ("from waits", from.to_owned()),
        ("to waits", to.to_owned()),
        ("full", fuller.to_owned()),
        ("full, from waits", [from, full].concat()),
        ("full, to waits", [to, full].concat()),
        ("from gone", [from, "tick 500ms"].concat()),
        ("to gone", [to, "tick 500ms"].concat()),
    ];
    let inputs = [
        ("from", "at 100ms moved_from c1 paired dir=3 name=f"),
        ("to", "at 100ms moved_to c1 paired dir=3 name=t"),
        ("plain from", "at 100ms moved_from c1 dir=3 name=f"),
        ("plain to", "at 100ms moved_to c1 dir=3 name=t"),
        ("other", "at 100ms modify dir=3 name=m"),
        ("overflow", "at 100ms q_overflow"),
        ("too early", "tick 499ms"),
        ("timeout", "tick 500ms"),
    ];
    let mut table =
        "state, input: what comes out; how many halves still wait, the oldest\n".to_owned();
    for (state, steps) in &states {
        for (input, step) in &inputs {
            let mut bench = Bench::new();
            for line in steps.lines() {
                assert_eq!(bench.input(line).is_empty(), line.starts_with("at "), "{line}");
            }
            let out = bench.input(step);
            let shown = match &out[..] {
                [] => "-".to_owned(),
                [one] => one.clone(),
                [first, rest @ ..] => format!("{first}, {} more", rest.len()),
            };
            let left = bench.input("tick 9999ms");
            let oldest = left.first().map_or("", |first| &first[..]);
            let row = format!("{state:16} | {input:10} | {shown:40} | {:2} {oldest}", left.len());
            writeln!(table, "{}", row.trim_end()).unwrap();
        }
    }
    insta::assert_snapshot!("every_state_and_input", table);
}

/// A join, and what the cases say to it.
struct Bench {
    start: Instant,
    join: Join,
    next: Seq,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn new() -> Self {
        Self { start: Instant::now(), join: Join::new(), next: Seq::FIRST }
    }

    fn run(&mut self, case: &str) {
        let mut lines = case.lines().filter(|line| !line.starts_with('#')).peekable();
        while let Some(line) = lines.next() {
            if let Some(when) = line.strip_prefix("timer ") {
                let expected = (when != "none").then(|| self.start + millis(when));
                assert_eq!(self.join.poll_timeout(), expected, "{line}");
                continue;
            }
            let out = self.input(line);
            let expected: Vec<_> =
                iter::from_fn(|| lines.next_if(|line| line.starts_with("=> "))).collect();
            let out: Vec<_> = out.iter().map(|event| format!("=> {event}")).collect();
            assert_eq!(out, expected, "after: {line}");
        }
    }

    /// Does what an `at` or a `tick` says and returns what comes out.
    fn input(&mut self, line: &str) -> Vec<String> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["tick", when] => self.join.handle_timeout(self.start + millis(when)),
            ["at", when, what, ref words @ ..] => {
                for notification in messages(what, words) {
                    let now = self.start + millis(when);
                    self.join.handle(now, self.next, notification);
                    self.next = self.next.next();
                }
            }
            _ => panic!("neither at, tick, timer nor =>: {line}"),
        }
        iter::from_fn(|| self.join.poll_output()).map(|joined| show(&joined)).collect()
    }
}

fn millis(when: &str) -> Duration {
    let number = when.strip_suffix("ms").and_then(|number| number.parse().ok());
    Duration::from_millis(number.unwrap_or_else(|| panic!("not a time in ms: {when}")))
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().unwrap_or_else(|| panic!("not a number: {text}"))
}

fn node(id: u64) -> Node {
    Node { id: NodeId::new(id).expect("a nodeid is not 0"), generation: Generation(0) }
}

fn messages(what: &str, words: &[&str]) -> Vec<Notification> {
    let bit = |name: &str| Mask::from_name(&name.to_uppercase());
    let mask = what.split(',').map(|name| bit(name).unwrap_or_else(|| panic!("no event: {name}")));
    let mut message = Notification { mask: mask.collect(), ..Notification::OVERFLOW };
    let mut cookies = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some(("dir" | "object", id)) => message.node = Some(node(number(id))),
            Some(("child", id)) => message.child = Some(node(number(id))),
            Some(("name", name)) => message.name = Name::parse(name.as_bytes()).ok(),
            Some(("kind", kind)) => message.kind = parse_kind(kind),
            None if *word == "paired" => message.paired = true,
            None if *word == "link" => message.link = true,
            Some(_) | None => {
                let (first, last) = word.split_once("..").unwrap_or((word, word));
                let [first, last] = [first, last].map(|cookie| cookie.strip_prefix('c'));
                let (Some(first), Some(last)) = (first, last) else {
                    panic!("unknown word: {word}")
                };
                cookies = (number(first)..=number(last)).collect();
            }
        }
    }
    // A case that no server could send would show nothing.
    let sent = |message: Notification| {
        let mut buffer = [0; Notification::LEN_MAX];
        Notification::decode(message.encode(&mut buffer)).expect("the case follows the protocol")
    };
    if cookies.is_empty() {
        return vec![sent(message)];
    }
    let with =
        |cookie| Notification { cookie: NonZeroU32::new(cookie).map(Cookie), ..message.clone() };
    cookies.into_iter().map(with).map(sent).collect()
}

fn kind_name(kind: FileKind) -> String {
    format!("{kind:?}").to_lowercase()
}

fn parse_kind(name: &str) -> FileKind {
    let mut kinds = (0..16).filter_map(FileKind::from_dt);
    kinds.find(|kind| kind_name(*kind) == name).unwrap_or_else(|| panic!("no file type: {name}"))
}

fn show(Joined { seq, event, .. }: &Joined) -> String {
    let entry = |entry: &Entry| {
        format!("dir={} name={}", entry.dir.id.get(), entry.name.as_bytes().escape_ascii())
    };
    let names = |mask: &Mask| {
        mask.iter_names().map(|(name, _)| name.to_lowercase()).collect::<Vec<_>>().join(",")
    };
    let object = |child: &Option<Node>, kind: FileKind| {
        let child = child.map_or(String::new(), |child| format!(" child={}", child.id.get()));
        let kind = Some(kind).filter(|kind| *kind != FileKind::Unknown);
        child + &kind.map_or(String::new(), |kind| format!(" kind={}", kind_name(kind)))
    };
    let event = match event {
        GuestEvent::Entry { entry: at, mask, child, kind, link } => {
            let link = if *link { " link" } else { "" };
            format!("{} {}{}{link}", names(mask), entry(at), object(child, *kind))
        }
        GuestEvent::Object { node, mask } => format!("{} object={}", names(mask), node.id.get()),
        GuestEvent::Rename { from, to, child, kind } => {
            format!("rename {} to {}{}", entry(from), entry(to), object(child, *kind))
        }
        GuestEvent::Overflow => "overflow".to_owned(),
    };
    format!("#{} {event}", seq.get())
}

fn entries() -> impl Strategy<Value = Entry> {
    (1..5u64, "[a-e]").prop_map(|(dir, name)| Entry {
        dir: node(dir),
        name: Name::parse(name.as_bytes()).expect("a letter is a name"),
    })
}

fn events() -> impl Strategy<Value = GuestEvent> {
    let children = proptest::option::of((5..9u64).prop_map(node));
    let kinds = (0..16u32).prop_filter_map("types that Linux has", FileKind::from_dt);
    prop_oneof![
        2 => (entries(), entries(), children.clone(), kinds).prop_map(|(from, to, child, kind)| {
            GuestEvent::Rename { from, to, child, kind }
        }),
        2 => (entries(), children, any::<prop::sample::Index>()).prop_map(|(entry, child, mask)| {
            let masks = [Mask::CREATE, Mask::DELETE, Mask::CONTENT, Mask::MOVED_FROM, Mask::MOVED_TO];
            let mask = masks[mask.index(masks.len())];
            GuestEvent::Entry { entry, mask, child, kind: FileKind::Regular, link: false }
        }),
        1 => (5..9u64).prop_map(|id| GuestEvent::Object { node: node(id), mask: Mask::ATTRIB }),
        1 => Just(GuestEvent::Overflow),
    ]
}

/// Events, and the messages that they become in any order, each with the index of its event.
fn shuffled() -> impl Strategy<Value = (Vec<GuestEvent>, Vec<(usize, Notification)>)> {
    vec(events(), 0..Join::WAITING_MAX).prop_flat_map(|events| {
        let cookies = iter::successors(Some(Cookie::FIRST), |cookie| Some(cookie.next()));
        let messages: Vec<_> = iter::zip(&events, cookies)
            .enumerate()
            .flat_map(|(at, (event, cookie))| {
                split(event, cookie).into_iter().map(move |n| (at, n))
            })
            .collect();
        (Just(events), Just(messages).prop_shuffle())
    })
}

proptest! {
    #[test]
    fn in_whatever_order_the_halves_come_the_join_undoes_the_split(
        (events, messages) in shuffled(),
    ) {
        let Bench { start, mut join, mut next } = Bench::new();
        let mut expected = vec![(Seq::FIRST, None); events.len()];
        let mut out = Vec::new();
        for (at, notification) in messages {
            if notification.paired && notification.mask.contains(Mask::MOVED_TO) {
                expected[at].1 = Some(next);
            } else {
                expected[at].0 = next;
            }
            join.handle(start, next, notification);
            next = next.next();
            out.extend(iter::from_fn(|| join.poll_output()));
        }
        prop_assert_eq!(join.poll_timeout(), None);

        let unpaired = |joined: &&Joined| !matches!(joined.event, GuestEvent::Rename { .. });
        let order: Vec<_> = out.iter().filter(unpaired).map(|joined| joined.seq.get()).collect();
        prop_assert!(order.is_sorted(), "{order:?}");

        let mut expected: Vec<_> = iter::zip(expected, events)
            .map(|((seq, mate), event)| Joined { seq, mate, submount: None, event })
            .collect();
        expected.sort_by_key(|joined| joined.seq.get());
        out.sort_by_key(|joined| joined.seq.get());
        prop_assert_eq!(out, expected);
    }
}
