// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest moves from one device to another, as a live migration does it: what it knows and has open
//! goes on, and an agent that begins anew is told the difference.
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
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use farwatch_proto::wire::Notification;
use farwatch_proto::wire::abi::{FUSE_FSNOTIFY, FUSE_HAVE_FSNOTIFY};
use farwatch_proto::{Mask, NodeId};
use guest::{Caller, Guest, ROOT, fh, le32, le64, nodeid};
use requests::Request;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use served::{Host, skip_without_root};
use tempfile::TempDir;
use vhost::vhost_user::VhostUserFrontend as _;

const CONTROL: u64 = NodeId::CONTROL.get();

fn populate(share: &Path) {
    for dir in ["dir", "dir/deeper"] {
        fs::create_dir(share.join(dir)).unwrap();
    }
    for (file, text) in [("top", "at the top"), ("dir/file", "in a directory")] {
        fs::write(share.join(file), text).unwrap();
    }
}

/// What a guest holds, to look at again on another host.
struct Held {
    dir: u64,
    deeper: u64,
    file: u64,
    fh: u64,
    generation: u64,
}

/// `fuse_entry_out.generation`.
fn generation(entry: &[u8]) -> u64 {
    le64(entry, 8)
}

fn hold(guest: &mut Guest) -> Held {
    let dir = guest.lookup(ROOT, "dir");
    let deeper = guest.lookup(dir, "deeper");
    let entry = guest.ask(&requests::lookup(dir, "file"));
    let (file, generation) = (nodeid(&entry), generation(&entry));
    let fh = guest.open(file);
    Held { dir, deeper, file, fh, generation }
}

/// A guest on another host, which does not know yet what it had.
struct Arrived {
    guest: Guest,
    /// What it had.
    state: Vec<u8>,
    destination: Host,
    // Has the directory that both hosts share.
    source: Host,
}

impl Arrived {
    fn new() -> Self {
        let source = Host::new(populate);
        let mut guest = source.mount();
        hold(&mut guest);
        let state = guest.driver.save().unwrap();
        let destination = source.second();
        let guest = guest.moved(&destination.served.socket());
        Self { guest, state, destination, source }
    }
}

/// The guest on `to`, with what it had on the host that it comes from.
fn migrate(mut guest: Guest, to: &Host) -> Guest {
    guest.driver.log_writes(true);
    let state = guest.driver.save().unwrap();
    let mut guest = guest.moved(&to.served.socket());
    guest.driver.load(&state).unwrap();
    guest.driver.resume();
    guest
}

/// A second host with a copy of what the first one shares.
fn copy_of(host: &Host) -> (TempDir, Host) {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("share");
    let copied = Command::new("cp").arg("-a").arg(&host.root).arg(&root).status().unwrap();
    assert!(copied.success());
    let copy = Host::at(TempDir::new().unwrap(), &root);
    (dir, copy)
}

fn assert_held(guest: &mut Guest, held: &Held) {
    let text = guest.ask(&requests::read(held.file, held.fh, 100));
    assert_eq!(text, b"in a directory");
    // As open_by_handle_at(2) has it.
    let entry = guest.ask(&requests::lookup(held.file, "."));
    assert_eq!((nodeid(&entry), generation(&entry)), (held.file, held.generation));
    let entry = guest.ask(&requests::lookup(held.dir, "file"));
    assert_eq!((nodeid(&entry), generation(&entry)), (held.file, held.generation));
    assert_eq!(nodeid(&guest.ask(&requests::lookup(held.deeper, ".."))), held.dir);
    guest.ask(&requests::release(held.file, held.fh));
    guest.ask(&requests::mkdir(held.deeper, "made after"));
}

/// The names and masks of all that the reads of `file` tell up to the barrier's change.
fn told(host: &mut Host, guest: &mut Guest, file: u64) -> Vec<(String, Mask)> {
    host.run(&format!("chmod 600 {}", Host::BARRIER));
    let mut told = Vec::new();
    loop {
        let bytes = guest.send(Caller::agent(0), &requests::read(CONTROL, file, 4096)).unwrap();
        let mut rest = &bytes[..];
        while let Some((message, after)) = Notification::split_first(rest) {
            rest = after;
            let message = Notification::decode(message).unwrap();
            if let Some(name) = message.name {
                told.push((String::from_utf8(name.as_bytes().to_vec()).unwrap(), message.mask));
            }
        }
        if let Some(at) = told.iter().position(|(name, _)| name == Host::BARRIER) {
            told.remove(at);
            return told;
        }
    }
}

