// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Notifications as answers to reads on the control node, which is how the agent of a stock kernel
//! gets them: `docs/PROTOCOL.md` 5.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/fake_driver.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod fake_driver;
#[path = "common/guest.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod guest;
#[path = "common/requests.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod requests;
#[path = "common/served.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod served;

use std::fs;
use std::path::Path;

use farwatch_proto::host::Ticket;
use farwatch_proto::wire::Notification;
use farwatch_proto::wire::sync::{Answer, State};
use farwatch_proto::{FileKind, Mask, NodeId};
use guest::{AGENT_TID, Caller, Guest, ROOT, nodeid};
use requests::Request;
use rustix::io::Errno;
use served::{Host, skip_without_root};
use virtiofsd::fuse::Opcode;

const CONTROL: u64 = NodeId::CONTROL.get();

fn populate(share: &Path) {
    for name in ["known", "same", "gone"] {
        fs::write(share.join(name), "").unwrap();
    }
}

/// A host, a guest whose agent reads its notifications, and the handle that it reads.
fn reading() -> (Host, Guest, u64) {
    let host = Host::new(populate);
    let mut guest = host.mount();
    let file = guest.attach_by_reads();
    (host, guest, file)
}

fn read(file: u64, size: u32) -> Request {
    requests::read(CONTROL, file, size)
}

/// What a read has returned, which must be whole messages.
fn messages(mut bytes: &[u8]) -> Vec<Notification> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let (message, rest) = Notification::split_first(bytes).expect("a whole message");
        messages.push(Notification::decode(message).unwrap());
        bytes = rest;
    }
    messages
}

/// The names and masks of all that is told up to the barrier's change, read by read.
fn told(host: &mut Host, guest: &mut Guest, file: u64) -> Vec<(String, Mask)> {
    let told = told_with_types(host, guest, file).into_iter();
    told.map(|(name, mask, _)| (name, mask)).collect()
}

fn told_with_types(host: &mut Host, guest: &mut Guest, file: u64) -> Vec<(String, Mask, FileKind)> {
    host.run(&format!("chmod 600 {}", Host::BARRIER));
    let mut told = Vec::new();
    loop {
        for message in messages(&guest.send(Caller::agent(0), &read(file, 4096)).unwrap()) {
            let Some(name) = message.name else { continue };
            let name = String::from_utf8(name.as_bytes().to_vec()).unwrap();
            told.push((name, message.mask, message.kind));
        }
        if let Some(at) = told.iter().position(|(name, ..)| name == Host::BARRIER) {
            told.remove(at);
            return told;
        }
    }
}

#[test]
fn created_object_is_reported_with_its_type_if_it_still_exists() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest, file) = reading();
    host.run("ln -s nowhere link; mkfifo pipe; mkfifo brief; ln -s nowhere other; mkfifo new");
    // An inode that is still linked is not used again.
    host.run("ln brief further; rm brief; mv new other");
    let told = told_with_types(&mut host, &mut guest, file);
    let made = |name: &str| {
        let made = told.iter().filter(|(it, mask, _)| it == name && mask.contains(Mask::CREATE));
        made.map(|(.., kind)| *kind).collect::<Vec<_>>()
    };
    assert_eq!(made("link"), [FileKind::Symlink]);
    assert_eq!(made("pipe"), [FileKind::Fifo]);
    assert_eq!(made("brief"), [FileKind::Unknown]);
    assert_eq!(made("other"), [FileKind::Unknown]);
}

#[test]
fn waiting_read_is_answered_by_an_event_while_other_requests_are_served() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest, file) = reading();
    guest.post(&read(file, 4096));
    // The reply to this comes first: the read waits, and the queue goes on.
    guest.post(&requests::getattr(ROOT));
    assert!(guest.reply().unwrap().len() > 100, "attributes");
    host.run("mkdir made");
    let told = messages(&guest.reply().unwrap());
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].mask, Mask::CREATE | Mask::ISDIR);
}

#[test]
fn a_read_returns_as_many_whole_messages_as_fit() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest, file) = reading();
    host.run("for i in 1 2 3 4 5 6 7 8; do mkdir made$i; done");
    let mut names = Vec::new();
    // Room for two, since any message could be the longest: then for all.
    let mut sizes = [2 * 319, 319, 8 * 319].into_iter();
    while names.len() < 8 {
        let size = sizes.next().unwrap_or(319);
        let told = messages(&guest.send(Caller::agent(0), &read(file, size)).unwrap());
        assert!(told.len() * 64 <= size as usize);
        names.extend(told.into_iter().map(|told| told.name.unwrap().as_bytes().to_vec()));
    }
    assert_eq!(names, (1..=8).map(|i| format!("made{i}").into_bytes()).collect::<Vec<_>>());
    assert_eq!(guest.send(Caller::agent(0), &read(file, 318)), Err(Errno::INVAL));
}

#[test]
fn a_read_does_not_wait_for_ever_and_not_while_its_queue_is_stopped() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest, file) = reading();
    assert_eq!(guest.send(Caller::agent(0), &read(file, 4096)), Ok(Vec::new()));
    guest.post(&read(file, 4096));
    // When this has its reply, the device has taken the read.
    guest.ask(&requests::getattr(ROOT));
    assert_eq!(guest.stop_requests(), Ok(Vec::new()));
}

