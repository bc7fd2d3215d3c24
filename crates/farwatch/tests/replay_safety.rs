// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replay is safe: no request with a mark of an agent's ever changes anything on the host, whatever
//! it asks for, whatever waits to be replayed, and whatever ended, restarted or got out of step.
//!
//! "Nothing changes" is meant to the nanosecond: after each request the shared directory and its
//! surroundings are compared with what they were (`snapshot`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/about.rs"]
mod about;
#[path = "common/bench.rs"]
mod bench;
#[path = "replay_safety/create.rs"]
mod create;
#[path = "common/fake_driver.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod fake_driver;
#[path = "common/guest.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod guest;
#[path = "replay_safety/histories.rs"]
mod histories;
#[path = "common/mutations.rs"]
mod mutations;
#[path = "common/replay.rs"]
mod replay;
#[path = "common/requests.rs"]
mod requests;
#[path = "common/served.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod served;
#[path = "common/snapshot.rs"]
mod snapshot;

use about::{about_entry, about_object};
use bench::{Bench, EPERM, pid_alone, uid_alone};
use farwatch_proto::wire::abi::MARKER_UID;
use farwatch_proto::wire::control::Hello;
use farwatch_proto::{NodeId, Seq};
use guest::{AGENT_TID, Caller, Guest, INIT_EXT, ROOT, Reply, fh, hello, le32};
use mutations::{Mutation, mutations, populate};
use proptest::collection::vec;
use proptest::prelude::*;
use replay::{ATTRIB, MODIFY, joined, replay};
use requests::{Request, open_flags};
use rustix::io::Errno;
use served::{Host, skip_without_root};
use virtiofsd::fuse::Opcode;

#[test]
fn without_a_mark_each_of_these_requests_succeeds_and_changes_the_host() {
    if skip_without_root() {
        return;
    }
    let count = mutations(&mut Bench::attached().guest).len();
    for n in 0..count {
        let mut bench = Bench::attached();
        let Mutation { name, request, changes } = mutations(&mut bench.guest).swap_remove(n);
        let reply = bench.guest.send(Caller::PROGRAM, &request);
        assert!(reply.is_ok(), "{name}: {reply:?}");
        assert_eq!(bench.has_changed(), changes, "{name}");
    }
}

#[test]
fn with_a_mark_alone_or_both_and_nothing_to_replay_every_change_gets_eperm() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::attached();
    for gid in [0, 1, 2, Seq::MAX.get(), 0x7fff_ffff, u32::MAX] {
        bench.assert_all_refused(&[uid_alone(gid), pid_alone(gid), Caller::agent(gid)]);
    }
    bench.assert_goes_on();
}

#[test]
fn before_an_agent_has_come_its_uid_is_refused() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::new();
    bench.assert_all_refused(&[Caller::agent(0), Caller::agent(1)]);
    bench.assert_goes_on();
}

#[test]
fn with_a_mark_alone_or_both_and_other_things_to_replay_every_change_gets_eperm() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::attached();
    let dir = bench.guest.lookup(ROOT, "dir");
    bench.guest.lookup(ROOT, "other");
    bench.guest.lookup(ROOT, "empty");
    let told = bench.change(
        "echo more > fresh; mkdir fresh-dir; ln -s x fresh-link; mkfifo fresh-pipe; mkdir dir/d
         chmod 600 dir/inner; rmdir dir/d; touch gone; rm gone; mv fresh fresher; mv fresher dir
         mv fresh-link ../outside; mv ../outside/stranger .",
    );
    let last = told.last().unwrap().0.get();
    assert!(last > 10, "{told:?}");
    // Beyond the last one is the barrier's, and then none.
    for seq in 1..=last + 3 {
        bench.assert_all_refused(&[uid_alone(seq), pid_alone(seq)]);
        let mutations = mutations(&mut bench.guest);
        for Mutation { name, request, .. } in &mutations {
            bench.assert_refused(Caller::agent(seq), name, request);
        }
    }
    assert_eq!(bench.send(Caller::agent(last + 3), &requests::unlink(dir, "inner")), EPERM);
    bench.assert_goes_on();
}

