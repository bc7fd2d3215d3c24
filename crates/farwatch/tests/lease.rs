// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long a reply may be kept (`--cache events`): for the lease where an agent is told of each change, and for as long
//! as the file server says elsewhere.
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
use std::time::Duration;

use farwatch_testkit::Submount;
use guest::{Caller, Guest, ROOT, le32, le64, nodeid};
use rustix::io::Errno;
use served::{Host, skip_without_root};

const LEASE: u64 = 1000;
/// What the file server says (`virtiofsd::passthrough::Config`).
const BRIEF: u64 = 5;
/// `FOPEN_KEEP_CACHE` and `FOPEN_CACHE_DIR` of `linux/fuse.h`.
const KEEP_CACHE: u32 = 1 << 1;
const CACHE_DIR: u32 = 1 << 3;

fn populate(share: &Path) {
    fs::create_dir(share.join("dir")).unwrap();
    fs::write(share.join("file"), "").unwrap();
    fs::write(share.join("linked"), "").unwrap();
    fs::hard_link(share.join("linked"), share.join("dir/link")).unwrap();
}

/// A host that gives leases, and a guest that has mounted.
fn leasing() -> (Host, Guest) {
    let host = Host::leasing(populate, Duration::from_secs(LEASE));
    let guest = host.mount();
    (host, guest)
}

/// How long an entry, and the attributes with it, may be kept.
fn kept(guest: &mut Guest, dir: u64, name: &str) -> (u64, u64) {
    let entry = guest.ask(&requests::lookup(dir, name));
    (le64(&entry, 16), le64(&entry, 24))
}

fn attributes_kept(guest: &mut Guest, node: u64) -> u64 {
    le64(&guest.ask(&requests::getattr(node)), 0)
}

/// The flags of the reply to an OPEN or OPENDIR, which come behind the file handle.
fn flags(opened: &[u8]) -> u32 {
    le32(opened, 8)
}

#[test]
fn replies_are_kept_for_the_lease_while_an_agent_listens() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest) = leasing();
    assert_eq!(kept(&mut guest, ROOT, "file"), (BRIEF, BRIEF), "nobody tells");
    guest.attach();
    for name in ["file", "dir"] {
        assert_eq!(kept(&mut guest, ROOT, name), (LEASE, LEASE), "{name}");
    }
    let file = guest.lookup(ROOT, "file");
    assert_eq!(attributes_kept(&mut guest, file), LEASE);
    assert_eq!(attributes_kept(&mut guest, ROOT), LEASE);
}

#[test]
fn attributes_of_a_file_with_a_name_that_the_guest_does_not_know_are_kept_briefly() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest) = leasing();
    guest.attach();
    assert_eq!(kept(&mut guest, ROOT, "linked"), (LEASE, BRIEF));
    let dir = guest.lookup(ROOT, "dir");
    assert_eq!(kept(&mut guest, dir, "link"), (LEASE, LEASE));
}

#[test]
fn name_that_is_missing_is_kept_so_while_an_agent_listens() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest) = leasing();
    let missing = requests::lookup(ROOT, "missing");
    let reply = guest.send(Caller::PROGRAM, &missing);
    assert_eq!(reply.err(), Some(Errno::NOENT));
    guest.attach();
    let entry = guest.ask(&missing);
    assert_eq!((nodeid(&entry), le64(&entry, 16)), (0, LEASE));
}

#[test]
fn content_and_listings_are_kept_while_the_guest_is_in_step() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest) = leasing();
    let file = guest.lookup(ROOT, "file");
    assert_eq!(flags(&guest.ask(&requests::open(file, 0))) & KEEP_CACHE, 0, "nobody tells");
    guest.attach();
    assert_eq!(flags(&guest.ask(&requests::open(file, 0))) & KEEP_CACHE, KEEP_CACHE);
    let listing = CACHE_DIR | KEEP_CACHE;
    assert_eq!(flags(&guest.ask(&requests::opendir(ROOT))) & listing, listing);
}

#[test]
fn content_is_not_kept_while_events_are_to_come() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = leasing();
    guest.attach();
    let file = guest.lookup(ROOT, "file");
    // The agent has no buffer for the event.
    host.run("echo written >file");
    assert_eq!(flags(&guest.ask(&requests::open(file, 0))) & KEEP_CACHE, 0);
}

#[test]
fn content_of_an_announced_mount_is_cached_briefly() {
    if skip_without_root() {
        return;
    }
    let mut mounted = None;
    let host = Host::leasing(
        |share| {
            populate(share);
            mounted = Some(Submount::tmpfs(&share.join("dir")).unwrap());
            fs::create_dir(share.join("dir/sub")).unwrap();
            fs::write(share.join("dir/sub/file"), "").unwrap();
        },
        Duration::from_secs(LEASE),
    );
    for (announced, expected) in [(false, LEASE), (true, BRIEF)] {
        if announced {
            host.share.announce_submounts();
        }
        let mut guest = host.mount();
        guest.attach();
        let dir = guest.lookup(ROOT, "dir");
        let sub = guest.lookup(dir, "sub");
        assert_eq!(kept(&mut guest, sub, "file"), (expected, expected), "announced: {announced}");
        assert_eq!(kept(&mut guest, ROOT, "file"), (LEASE, LEASE));
    }
    drop((host, mounted));
}