#[test]
fn migrated_guest_keeps_its_nodes_and_open_files() {
    if skip_without_root() {
        return;
    }
    let source = Host::new(populate);
    let mut guest = source.mount();
    let held = hold(&mut guest);
    let destination = source.second();
    let mut guest = migrate(guest, &destination);
    assert_held(&mut guest, &held);
    assert!(source.root.join("dir/deeper/made after").is_dir());
}

#[test]
fn guest_continues_on_a_copy_of_the_directory() {
    if skip_without_root() {
        return;
    }
    let source = Host::new(populate);
    let mut guest = source.mount();
    let held = hold(&mut guest);
    let (_dir, destination) = copy_of(&source);
    let mut guest = migrate(guest, &destination);
    assert_held(&mut guest, &held);
    assert!(destination.root.join("dir/deeper/made after").is_dir());
    assert!(!source.root.join("dir/deeper/made after").exists());
}

/// virtiofsd's server forgets with which extensions the guest's requests come.
#[test]
fn what_was_agreed_upon_with_the_guest_moves_with_it() {
    const CREATE_SUPP_GROUP: u64 = 1 << 34;
    if skip_without_root() {
        return;
    }
    let source = Host::new(populate);
    let mut guest = source.served.connect();
    let init = requests::init(guest::INIT_EXT | CREATE_SUPP_GROUP);
    let granted = guest.send(Caller::PROGRAM, &init).unwrap();
    let flags2 = u64::from(le32(&granted, 32));
    assert_ne!(flags2 & CREATE_SUPP_GROUP >> 32, 0, "{granted:?}");
    // Behind the name is an extension that is none: whoever knows that extensions come refuses it.
    let mut bad = requests::mkdir(ROOT, "extended");
    bad.body.extend([1, 0, 0, 0, 9, 9, 9, 9]);
    assert_eq!(guest.send(Caller::PROGRAM, &bad), Err(Errno::INVAL));
    let destination = source.second();
    let mut guest = migrate(guest, &destination);
    assert_eq!(guest.send(Caller::PROGRAM, &bad), Err(Errno::INVAL));
    // And the next host knows, too.
    let third = source.second();
    let mut guest = migrate(guest, &third);
    assert_eq!(guest.send(Caller::PROGRAM, &bad), Err(Errno::INVAL));
    guest.ask(&requests::mkdir(ROOT, "plain"));
}

/// Two of the daemon, shut in as they are for a real guest: a system call too many would kill one.
#[test]
fn a_guest_moves_between_two_daemons_in_each_migration_mode() {
    if skip_without_root() {
        return;
    }
    for options in [
        "--migration-mode find-paths --sandbox none",
        "--migration-mode find-paths --migration-verify-handles --migration-confirm-paths",
        "--migration-mode file-handles --sandbox chroot",
        "--migration-on-error guest-error --inode-file-handles never --cache always",
        "--readonly --migration-mode file-handles",
    ] {
        let Between { mut guest, dir_id, file, source: _source, destination, dir: _dir } =
            Between::new(options);
        let fh = fh(&guest.ask(&requests::open(file, requests::open_flags::RDONLY)));
        guest.driver.log_writes(true);
        let state = guest.driver.save().unwrap_or_else(|error| panic!("{options}: {error}"));
        let mut guest = guest.moved(&destination.socket);
        let loaded = guest.driver.load(&state);
        assert!(loaded.is_ok(), "{options}: {loaded:?}");
        guest.driver.resume();
        let text = guest.ask(&requests::read(file, fh, 100));
        assert_eq!(text, b"in a directory", "{options}");
        assert_eq!(guest.lookup(dir_id, "file"), file, "{options}");
    }
}

/// As it is while the guest has not heard of the deletion, or keeps the object for another reason.
#[test]
fn file_that_the_host_deletes_does_not_prevent_a_migration() {
    if skip_without_root() {
        return;
    }
    for options in ["--sandbox none", "--sandbox none --inode-file-handles never"] {
        let Between { mut guest, dir_id, file, source: _source, destination, dir } =
            Between::new(options);
        let deeper = guest.lookup(dir_id, "deeper");
        fs::remove_file(dir.path().join("share/dir/file")).unwrap();
        guest.driver.log_writes(true);
        // Also while it goes on.
        fs::rename(dir.path().join("share/dir/deeper"), dir.path().join("share/moved")).unwrap();
        let state = guest.driver.save().unwrap_or_else(|error| panic!("{options}: {error}"));
        let mut guest = guest.moved(&destination.socket);
        let loaded = guest.driver.load(&state);
        assert!(loaded.is_ok(), "{options}: {loaded:?}");
        guest.driver.resume();
        for request in [requests::getattr(file), requests::open(file, 0)] {
            assert_eq!(guest.send(Caller::PROGRAM, &request), Err(Errno::STALE), "{options}");
        }
        let look = requests::lookup(dir_id, "file");
        assert_eq!(guest.send(Caller::PROGRAM, &look), Err(Errno::NOENT), "{options}");
        assert_eq!(guest.lookup(ROOT, "moved"), deeper, "{options}");
    }
}