#[test]
fn only_requests_that_the_notification_can_cause_are_granted_and_each_only_once() {
    if skip_without_root() {
        return;
    }
    // What happens to which name in the root, and what is granted then. The type of an object that the
    // guest has not seen is not known: it may make anything but a directory, and SYMLINK comes first.
    let cases: [(&str, &str, &[&str]); 10] = [
        ("touch -d 2001-02-03 twin", "twin", &["times now", "open"]),
        ("echo more >> twin", "twin", &["mtime now", "open"]),
        ("chmod 611 twin", "twin", &["times now"]),
        ("mkdir thing", "thing", &["mkdir"]),
        ("rmdir thing", "thing", &["rmdir"]),
        ("mkfifo thing", "thing", &["symlink"]),
        ("rm thing", "thing", &["unlink"]),
        ("ln -s target thing", "thing", &["symlink"]),
        ("mv thing ../outside", "thing", &["rename out"]),
        ("mv ../outside/thing .", "thing", &["rename in"]),
    ];
    let mut bench = Bench::attached();
    let (empty, twin) = (bench.guest.lookup(ROOT, "empty"), bench.guest.lookup(ROOT, "twin"));
    for (script, name, right) in cases {
        let mut granted = Vec::new();
        for (seq, _) in bench.change(script) {
            let agent = Caller::agent(seq.get());
            for (dir, name) in [(empty, name), (ROOT, "bystander")] {
                for (what, request) in about_entry(twin, dir, name) {
                    bench.assert_refused(agent, what, &request);
                }
            }
            let requests = [about_entry(twin, ROOT, name), about_object(twin)].concat();
            for (what, request) in requests {
                if bench.send(agent, &request) != EPERM {
                    granted.push(what);
                    bench.assert_refused(agent, what, &request);
                }
            }
        }
        granted.sort_by_key(|what| right.iter().position(|right| right == what));
        assert_eq!(granted, right, "{script}");
    }
    bench.assert_goes_on();
}

#[test]
fn an_open_and_a_read_are_granted_once_for_what_was_read_and_the_host_is_not_looked_at() {
    if skip_without_root() {
        return;
    }
    let cases: [(&str, &[&str]); 3] = [
        ("cat twin", &["open for both", "open to read", "read"]),
        ("echo more >> twin", &["mtime now", "open for both", "open to read"]),
        ("cat dir/inner; ls dir", &[]),
    ];
    let mut bench = Bench::attached_to_reads();
    let twin = bench.guest.lookup(ROOT, "twin");
    for (script, right) in cases {
        let mut granted = std::collections::BTreeSet::new();
        for (seq, _) in bench.change(script) {
            let agent = Caller::agent(seq.get());
            for (what, request) in about_object(twin) {
                if bench.send(agent, &request) != EPERM {
                    granted.insert(what);
                    bench.assert_refused(agent, what, &request);
                    bench.assert_refused(uid_alone(seq.get()), what, &request);
                    bench.assert_refused(pid_alone(seq.get()), what, &request);
                }
            }
        }
        assert_eq!(granted.into_iter().collect::<Vec<_>>(), right, "{script}");
    }
    bench.assert_goes_on();
}

#[test]
fn read_on_the_host_is_replayed_without_a_lookup() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::attached_to_reads();
    let dir = bench.guest.lookup(ROOT, "dir");
    for (parent, known) in [(ROOT, "file"), (dir, "inner")] {
        bench.guest.lookup(parent, known);
    }
    for script in ["cat file", "ls dir", "exec 3<dir/inner; cat <&3", "ls .", "echo more >> file"] {
        let events = joined(bench.change(script));
        assert!(!events.is_empty(), "{script}: {events:?}");
        for event in events {
            for (request, reply) in replay(&mut bench.guest, &event) {
                assert!(reply.is_ok(), "{request:?}: {reply:?} for {event:?}");
                let agent = Caller::agent(event.seq.get());
                bench.assert_refused(agent, "the same again", &request);
            }
            bench.assert_still(&format!("the replay of {event:?}"));
        }
    }
    bench.assert_goes_on();
}

