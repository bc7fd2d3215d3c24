// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The interposer's other half: what the guest knows is watched, from the reply that makes it known
//! to the last FORGET, and what the guest did itself does not come back.
//!
//! That something is *not* told shows in the order: the notification of a later change comes first
//! ([`Host::told`]).
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

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use farwatch_proto::{Mask, NodeId};
use guest::{Caller, Guest, ROOT, Told, fh, le32, le64, nodeid};
use requests::{file_type, open_flags};
use rustix::io::Errno;
use served::{Host, skip_without_root};

/// How many directories [`populate`] makes in the root.
const DIRS: usize = 8;

fn populate(share: &Path) {
    for n in 0..DIRS {
        fs::create_dir_all(share.join(format!("dir{n}/sub"))).unwrap();
        fs::write(share.join(format!("dir{n}/file")), "").unwrap();
    }
    fs::hard_link(share.join("dir0/file"), share.join("dir1/twin")).unwrap();
}

/// A host and a guest with an agent.
fn attached() -> (Host, Guest) {
    let host = Host::new(populate);
    let mut guest = host.mount();
    guest.attach();
    (host, guest)
}

/// How many directories the kernel watches for the host.
fn marks(host: &Host) -> usize {
    let queues = host.share.backend().unwrap().fds();
    let group = (*queues[0]).as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{group}")).unwrap();
    info.lines().filter(|line| line.starts_with("fanotify ino:")).count()
}

/// How many nodes the guest knows.
fn known(host: &Host) -> usize {
    host.share.nodes_len()
}

/// Which directory and name each notification is about, and what happened.
/// Without probes, which are about nodes that nobody has.
fn entries(told: &Told) -> Vec<(u64, &str, Mask)> {
    told.iter()
        .filter(|(_, notification)| notification.node.is_some_and(|node| !node.id.is_reserved()))
        .map(|(_, notification)| {
            let name = notification.name.as_ref().map_or(&b""[..], |name| name.as_bytes());
            let node = notification.node.unwrap().id.get();
            (node, std::str::from_utf8(name).unwrap(), notification.mask)
        })
        .collect()
}

/// The nodeids of a READDIRPLUS reply, by name; 0 for the dot entries.
fn listed(mut reply: &[u8]) -> BTreeMap<String, u64> {
    let mut entries = BTreeMap::new();
    while !reply.is_empty() {
        let (entry, dirent) = reply.split_at(128);
        let namelen = le32(dirent, 16) as usize;
        let name = String::from_utf8(dirent[24..24 + namelen].to_vec()).unwrap();
        entries.insert(name, nodeid(entry));
        reply = &dirent[(24 + namelen).next_multiple_of(8)..];
    }
    entries
}

#[test]
fn change_right_after_the_reply_that_made_a_directory_known_is_reported() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    for n in 0..DIRS {
        host.run(&format!("mkdir dir{n}/before"));
        let dir = guest.lookup(ROOT, &format!("dir{n}"));
        host.run(&format!("mkdir dir{n}/after"));
        let told = host.told(&mut guest);
        assert_eq!(entries(&told), [(dir, "after", Mask::CREATE | Mask::ISDIR)]);
    }
    assert_eq!(marks(&host), 1 + DIRS);
}

#[test]
fn change_right_after_the_guest_created_a_directory_is_reported() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    let dir = nodeid(&guest.ask(&requests::mkdir(ROOT, "made")));
    host.run("mkdir made/after");
    let told = host.told(&mut guest);
    assert_eq!(entries(&told), [(dir, "after", Mask::CREATE | Mask::ISDIR)]);
}