#[test]
fn migration_is_refused_while_a_deleted_file_is_open_unless_that_may_be_lost() {
    if skip_without_root() {
        return;
    }
    for (options, is_refused) in [("abort", true), ("guest-error", false)] {
        let options = format!("--sandbox none --migration-on-error {options}");
        let Between { mut guest, file, source: _source, destination, dir, .. } =
            Between::new(&options);
        let fh = fh(&guest.ask(&requests::open(file, requests::open_flags::RDONLY)));
        fs::remove_file(dir.path().join("share/dir/file")).unwrap();
        guest.driver.log_writes(true);
        let saved = guest.driver.save();
        assert_eq!(saved.is_err(), is_refused, "{options}");
        let read = requests::read(file, fh, 100);
        let Ok(state) = saved else {
            // It stays, with what it has open.
            guest.driver.resume();
            assert_eq!(guest.ask(&read), b"in a directory");
            guest.ask(&requests::release(file, fh));
            guest.driver.save().unwrap();
            continue;
        };
        let mut guest = guest.moved(&destination.socket);
        guest.driver.load(&state).unwrap();
        guest.driver.resume();
        assert_eq!(guest.send(Caller::PROGRAM, &read), Err(Errno::IO));
    }
}

/// Two daemons that share a directory, and a guest of the first that knows `dir/file`.
struct Between {
    guest: Guest,
    dir_id: u64,
    file: u64,
    source: Daemon,
    destination: Daemon,
    dir: TempDir,
}

impl Between {
    fn new(options: &str) -> Self {
        let dir = served::shared_dir(populate);
        let [source, destination] = ["one", "two"].map(|name| Daemon::start(&dir, name, options));
        let mut guest = Guest::connect(&source.socket);
        guest.init();
        let dir_id = guest.lookup(ROOT, "dir");
        let file = guest.lookup(dir_id, "file");
        Self { guest, dir_id, file, source, destination, dir }
    }
}

/// `farwatch serve` in a process of its own. Dropped, it is ended.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(dir: &TempDir, name: &str, options: &str) -> Self {
        let socket = dir.path().join(name);
        let mut child = Command::new(env!("CARGO_BIN_EXE_farwatch"))
            .arg("serve")
            .arg("--socket")
            .arg(&socket)
            .arg("--shared-dir")
            .arg(dir.path().join("share"))
            .args(options.split(' '))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("serving "), "{options}: {line:?}");
        Self { child, socket }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(std::thread::panicking() || status.success(), "{status}");
    }
}

#[test]
fn changes_after_a_migration_are_delivered_to_the_reattached_agent() {
    if skip_without_root() {
        return;
    }
    let source = Host::new(populate);
    let mut guest = source.mount();
    hold(&mut guest);
    let before = guest.attach_by_reads();
    let mut destination = source.second();
    let mut guest = migrate(guest, &destination);

    // The old link is none here, and whoever asks for it learns so.
    let read = requests::read(CONTROL, before, 4096);
    assert_eq!(guest.send(Caller::agent(0), &read), Err(Errno::BADF));
    // What it had been sent before is not its business any more: it does not even look.
    let look = requests::lookup(ROOT, "top");
    assert_eq!(guest.send(Caller::agent(1), &look), Err(Errno::PERM));
    let after = guest.attach_by_reads();
    assert_ne!(after, before);
    // It comes late, as the kernel does not wait for it.
    guest.send(Caller::agent(0), &requests::release(CONTROL, before)).unwrap();
    told(&mut destination, &mut guest, after);
    destination.run("mkdir dir/deeper/new; mv dir/file dir/renamed");
    let moved = [("file", Mask::MOVED_FROM), ("renamed", Mask::MOVED_TO)];
    let expected = [("new", Mask::CREATE | Mask::ISDIR)].into_iter().chain(moved);
    let expected: Vec<_> = expected.map(|(name, mask)| (name.to_owned(), mask)).collect();
    assert_eq!(told(&mut destination, &mut guest, after), expected);
}