#[test]
fn a_replay_succeeds_once_and_the_host_stays_as_the_change_has_left_it() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::attached();
    let dir = bench.guest.lookup(ROOT, "dir");
    bench.guest.lookup(dir, "inner");
    for known in ["file", "other", "link", "pipe", "empty"] {
        bench.guest.lookup(ROOT, known);
    }
    for script in [
        "touch new; echo more >> new",
        "mkdir new-dir; mkfifo new-pipe; ln -s target new-link",
        "ln file new-twin",
        "echo more >> file",
        "chmod 600 other; chmod 700 dir; chmod 755 .",
        "touch -h link; touch -d 2001-02-03 pipe",
        "mv new newer",
        "mv dir/inner .; mv inner dir/innermost",
        "mv newer other",
        "mv new-dir dir",
        "mv file ../outside; mv ../outside/stranger .",
        "mv ../outside/file other",
        "rm link pipe; rmdir empty; rm -r dir",
        "echo 1 > brief; rm brief; mkdir brief; rmdir brief",
        "echo 1 > again; rm again; echo 2 > again; mv again once-more",
    ] {
        let told = bench.change(script);
        let events = joined(told);
        assert!(!events.is_empty(), "{script}");
        for event in events {
            let answered = replay(&mut bench.guest, &event);
            bench.assert_still(&format!("the replay of {event:?}"));
            assert!(!answered.is_empty(), "{event:?}");
            for (request, reply) in answered {
                assert!(reply.is_ok(), "{request:?}: {reply:?} for {event:?}");
                let agent = Caller::agent(event.seq.get());
                bench.assert_refused(agent, "the same again", &request);
            }
        }
    }
    bench.assert_goes_on();
}

/// Notifications that have been handed out and not been replayed.
const UNFINISHED: &str = "mkdir fresh; echo more >> file; chmod 600 other; rm pipe; mv link moved";

/// The requests that would replay [`UNFINISHED`], whatever their number.
fn unfinished(guest: &mut Guest) -> Vec<(&'static str, Request)> {
    let (file, other) = (guest.lookup(ROOT, "file"), guest.lookup(ROOT, "other"));
    vec![
        ("mkdir", requests::mkdir(ROOT, "fresh")),
        ("mtime now", requests::setattr(file, MODIFY, 0)),
        ("times now", requests::setattr(other, ATTRIB, 0)),
        ("unlink", requests::unlink(ROOT, "pipe")),
        ("rename", requests::rename((ROOT, "link"), (ROOT, "moved"))),
    ]
}

/// A bench with an agent that has notifications to replay, and the number of the last of them.
fn with_unfinished() -> (Bench, u32) {
    let mut bench = Bench::attached();
    let told = bench.change(UNFINISHED);
    // The table of mutations needs these.
    bench.change("mkfifo pipe; mv moved link; rm -r fresh");
    (bench, told.last().unwrap().0.get())
}

/// Whoever comes with the agent's uid, or with both marks, finds nothing to replay.
fn assert_nothing_is_granted(bench: &mut Bench, last: u32) {
    let requests = unfinished(&mut bench.guest);
    for seq in 0..=last {
        for (what, request) in &requests {
            bench.assert_refused(Caller::agent(seq), what, request);
            bench.assert_refused(uid_alone(seq), what, request);
        }
    }
    bench.assert_all_refused(&[Caller::agent(0), Caller::agent(last), uid_alone(last)]);
}

#[test]
fn after_a_restart_of_the_file_system_the_agent_of_before_changes_nothing() {
    if skip_without_root() {
        return;
    }
    let (mut bench, last) = with_unfinished();
    bench.guest.init();
    assert_nothing_is_granted(&mut bench, last);
    bench.assert_goes_on();
}

#[test]
fn after_a_reconnect_the_agent_of_before_changes_nothing() {
    if skip_without_root() {
        return;
    }
    let (bench, last) = with_unfinished();
    let mut bench = bench.reconnected();
    assert_nothing_is_granted(&mut bench, last);
    bench.assert_goes_on();
}

#[test]
fn after_the_control_node_is_closed_its_agent_changes_nothing() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::new();
    let file = bench.guest.attach();
    let last = bench.change("chmod 600 file").last().unwrap().0.get();
    let close = requests::release(NodeId::CONTROL.get(), file);
    assert_eq!(bench.send(Caller::agent(0), &close), Ok(Vec::new()));
    assert_nothing_is_granted(&mut bench, last);
    bench.assert_goes_on();
}

#[test]
fn an_agent_of_before_changes_nothing_while_another_one_is_at_work() {
    if skip_without_root() {
        return;
    }
    let (mut bench, _) = with_unfinished();
    bench.guest.init();
    let successor = Caller { pid: AGENT_TID + 2, ..Caller::agent(0) };
    assert!(bench.guest.attach_as(successor).unwrap().1.marks_proved);
    let told = bench.change("mkdir fresh");
    let seq = told[0].0.get();
    bench.assert_all_refused(&[Caller::agent(seq)]);
    let mkdir = requests::mkdir(ROOT, "fresh");
    bench.assert_refused(Caller::agent(seq), "mkdir", &mkdir);
    assert!(bench.send(Caller { gid: seq, ..successor }, &mkdir).is_ok());
    bench.assert_goes_on();
}

