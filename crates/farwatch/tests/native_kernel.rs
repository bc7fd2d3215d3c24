// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest whose kernel takes notifications itself: `docs/PROTOCOL.md`, section 10. The kernel is played by the test.
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
use std::process::{Command, Stdio};

use farwatch_proto::host::Ticket;
use farwatch_proto::wire::Notification;
use farwatch_proto::wire::abi::{FUSE_FSNOTIFY, FUSE_HAVE_FSNOTIFY};
use farwatch_proto::wire::control::{Delivery, Hello};
use farwatch_proto::wire::sync::{Answer, State};
use farwatch_proto::{Mask, NodeId};
use guest::{Caller, Guest, ROOT, fh, hello, le32, le64};
use requests::Request;
use rustix::io::Errno;
use served::{Host, skip_without_root};

const CONTROL: u64 = NodeId::CONTROL.get();
/// `FUSE_INIT_EXT`, without which the second flags do not count.
const INIT_EXT: u64 = 1 << 30;
/// The kernel's own requests bear nobody's ids.
const KERNEL: Caller = Caller { uid: 0, gid: 0, pid: 0 };
/// A program of the guest's root, outside of the mount's pid namespace or not.
const ROOT_PROGRAM: Caller = Caller::PROGRAM;

fn populate(share: &Path) {
    fs::create_dir(share.join("dir")).unwrap();
    for name in ["known", "other"] {
        fs::write(share.join(name), "").unwrap();
    }
}

/// A host, and a guest whose kernel takes notifications by the queue, or without one.
fn mounted(queue: bool) -> (Host, Guest) {
    mounted_on(Host::new(populate), queue)
}

fn mounted_on(host: Host, queue: bool) -> (Host, Guest) {
    let mut guest = if queue { host.served.connect() } else { host.connect_without_queue() };
    let reply = guest.send(ROOT_PROGRAM, &requests::init(INIT_EXT | FUSE_HAVE_FSNOTIFY)).unwrap();
    let granted = u64::from(le32(&reply, 12)) | u64::from(le32(&reply, 32)) << 32;
    assert_eq!(granted & FUSE_HAVE_FSNOTIFY, FUSE_HAVE_FSNOTIFY);
    (host, guest)
}

/// FUSE_FSNOTIFY, from the guest's kernel: what can be delivered.
fn watch(guest: &mut Guest, node: u64, mask: u64) -> Result<u64, Errno> {
    let generation =
        if node == ROOT { 0 } else { le32(&guest.ask(&requests::lookup(ROOT, "dir")), 8) };
    let request = fsnotify(node, mask, generation);
    guest.send(KERNEL, &request).map(|reply| le64(&reply, 0))
}

fn fsnotify(nodeid: u64, mask: u64, generation: u32) -> Request {
    let body = [&mask.to_le_bytes()[..], &generation.to_le_bytes(), &[0; 4]].concat();
    Request { opcode: FUSE_FSNOTIFY, nodeid, body }
}

fn name_of(notification: &Notification) -> &[u8] {
    notification.name.as_ref().map_or(b"", |name| name.as_bytes())
}

#[test]
fn kernel_with_a_queue_receives_only_watched_events() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = mounted(true);
    let dir = guest.lookup(ROOT, "dir");
    guest.ask(&requests::opendir(dir));
    watch(&mut guest, ROOT, Mask::CREATE.bits()).unwrap();
    host.run("touch dir/unseen seen");
    assert_eq!(name_of(&guest.notification().1), b"seen");
    watch(&mut guest, ROOT, 0).unwrap();
    let moves = Mask::MOVE.bits();
    let delivered = watch(&mut guest, dir, Mask::CREATE.bits() | moves).unwrap();
    assert_eq!(delivered & moves, moves);
    host.run("touch dir/seen ignored; rm dir/seen; mv dir/unseen dir/other");
    // Nothing of this is asked for by requests: the kernel makes its own.
    let told: Vec<_> = (0..3).map(|_| guest.notification().1).collect();
    let of = |mask: Mask, name: &str| (mask, name.as_bytes().to_vec());
    let said: Vec<_> = told
        .iter()
        .map(|it| (it.mask & (Mask::CREATE | Mask::MOVE), name_of(it).to_vec()))
        .collect();
    assert_eq!(
        said,
        [of(Mask::CREATE, "seen"), of(Mask::MOVED_FROM, "unseen"), of(Mask::MOVED_TO, "other")]
    );
    assert!(told[1].paired && told[1].cookie == told[2].cookie);
    watch(&mut guest, dir, 0).unwrap();
    host.run("touch dir/unseen2");
    watch(&mut guest, ROOT, Mask::CREATE.bits()).unwrap();
    host.run("touch last");
    // A probe for the renamed entries may come first.
    let named = std::iter::from_fn(|| Some(guest.notification().1)).find(|it| it.name.is_some());
    assert_eq!(named.as_ref().map(name_of), Some(&b"last"[..]));
}