#[test]
fn changes_during_a_migration_are_delivered_as_a_difference() {
    if skip_without_root() {
        return;
    }
    let mut source = Host::new(populate);
    let mut guest = source.mount();
    hold(&mut guest);
    guest.lookup(ROOT, "top");
    guest.attach_by_reads();
    guest.driver.log_writes(true);
    let state = guest.driver.save().unwrap();
    source.run("echo more >> dir/file; mkdir dir/meanwhile");
    let mut destination = source.second();
    let mut guest = guest.moved(&destination.served.socket());
    guest.driver.load(&state).unwrap();
    guest.driver.resume();

    let file = guest.attach_by_reads();
    let told = told(&mut destination, &mut guest, file);
    // Files that were just made may be told once more: so much is the difference allowed.
    let of = |name: &str| told.iter().find(|(told, _)| told == name).map(|(_, mask)| *mask);
    assert_eq!(of("meanwhile"), Some(Mask::CREATE | Mask::ISDIR), "{told:?}");
    assert!(of("file").is_some_and(|mask| mask.contains(Mask::MODIFY)), "{told:?}");
}

#[test]
fn object_not_found_after_a_move_is_reported_deleted_and_its_successor_created() {
    if skip_without_root() {
        return;
    }
    let mut source = Host::new(populate);
    let mut guest = source.mount();
    let held = hold(&mut guest);
    let top = guest.lookup(ROOT, "top");
    guest.attach_by_reads();
    guest.driver.log_writes(true);
    let state = guest.driver.save().unwrap();
    // A file has gone, one has another name, and a directory's name is a file's.
    source.run("rm dir/file; mv top other; rmdir dir/deeper; echo > dir/deeper");
    let mut destination = source.second();
    let mut guest = guest.moved(&destination.served.socket());
    guest.driver.load(&state).unwrap();
    guest.driver.resume();
    assert!(guest.send(Caller::PROGRAM, &requests::getattr(top)).is_err());
    assert!(guest.send(Caller::PROGRAM, &requests::read(held.file, held.fh, 100)).is_err());

    let file = guest.attach_by_reads();
    let told = told(&mut destination, &mut guest, file);
    for (name, mask) in [
        ("file", Mask::DELETE),
        ("top", Mask::DELETE),
        ("other", Mask::CREATE),
        // To the guest's kernel a directory that was removed is dead: only who knows that says so.
        ("deeper", Mask::MOVED_FROM | Mask::ISDIR),
        ("deeper", Mask::CREATE),
    ] {
        let is = |(of, is): &(String, Mask)| of == name && is.contains(mask);
        assert!(told.iter().any(is), "no {mask:?} of {name} in {told:?}");
    }
    // It gives up what it cannot use, and goes on.
    guest.send(Caller::PROGRAM, &requests::forget(top, 1)).unwrap();
    guest.lookup(ROOT, "other");
    assert_eq!(destination.served.device.stats().panics, 0);
}

#[test]
fn guest_without_an_agent_receives_nothing_about_its_move() {
    if skip_without_root() {
        return;
    }
    let source = Host::new(populate);
    let mut guest = source.mount();
    hold(&mut guest);
    let mut destination = source.second();
    let mut guest = migrate(guest, &destination);
    let file = guest.attach_by_reads();
    assert_eq!(told(&mut destination, &mut guest, file), []);
}

#[test]
fn a_read_that_waits_is_answered_before_the_state_is_saved() {
    if skip_without_root() {
        return;
    }
    let source = Host::new(populate);
    let mut guest = source.mount();
    let file = guest.attach_by_reads();
    guest.post(&requests::read(CONTROL, file, 4096));
    // The queue is served in order. A read that was not taken yet is served at the destination.
    guest.lookup(ROOT, "top");
    guest.driver.log_writes(true);
    let state = guest.driver.save().unwrap();
    assert_eq!(guest.reply(), Ok(Vec::new()));
    let destination = source.second();
    let mut guest = guest.moved(&destination.served.socket());
    guest.driver.load(&state).unwrap();
    guest.driver.resume();
    guest.lookup(ROOT, "top");
}

#[test]
fn posted_request_that_was_not_served_is_served_at_the_destination() {
    if skip_without_root() {
        return;
    }
    let source = Host::new(populate);
    let mut guest = source.mount();
    let state = guest.driver.save().unwrap();
    let destination = source.second();
    let mut guest = guest.moved(&destination.served.socket());
    guest.driver.load(&state).unwrap();
    // Its kick has been lost with the source.
    guest.post_unkicked(&requests::getattr(ROOT));
    guest.driver.resume();
    assert!(guest.reply().unwrap().len() > 100, "attributes");
}