#[test]
fn a_directory_is_watched_until_the_last_forget() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    let dir = guest.lookup(ROOT, "dir0");
    for _ in 0..4 {
        assert_eq!(guest.lookup(ROOT, "dir0"), dir);
    }
    assert_eq!((known(&host), marks(&host)), (2, 2));
    guest.ask(&requests::forget(dir, 3));
    guest.ask(&requests::batch_forget(&[dir]));
    host.run("mkdir dir0/seen");
    assert_eq!(entries(&host.told(&mut guest)), [(dir, "seen", Mask::CREATE | Mask::ISDIR)]);
    assert_eq!((known(&host), marks(&host)), (2, 2));

    guest.ask(&requests::forget(dir, 1));
    assert_eq!((known(&host), marks(&host)), (1, 1));
    host.run("mkdir dir0/unseen");
    assert_eq!(entries(&host.told(&mut guest)), []);
    assert_eq!(guest.send(Caller::PROGRAM, &requests::getattr(dir)), Err(Errno::BADF));

    // More than was given is no debt.
    guest.ask(&requests::forget(dir, 1));
    let dir = guest.lookup(ROOT, "dir0");
    host.run("mkdir dir0/seen-again");
    assert_eq!(entries(&host.told(&mut guest)), [(dir, "seen-again", Mask::CREATE | Mask::ISDIR)]);
}

#[test]
fn the_root_is_watched_from_the_mount_on_and_never_forgotten() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    guest.ask(&requests::forget(ROOT, u64::MAX));
    host.run("mkdir fresh");
    assert_eq!(entries(&host.told(&mut guest)), [(ROOT, "fresh", Mask::CREATE | Mask::ISDIR)]);
    guest.lookup(ROOT, "fresh");
}

#[test]
fn a_deleted_directory_leaves_no_mark_and_its_node_goes_with_the_last_forget() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    let dir = guest.lookup(ROOT, "dir0");
    host.run("rm -r dir0");
    assert_eq!(known(&host), 2);
    guest.ask(&requests::forget(dir, 1));
    assert_eq!((known(&host), marks(&host)), (1, 1));
    assert!(!host.told(&mut guest).is_empty());
}

#[test]
fn readdirplus_makes_entries_known_and_their_forgets_balance() {
    if skip_without_root() {
        return;
    }
    // Room for all, and for some: the last one that is looked up does not fit then.
    for (size, all) in [(0x2000, true), (700, false)] {
        let (mut host, mut guest) = attached();
        let handle = guest.opendir(ROOT);
        let reply = guest.ask(&requests::readdirplus(ROOT, handle, size));
        let mut listed = listed(&reply);
        listed.retain(|_, node| *node != 0);
        assert_eq!(listed.len() == DIRS + 1, all, "{listed:?}");
        assert!(listed.len() > 1);
        let dirs = listed.keys().filter(|name| name.starts_with("dir")).count();
        assert_eq!((known(&host), marks(&host)), (1 + listed.len(), 1 + dirs));

        let (name, dir) = listed.iter().find(|(name, _)| name.starts_with("dir")).unwrap();
        host.run(&format!("mkdir {name}/new"));
        assert_eq!(entries(&host.told(&mut guest)), [(*dir, "new", Mask::CREATE | Mask::ISDIR)]);

        let nodes: Vec<_> = listed.into_values().collect();
        guest.ask(&requests::batch_forget(&nodes));
        assert_eq!((known(&host), marks(&host)), (1, 1));
    }
}