#[test]
fn the_thread_id_of_an_agent_that_is_gone_is_anybodys() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::new();
    let file = bench.guest.attach();
    let mkdir = requests::mkdir(ROOT, "fresh");
    bench.assert_refused(pid_alone(0), "mkdir", &mkdir);
    bench.guest.ask(&requests::release(NodeId::CONTROL.get(), file));
    assert!(bench.guest.send(pid_alone(0), &mkdir).is_ok());
    bench.assert_goes_on();
}

#[test]
fn reading_request_changes_nothing_for_any_caller() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::attached();
    let (file, link) = (bench.guest.lookup(ROOT, "file"), bench.guest.lookup(ROOT, "link"));
    let (handle, dir_handle) = (bench.guest.open(file), bench.guest.opendir(ROOT));
    // The first six are answered as if they came from anyone.
    let reads = [
        requests::lookup(ROOT, "file"),
        requests::getattr(file),
        requests::opendir(ROOT),
        requests::readdir(ROOT, dir_handle, 4096),
        requests::readdirplus(ROOT, dir_handle, 4096),
        requests::statfs(ROOT),
        requests::open(file, open_flags::RDONLY),
        requests::read(file, handle, 4096),
        requests::readlink(link),
        requests::getxattr(file, "user.colour", 100),
        requests::listxattr(file, 100),
        requests::access(file),
        requests::lseek(file, handle),
        requests::opaque(Opcode::Interrupt, 0),
        requests::opaque(Opcode::TmpFile, ROOT),
        requests::opaque(Opcode::Ioctl, file),
        requests::ioctl_sync(file, None),
        requests::opaque(Opcode::Setlk, file),
        requests::forget(link, 1),
        requests::batch_forget(&[link]),
        requests::releasedir(ROOT, dir_handle),
        requests::release(file, handle),
    ];
    for (n, request) in reads.iter().enumerate() {
        let len = |reply: Reply| reply.map(|body| body.len());
        let expected = len(bench.send(Caller::PROGRAM, request));
        for caller in [uid_alone(0), pid_alone(0), Caller::agent(0), Caller::agent(1)] {
            let reply = len(bench.send(caller, request));
            assert!(n >= 6 || reply == expected, "{request:?}: {reply:?} and not {expected:?}");
        }
    }
    bench.assert_goes_on();
}

#[test]
fn the_flag_that_erases_uids_is_never_granted() {
    if skip_without_root() {
        return;
    }
    const ALLOW_IDMAP: u64 = 1 << 40;
    let host = Host::new(populate);
    let mut guest = host.mount();
    let granted = |guest: &mut Guest, offered: u64| {
        let reply = guest.ask(&requests::init(offered));
        u64::from(le32(&reply, 12)) | u64::from(le32(&reply, 32)) << 32
    };
    // A flag that the server knows, to show that flags are granted at all.
    const FUSE_MAX_PAGES: u64 = 1 << 22;
    assert_ne!(granted(&mut guest, FUSE_MAX_PAGES | INIT_EXT) & FUSE_MAX_PAGES, 0);
    for offered in [u64::MAX, !INIT_EXT, ALLOW_IDMAP, ALLOW_IDMAP | INIT_EXT] {
        assert_eq!(granted(&mut guest, offered) & ALLOW_IDMAP, 0, "{offered:#x}");
    }
}

#[test]
fn the_control_node_is_for_one_thread_with_the_marker_uid() {
    if skip_without_root() {
        return;
    }
    let mut bench = Bench::new();
    let open = requests::open(NodeId::CONTROL.get(), open_flags::RDWR);
    for uid in [0, 1000, MARKER_UID - 1, MARKER_UID + 1, u32::MAX] {
        assert_eq!(bench.send(Caller { uid, ..Caller::agent(0) }, &open), EPERM, "uid {uid}");
    }
    assert_eq!(bench.send(Caller { pid: 0, ..Caller::agent(0) }, &open), Err(Errno::INVAL));
    let file = fh(&bench.send(Caller::agent(0), &open).unwrap());
    for caller in [Caller::agent(0), uid_alone(0)] {
        assert_eq!(bench.send(caller, &open), Err(Errno::BUSY));
    }
    let close = |file| requests::release(NodeId::CONTROL.get(), file);
    // A RELEASE of another handle closes nothing.
    bench.send(Caller::agent(0), &close(file + 1)).unwrap();
    assert_eq!(bench.send(Caller::agent(0), &open), Err(Errno::BUSY));
    bench.send(Caller::agent(0), &close(file)).unwrap();
    assert!(bench.send(uid_alone(0), &open).is_ok());
    bench.assert_goes_on();
}