#[test]
fn a_migration_that_is_cancelled_leaves_the_guest_where_it_is() {
    if skip_without_root() {
        return;
    }
    let mut source = Host::new(populate);
    let mut guest = source.mount();
    let held = hold(&mut guest);
    let file = guest.attach_by_reads();
    guest.driver.log_writes(true);
    guest.driver.log_writes(false);
    // Once more, up to the end; then it is the destination that fails.
    guest.driver.log_writes(true);
    guest.driver.save().unwrap();
    guest.driver.resume();
    guest.driver.log_writes(false);
    source.run("mkdir dir/new");
    let expected = [("new".to_owned(), Mask::CREATE | Mask::ISDIR)];
    assert_eq!(told(&mut source, &mut guest, file), expected);
    assert_held(&mut guest, &held);
}

#[test]
fn a_state_that_makes_no_sense_is_refused_and_a_guest_can_begin_afresh() {
    if skip_without_root() {
        return;
    }
    let Arrived { mut guest, state, destination, source: _source } = Arrived::new();
    let cuts = [0, 1, 23, 24, 100, state.len() / 2, state.len() - 1];
    let cut = cuts.into_iter().map(|len| state[..len].to_vec());
    let damaged = (0..state.len()).step_by(7).map(|at| {
        let mut damaged = state.clone();
        damaged[at] ^= 0x55;
        damaged
    });
    let longer = [state.iter().copied().chain([0]).collect(), b"a state".repeat(1000)];
    for bad in cut.chain(longer) {
        assert!(guest.driver.load(&bad).is_err(), "{} bytes", bad.len());
    }
    for bad in damaged {
        // Some bytes are but numbers, and one is as good as another.
        let _refused = guest.driver.load(&bad);
    }
    assert_eq!(destination.served.device.stats().panics, 0);
    guest.driver.start();
    guest.init();
    let held = hold(&mut guest);
    assert_held(&mut guest, &held);
}

#[test]
fn frontend_that_disconnects_in_the_middle_of_a_state_leaves_the_device_to_the_next() {
    if skip_without_root() {
        return;
    }
    let Arrived { guest, state, destination, source: _source } = Arrived::new();
    // This end stays open, so that nothing but the session's end tells the device.
    let to = guest.driver.begin_load(&state[..state.len() / 2]);
    drop(guest);
    let mut guest = destination.mount();
    guest.lookup(ROOT, "top");
    drop(to);
}

#[test]
fn a_frontend_that_asks_how_it_went_and_keeps_the_pipe_open_is_not_waited_for() {
    if skip_without_root() {
        return;
    }
    let Arrived { guest, state, destination, source: _source } = Arrived::new();
    let to = guest.driver.begin_load(&state);
    assert!(guest.driver.frontend.check_device_state().is_err(), "a state without an end");
    drop(guest);
    let mut guest = destination.mount();
    guest.lookup(ROOT, "top");
    drop(to);
}

#[test]
fn every_page_that_the_device_writes_to_is_logged() {
    if skip_without_root() {
        return;
    }
    let mut source = Host::new(populate);
    let mut guest = source.mount();
    let file = guest.lookup(ROOT, "top");
    let fh = guest.open(file);
    guest.attach();
    source.run("chmod 600 top");
    guest.driver.log_writes(true);
    guest.driver.forget_log();
    let before = guest.driver.memory();
    guest.ask(&requests::getattr(ROOT));
    guest.ask(&requests::read(file, fh, 100));
    guest.notification();
    let written = guest.driver.changed_pages(&before);
    assert!(written.len() >= 4, "two used rings and their buffers: {written:?}");
    let unlogged: Vec<_> = written.iter().filter(|page| !guest.driver.is_logged(**page)).collect();
    assert!(unlogged.is_empty(), "pages {unlogged:?} of {written:?}");
}

#[test]
fn kernel_that_raises_events_itself_receives_every_event_after_a_migration() {
    if skip_without_root() {
        return;
    }
    let source = Host::new(populate);
    let mut guest = source.served.connect();
    let init = requests::init(FUSE_HAVE_FSNOTIFY | 1 << 30);
    guest.send(Caller::PROGRAM, &init).unwrap();
    // It has said that nothing is watched, which is not moved.
    let dir = guest.lookup(ROOT, "dir");
    let mut destination = source.second();
    let mut guest = migrate(guest, &destination);
    let watch = Request { opcode: FUSE_FSNOTIFY, nodeid: dir, body: vec![0; 16] };
    assert_eq!(guest.send(Caller::PROGRAM, &watch), Err(Errno::NOSYS));
    destination.run("touch dir/made");
    let made = std::iter::from_fn(|| Some(guest.notification().1))
        .find(|told| told.name.as_ref().is_some_and(|name| name.as_bytes() == b"made"));
    assert!(made.is_some_and(|made| made.mask.contains(Mask::CREATE)));
}