#[test]
fn change_by_the_guest_is_not_reported_and_one_by_another_process_is() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    let (dir, dir1) = (guest.lookup(ROOT, "dir0"), guest.lookup(ROOT, "dir1"));
    let file = guest.lookup(dir, "file");
    let created = guest.ask(&requests::create(dir, "created", open_flags::RDWR));
    let (node, handle) = (nodeid(&created), fh(&created[128..]));
    for request in [
        requests::write(node, handle, b"written by the guest"),
        requests::setattr(node, requests::fattr::SIZE, 0),
        requests::setattr(file, requests::fattr::MODE | requests::fattr::MTIME_NOW, 0),
        requests::setxattr(file, "user.colour", b"blue"),
        requests::mkdir(dir, "subdir"),
        requests::symlink(dir, "link"),
        requests::mknod(dir, "pipe", file_type::FIFO | 0o644),
        requests::link(file, dir, "further"),
        requests::rename((dir, "pipe"), (dir1, "pipe")),
        requests::rename2((dir, "further"), (dir, "link"), requests::rename_flags::EXCHANGE),
        requests::unlink(dir, "link"),
        requests::rmdir(dir, "subdir"),
        requests::release(node, handle),
    ] {
        guest.ask(&request);
    }
    assert_eq!(entries(&host.told(&mut guest)), []);

    host.run("chmod 600 dir0/created; mv dir0/created dir1/moved; rm dir1/pipe");
    let told = host.told(&mut guest);
    let cookie = told[1].1.cookie;
    assert!(cookie.is_some());
    assert_eq!(told[2].1.cookie, cookie);
    assert_eq!(
        entries(&told),
        [
            (dir, "created", Mask::ATTRIB),
            (dir, "created", Mask::MOVED_FROM),
            (dir1, "moved", Mask::MOVED_TO),
            (dir1, "pipe", Mask::DELETE),
        ]
    );
    assert!(told[..3].iter().all(|(_, told)| told.child.unwrap().id.get() == node));
}

#[test]
fn s1_each_session_has_a_generation_of_its_own_in_entries_and_in_notifications() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    let mut generations = Vec::new();
    for _ in 0..3 {
        let entry = guest.ask(&requests::lookup(ROOT, "dir0"));
        let (dir, generation) = (nodeid(&entry), le64(&entry, 8));
        host.run("mkdir dir0/new; rmdir dir0/new");
        let told = host.told(&mut guest);
        assert_eq!(told.len(), 2);
        for (_, notification) in told {
            let node = notification.node.unwrap();
            assert_eq!((node.id.get(), u64::from(node.generation.0)), (dir, generation));
        }
        // The kernel gives the root 0, whatever a server says.
        host.run("chmod 750 .");
        let told = host.told(&mut guest);
        assert_eq!((told[0].1.node.unwrap().generation.0, told.len()), (0, 1));
        host.run("chmod 755 .");
        host.told(&mut guest);

        let dot = guest.ask(&requests::lookup(dir, "."));
        assert_eq!((nodeid(&dot), le64(&dot, 8)), (dir, generation));
        generations.push(generation);
        guest.init();
        guest.attach();
        assert_eq!((known(&host), marks(&host)), (1, 1));
    }
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 3, "{generations:?}");
    assert!(!generations.contains(&0));
}

#[test]
fn names_of_one_object_share_a_node_and_a_change_names_the_one_that_was_used() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    let (dir0, dir1) = (guest.lookup(ROOT, "dir0"), guest.lookup(ROOT, "dir1"));
    let file = guest.lookup(dir0, "file");
    assert_eq!(guest.lookup(dir1, "twin"), file);
    for (script, dir, name) in
        [("chmod 600 dir0/file", dir0, "file"), ("chmod 600 dir1/twin", dir1, "twin")]
    {
        host.run(script);
        let told = host.told(&mut guest);
        assert_eq!(entries(&told), [(dir, name, Mask::ATTRIB)]);
        assert_eq!(told[0].1.child.unwrap().id.get(), file);
    }
    host.run("ln dir0/file dir1/third");
    let told = host.told(&mut guest);
    let (_, link) = told.iter().find(|(_, told)| told.mask.contains(Mask::CREATE)).unwrap();
    assert_eq!((link.link, link.child.unwrap().id.get()), (true, file));

    // The references of both names count.
    guest.ask(&requests::forget(file, 1));
    assert_eq!(known(&host), 4);
    guest.ask(&requests::forget(file, 1));
    assert_eq!(known(&host), 3);
    // The change is told all the same: its directory is known.
    host.run("chmod 644 dir1/twin");
    let told = host.told(&mut guest);
    assert_eq!(entries(&told), [(dir1, "twin", Mask::ATTRIB)]);
    assert_eq!(told[0].1.child, None);
}