#[test]
fn barrier_is_reached_when_the_kernel_looks_for_the_node_of_its_probe() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = mounted(true);
    watch(&mut guest, ROOT, Mask::CREATE.bits()).unwrap();
    host.run("touch made");
    let state = |guest: &mut Guest, ticket: Option<Ticket>| {
        let reply = guest.ask(&requests::ioctl_sync(ROOT, ticket));
        Answer::decode(reply[16..].try_into().unwrap()).unwrap()
    };
    let asked = state(&mut guest, None);
    assert_eq!(name_of(&guest.notification().1), b"made");
    let probe = guest.notification().1.node.unwrap();
    assert!(probe.id.is_reserved());
    assert_ne!(state(&mut guest, Some(asked.ticket)).state, State::Reached);
    let look = requests::lookup(probe.id.get(), ".");
    assert_eq!(guest.send(ROOT_PROGRAM, &look), Err(Errno::STALE));
    assert_ne!(state(&mut guest, Some(asked.ticket)).state, State::Reached, "asked by a program");
    assert_eq!(guest.send(KERNEL, &look), Err(Errno::STALE));
    assert_eq!(state(&mut guest, Some(asked.ticket)).state, State::Reached);
}

#[test]
fn kernel_without_a_queue_reads_the_control_node_without_a_hello() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = mounted(false);
    let open = requests::open(CONTROL, 0);
    assert_eq!(guest.send(ROOT_PROGRAM, &open), Err(Errno::PERM), "no program's to open");
    let file = fh(&guest.send(KERNEL, &open).unwrap());
    assert_eq!(guest.send(KERNEL, &open), Err(Errno::BUSY), "twice");
    watch(&mut guest, ROOT, Mask::CREATE.bits()).unwrap();
    host.run("touch made");
    let bytes = loop {
        let bytes = guest.send(KERNEL, &requests::read(CONTROL, file, 4096)).unwrap();
        if !bytes.is_empty() {
            break bytes;
        }
    };
    let (first, _) = Notification::split_first(&bytes).unwrap();
    assert_eq!(name_of(&Notification::decode(first).unwrap()), b"made");
}

#[test]
fn agent_is_refused_where_the_kernel_is_the_client() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest) = mounted(true);
    assert_eq!(guest.attach_as(Caller::agent(0)).err(), Some(Errno::BUSY));
}

#[test]
fn module_receives_events_like_an_agent_and_its_replays_are_refused() {
    if skip_without_root() {
        return;
    }
    let host = Host::new(populate);
    let mut guest = host.mount();
    let hello = Hello {
        version_min: 2,
        version_max: 2,
        raises: true,
        submounts: false,
        delivery: Delivery::Queue,
        ..hello()
    };
    guest.greet(Caller::agent(0), hello).unwrap();
    let mut host = host;
    host.run("touch made");
    assert_eq!(name_of(&guest.notification().1), b"made");
    let made = requests::mknod(ROOT, "made", 0o100_644);
    assert_eq!(guest.send(Caller::agent(1), &made), Err(Errno::PERM));
    let known = guest.send(Caller::agent(1), &requests::lookup(ROOT, "made"));
    assert!(known.is_ok(), "looked up as by any program: {known:?}");
}

#[test]
fn program_that_says_it_is_the_kernel_is_refused_where_no_kernel_takes_notifications() {
    if skip_without_root() {
        return;
    }
    let host = Host::new(populate);
    let mut guest = host.mount();
    let open = requests::open(CONTROL, 0);
    assert_eq!(guest.send(KERNEL, &open), Err(Errno::PERM));
    assert_eq!(guest.send(KERNEL, &fsnotify(ROOT, 2, 0)), Err(Errno::NOSYS));
}

#[test]
fn open_does_not_wait_for_the_event_that_shows_its_mode() {
    if skip_without_root() {
        return;
    }
    let host = Host::new_telling(populate, Mask::DEFAULT | Mask::READS);
    let (host, mut guest) = mounted_on(host, true);
    let bits = Mask::OPEN | Mask::MODIFY;
    watch(&mut guest, ROOT, bits.bits()).unwrap();
    // To an agent, what happens to another entry overtakes an OPEN. The file stays open, or the host's kernel could merge
    // the close with it.
    let mut program = Command::new("sh");
    program.args(["-c", "exec 3<known; echo more >>other; read end"]).current_dir(&host.root);
    let mut program = program.stdin(Stdio::piped()).spawn().unwrap();
    let first = guest.notification().1;
    drop(program.stdin.take());
    program.wait().unwrap();
    assert_eq!((name_of(&first), first.mask), (&b"known"[..], Mask::OPEN));
}