/// How far a barrier is said to be.
fn barrier(reply: &[u8]) -> (Option<Ticket>, State) {
    let answer = Answer::decode(reply[16..].try_into().unwrap()).expect("an answer");
    (Some(answer.ticket), answer.state)
}

#[test]
fn barrier_is_reached_only_by_the_agents_lookup_of_its_probe() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest, file) = reading();
    let (ticket, state) = barrier(&guest.ask(&requests::ioctl_sync(ROOT, None)));
    assert_eq!(state, State::Sent);
    let told = messages(&guest.send(Caller::agent(0), &read(file, 4096)).unwrap());
    let probe = told[0].node.expect("a probe has a node").id.get();
    let look = requests::lookup(probe, ".");
    for (who, state) in [(Caller::PROGRAM, State::Sent), (Caller::agent(1), State::Reached)] {
        assert_eq!(guest.send(who, &look), Err(Errno::STALE));
        let reply = guest.ask(&requests::ioctl_sync(ROOT, ticket));
        assert_eq!(barrier(&reply), (ticket, state));
    }
    guest.ask(&requests::release(CONTROL, file));
    for (ticket, error) in [(ticket, Errno::STALE), (None, Errno::NOTCONN)] {
        let question = requests::ioctl_sync(ROOT, ticket);
        assert_eq!(guest.send(Caller::PROGRAM, &question), Err(error));
    }
}

#[test]
fn a_barrier_is_not_waited_for_while_the_queue_is_stopped() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest, _file) = reading();
    guest.post(&requests::ioctl_sync(ROOT, None));
    // When this has its reply, the device has taken the question.
    guest.ask(&requests::getattr(ROOT));
    let (_, state) = barrier(&guest.stop_requests().unwrap());
    assert_ne!(state, State::Reached);
}

#[test]
fn reads_beyond_those_that_may_wait_are_answered_at_once() {
    if skip_without_root() {
        return;
    }
    // The queue has 16 descriptors, of which each request takes two.
    let (_host, mut guest, file) = reading();
    for _ in 0..7 {
        guest.post(&read(file, 4096));
    }
    guest.post(&requests::getattr(ROOT));
    // Five wait: one that is being served, and four behind it. Or four, before the first is.
    let before = std::iter::from_fn(|| Some(guest.reply().unwrap())).take_while(Vec::is_empty);
    assert!((2..=3).contains(&before.count()), "reads that were answered before");
}

#[test]
fn the_notification_queue_takes_nothing_from_an_agent_that_reads() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest, file) = reading();
    guest.post_notification_buffer();
    host.run("mkdir made");
    let made = ("made".to_owned(), Mask::CREATE | Mask::ISDIR);
    assert_eq!(told(&mut host, &mut guest, file), [made]);
}

#[test]
fn agent_receives_the_difference_to_what_the_previous_one_received() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest, file) = reading();
    for name in ["known", "gone"] {
        nodeid(&guest.ask(&requests::lookup(ROOT, name)));
    }
    host.run("mkdir told");
    let told_dir = ("told".to_owned(), Mask::CREATE | Mask::ISDIR);
    assert_eq!(told(&mut host, &mut guest, file), [told_dir]);

    guest.ask(&requests::release(CONTROL, file));
    host.run("mkdir made; rm gone");
    let file = guest.attach_by_reads();
    let made = ("made".to_owned(), Mask::CREATE | Mask::ISDIR);
    let gone = ("gone".to_owned(), Mask::DELETE);
    let mut difference = told(&mut host, &mut guest, file);
    while !(difference.contains(&made) && difference.contains(&gone)) {
        let more = told(&mut host, &mut guest, file);
        assert!(!more.is_empty(), "only {difference:?}");
        difference.extend(more);
    }
}

#[test]
fn an_agent_is_detached_by_a_new_session_a_destroy_and_a_reset_of_the_device() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest, mut file) = reading();
    let ends: [fn(&Host, Guest) -> Guest; 3] = [
        |_, mut guest| {
            guest.init();
            guest
        },
        |host, mut guest| {
            guest.ask(&Request::new(Opcode::Destroy, 0));
            assert_eq!(agent(host), None);
            guest.init();
            guest
        },
        |host, guest| {
            guest.reset();
            assert_eq!(agent(host), None);
            host.mount()
        },
    ];
    for (n, end) in ends.iter().enumerate() {
        assert_eq!(agent(&host), Some(AGENT_TID));
        guest = end(&host, guest);
        assert_eq!(agent(&host), None, "end {n}");
        let lost = guest.send(Caller::agent(0), &read(file, 4096));
        assert!(lost.is_err(), "end {n}: the agent of before is told {lost:?}");
        // The next one is not refused as a second one, and gets what happens from now on.
        file = guest.attach_by_reads();
        host.run(&format!("mkdir made{n}"));
        let made = (format!("made{n}"), Mask::CREATE | Mask::ISDIR);
        assert_eq!(told(&mut host, &mut guest, file), [made], "end {n}");
    }
}

/// The thread of the agent that is attached.
fn agent(host: &Host) -> Option<u32> {
    host.share.agent_tid()
}