#[test]
fn directory_in_two_places_is_reported_for_both_nodes_and_watched_until_both_are_forgotten() {
    /// A bind mount inside the shared directory, of which nothing must be left.
    struct Mounted(std::path::PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    let share = host.served.share_dir();
    rustix::mount::mount_bind(share.join("dir0"), share.join("dir1")).unwrap();
    let _mounted = Mounted(share.join("dir1"));
    let (dir, twin) = (guest.lookup(ROOT, "dir0"), guest.lookup(ROOT, "dir1"));
    assert_ne!(dir, twin);
    assert_eq!((known(&host), marks(&host)), (3, 2));

    let created = Mask::CREATE | Mask::ISDIR;
    host.run("mkdir dir0/new");
    assert_eq!(entries(&host.told(&mut guest)), [(dir, "new", created), (twin, "new", created)]);
    guest.ask(&requests::forget(dir, 1));
    assert_eq!((known(&host), marks(&host)), (2, 2));
    host.run("mkdir dir0/newer");
    assert_eq!(entries(&host.told(&mut guest)), [(twin, "newer", created)]);
    guest.ask(&requests::forget(twin, 1));
    assert_eq!((known(&host), marks(&host)), (1, 1));
}

#[test]
fn the_control_node_is_found_by_its_handle_alone() {
    if skip_without_root() {
        return;
    }
    let (host, mut guest) = attached();
    let control = NodeId::CONTROL.get();
    let entry = guest.ask(&requests::lookup(control, "."));
    assert_eq!((nodeid(&entry), le64(&entry, 8)), (control, 0));
    for request in [
        requests::lookup(control, ".."),
        requests::lookup(control, "file"),
        requests::opendir(control),
        requests::unlink(control, "file"),
        requests::setattr(control, requests::fattr::MODE, 0),
    ] {
        let reply = guest.send(Caller::PROGRAM, &request);
        assert_eq!(reply, Err(Errno::STALE), "{request:?}");
    }
    guest.ask(&requests::forget(control, 1));
    assert_eq!(known(&host), 1);
}

#[test]
fn an_agent_finds_a_directory_where_the_guest_believes_it_to_be() {
    if skip_without_root() {
        return;
    }
    let (mut host, mut guest) = attached();
    let entry = guest.ask(&requests::lookup(ROOT, "dir0"));
    let (dir, ino) = (nodeid(&entry), le64(&entry, 40));
    // It has gone to another place; the agent has not replayed that yet.
    host.run("mv dir0 dir1/moved");
    let agent = Caller::agent(0);
    let mut ask = |request| guest.send(agent, &request).unwrap();
    assert_eq!(nodeid(&ask(requests::lookup(dir, ".."))), ROOT);
    let list = fh(&ask(requests::opendir(ROOT)));
    let listed = ask(requests::readdir(ROOT, list, 4096));
    assert_eq!((le64(&listed, 0), le32(&listed, 16)), (ino, 4));
    assert_eq!(&listed[24..28], b"dir0");
    assert_eq!(ask(requests::readdir(ROOT, list, 24)), b"", "no room for the name");
    ask(requests::releasedir(ROOT, list));
    let found = ask(requests::lookup(ROOT, "dir0"));
    assert_eq!((nodeid(&found), le64(&found, 40)), (dir, ino));
    // For a program it is gone.
    let reply = guest.send(Caller::PROGRAM, &requests::lookup(ROOT, "dir0"));
    assert_eq!(reply, Err(Errno::NOENT));
}

#[test]
fn an_offset_beyond_what_a_file_can_have_is_refused() {
    if skip_without_root() {
        return;
    }
    let (_host, mut guest) = attached();
    let dir = guest.lookup(ROOT, "dir0");
    let file = guest.lookup(dir, "file");
    let fh = guest.open(file);
    for offset in [1 << 63, u64::MAX] {
        for mut request in [requests::read(file, fh, 16), requests::write(file, fh, b"data")] {
            request.body[8..16].copy_from_slice(&u64::to_le_bytes(offset));
            assert_eq!(guest.send(Caller::PROGRAM, &request), Err(Errno::INVAL));
        }
    }
    assert!(guest.ask(&requests::read(file, fh, 16)).is_empty());
}