#[test]
fn on_the_control_node_comes_first_a_hello_and_then_the_welcome() {
    if skip_without_root() {
        return;
    }
    let (mut bench, control) = (Bench::new(), NodeId::CONTROL.get());
    let agent = Caller::agent(0);
    let file = fh(&bench.send(agent, &requests::open(control, open_flags::RDWR)).unwrap());
    let write = |frame: &[u8]| requests::write(control, file, frame);
    let read = |size| requests::read(control, file, size);

    assert_eq!(bench.send(agent, &read(4096)), Err(Errno::AGAIN));
    let mut flawed = hello().encode();
    flawed[12] = 1;
    let long = [&hello().encode()[..], &[0]].concat();
    for frame in [&b""[..], b"hello", &[0xff; Hello::LEN], &[0; Hello::LEN], &flawed, &long] {
        assert_eq!(bench.send(agent, &write(frame)), Err(Errno::INVAL), "{frame:?}");
    }
    let newer = Hello { version_min: 4, version_max: 5, ..hello() };
    assert_eq!(bench.send(agent, &write(&newer.encode())), Err(Errno::PROTONOSUPPORT));
    let of_another = requests::write(control, file + 1, &hello().encode());
    assert_eq!(bench.send(agent, &of_another), Err(Errno::BADF));

    assert!(bench.send(agent, &write(&hello().encode())).is_ok());
    assert_eq!(bench.send(agent, &write(&hello().encode())), Err(Errno::BADF));
    assert_eq!(bench.send(agent, &read(47)), Err(Errno::INVAL));
    assert_eq!(bench.send(agent, &read(48)).map(|welcome| welcome.len()), Ok(48));
    assert_eq!(bench.send(agent, &read(4096)), Err(Errno::AGAIN));
    bench.assert_goes_on();
}

#[test]
fn agent_whose_marks_do_not_arrive_together_receives_nothing_and_changes_nothing() {
    if skip_without_root() {
        return;
    }
    // Opened by one thread, welcomed in another; or under another uid.
    for reader in [uid_alone(0), pid_alone(0)] {
        let (mut bench, control) = (Bench::new(), NodeId::CONTROL.get());
        let agent = Caller::agent(0);
        let file = fh(&bench.send(agent, &requests::open(control, open_flags::RDWR)).unwrap());
        bench.send(agent, &requests::write(control, file, &hello().encode())).unwrap();
        let welcome = bench.send(reader, &requests::read(control, file, 48)).unwrap();
        let welcome = farwatch_proto::wire::control::Welcome::decode(&welcome).unwrap();
        assert!(!welcome.marks_proved);
        bench.host.run("mkdir fresh");
        bench.look();
        assert!(!bench.host.share.is_listening());
        bench.assert_refused(Caller::agent(1), "mkdir", &requests::mkdir(ROOT, "fresh"));
        bench.assert_all_refused(&[Caller::agent(0), Caller::agent(1), uid_alone(1), pid_alone(1)]);
        bench.assert_goes_on();
    }
}

/// What the host does in [`whatever_comes_the_host_stays_as_the_host_has_left_it`]. A change that is
/// not possible is none.
const HOST_CHANGES: [&str; 18] = [
    "touch a",
    // Not when it is a FIFO: that would wait for a reader.
    "test -p b || echo more >> b",
    "rm a",
    "rm dir/b",
    "mkdir b",
    "rmdir b",
    "mv a b",
    "mv a dir",
    "mv dir/a .",
    "mv b ../outside/a",
    "mv ../outside/a .",
    "ln a dir/b",
    "ln -s a b",
    "mkfifo dir/a",
    "chmod 711 dir",
    "truncate -s 0 file",
    "cat file",
    "ls dir",
];

/// One step of a session in which both sides do as they like.
#[derive(Clone, Debug)]
enum Step {
    /// The host changes something and the notifications are handed out.
    Host(usize),
    /// An event is replayed as it should be.
    Replay,
    /// A well-formed request comes with marks.
    Marked(Marks, u32, Mention),
    /// A request that need not make sense comes with marks.
    Raw(Marks, u32, u32, usize, Vec<u8>),
    /// A program looks something up.
    Lookup(Mention),
}

#[derive(Clone, Copy, Debug)]
enum Marks {
    Uid,
    Pid,
    Both,
}

impl Marks {
    fn with(self, gid: u32) -> Caller {
        match self {
            Self::Uid => uid_alone(gid),
            Self::Pid => pid_alone(gid),
            Self::Both => Caller::agent(gid),
        }
    }
}

/// What a request says: numbers that choose among what there is.
#[derive(Clone, Debug)]
struct Mention {
    request: usize,
    node: usize,
    dir: usize,
    name: usize,
}

impl Mention {
    /// Nodes that the guest knows, and some that it cannot know.
    fn node(of: usize, known: &[u64]) -> u64 {
        let strange = [NodeId::LIMBO.get(), NodeId::CONTROL.get(), 0x7ffe_8000_0000_0001, 999, 0];
        *known.iter().chain(&strange).cycle().nth(of).unwrap()
    }

    fn name(&self) -> &'static str {
        ["a", "b", "file", "dir", ".farwatch-limbo", "..", "c"][self.name % 7]
    }

    fn request(&self, known: &[u64]) -> Request {
        let (node, dir) = (Self::node(self.node, known), Self::node(self.dir, known));
        let mut requests = about_entry(node, dir, self.name());
        requests.extend(about_object(node));
        requests.push(("lookup", requests::lookup(dir, self.name())));
        requests.push(("write", requests::write(node, 0, b"spoilt")));
        requests.push(("open the control node", requests::open(node, open_flags::RDWR)));
        requests.swap_remove(self.request % requests.len()).1
    }
}

fn mentions() -> impl Strategy<Value = Mention> {
    (0..64_usize, 0..12_usize, 0..8_usize, 0..7_usize)
        .prop_map(|(request, node, dir, name)| Mention { request, node, dir, name })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let marks =
        || prop_oneof![Just(Marks::Uid), Just(Marks::Pid), Just(Marks::Both), Just(Marks::Both)];
    let gids = || prop_oneof![20 => 0..20_u32, 1 => any::<u32>()];
    // Not what begins or ends a session: then nobody is an agent any more.
    let opcodes = prop_oneof![0..26_u32, 27..38_u32, 39..60_u32, any::<u32>()];
    let raw = (marks(), gids(), opcodes, 0..8_usize, vec(any::<u8>(), 0..100));
    let step = prop_oneof![
        3 => (0..HOST_CHANGES.len()).prop_map(Step::Host),
        3 => Just(Step::Replay),
        8 => (marks(), gids(), mentions()).prop_map(|(m, gid, said)| Step::Marked(m, gid, said)),
        2 => raw.prop_map(|(m, gid, opcode, node, body)| Step::Raw(m, gid, opcode, node, body)),
        1 => mentions().prop_map(Step::Lookup),
    ];
    vec(step, 0..40)
}

#[test]
fn whatever_comes_the_host_stays_as_the_host_has_left_it() {
    if skip_without_root() {
        return;
    }
    let config = ProptestConfig { cases: 48, max_shrink_iters: 128, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps())| {
        let mut bench = Bench::attached_to_reads();
        let mut known = vec![ROOT];
        known.extend(["dir", "file"].map(|name| bench.guest.lookup(ROOT, name)));
        let mut events = std::collections::VecDeque::new();
        for step in steps {
            let after = format!("{step:?}");
            match step {
                Step::Host(n) => {
                    let told = bench.change(&format!("{{ {}; }} 2>&- || :", HOST_CHANGES[n]));
                    events.extend(joined(told));
                }
                Step::Replay => {
                    if let Some(event) = events.pop_front() {
                        replay(&mut bench.guest, &event);
                    }
                }
                Step::Marked(marks, gid, mention) => {
                    let request = mention.request(&known);
                    let reply = bench.guest.send(marks.with(gid), &request);
                    let alone = !matches!(marks, Marks::Both);
                    let reads = request.opcode == Opcode::Lookup as u32
                        || request.nodeid == NodeId::CONTROL.get();
                    prop_assert!(!alone || reads || reply.is_err(), "{:?}: {:?}", request, reply);
                }
                Step::Raw(marks, gid, opcode, node, body) => {
                    let request = Request { opcode, nodeid: Mention::node(node, &known), body };
                    // Any answer will do.
                    drop(bench.guest.send(marks.with(gid), &request));
                }
                Step::Lookup(mention) => {
                    let request = requests::lookup(known[mention.dir % known.len()], mention.name());
                    if let Ok(entry) = bench.guest.send(Caller::PROGRAM, &request) {
                        known.push(guest::nodeid(&entry));
                    }
                }
            }
            bench.assert_still(&after);
        }
        bench.assert_goes_on();
    });
}
