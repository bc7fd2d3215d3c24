// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests of every opcode that changes something, and a directory in which each of them succeeds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::XattrFlags;

use crate::guest::{Guest, ROOT};
use crate::replay::{ATTRIB, MODIFY};
use crate::requests::{self, Request, fattr, file_type, open_flags, rename_flags};

/// One object of every type, and what the requests of [`mutations`] need.
pub(crate) fn populate(share: &Path) {
    fs::write(share.join("file"), "the content of a file").unwrap();
    fs::write(share.join("other"), "of another file").unwrap();
    fs::hard_link(share.join("file"), share.join("twin")).unwrap();
    symlink("file", share.join("link")).unwrap();
    fs::create_dir(share.join("dir")).unwrap();
    fs::write(share.join("dir/inner"), "within").unwrap();
    fs::create_dir(share.join("empty")).unwrap();
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644));
    rustix::fs::mknodat(rustix::fs::CWD, share.join("pipe"), fifo, mode, 0).unwrap();
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(share.join("file"), "user.colour", b"blue", flags).unwrap();
    // Where things go to and come from that leave the guest's view, or enter it.
    let outside = share.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("stranger"), "from outside").unwrap();
}

/// A request that succeeds for a program of the guest's.
pub(crate) struct Mutation {
    pub(crate) name: &'static str,
    pub(crate) request: Request,
    /// It then changes something. Not so what only opens or flushes.
    pub(crate) changes: bool,
}

/// Every request that changes something, on the objects of [`populate`].
pub(crate) fn mutations(guest: &mut Guest) -> Vec<Mutation> {
    let mut all = of_attributes(guest);
    all.extend(of_entries(guest));
    all.extend(of_open_files(guest));
    all
}

fn changing(requests: Vec<(&'static str, Request)>) -> Vec<Mutation> {
    requests.into_iter().map(|(name, request)| Mutation { name, request, changes: true }).collect()
}

fn of_attributes(guest: &mut Guest) -> Vec<Mutation> {
    let (file, dir) = (guest.lookup(ROOT, "file"), guest.lookup(ROOT, "dir"));
    let (link, handle) = (guest.lookup(ROOT, "link"), guest.open(file));
    let owner = fattr::UID | fattr::GID;
    let times = fattr::ATIME | fattr::MTIME;
    let all = fattr::MODE | owner | fattr::SIZE | times | fattr::CTIME | fattr::KILL_SUIDGID;
    changing(vec![
        ("chmod", requests::setattr(file, fattr::MODE, 0)),
        ("chmod of a directory", requests::setattr(dir, fattr::MODE, 0)),
        ("chmod of an open file", requests::setattr(file, fattr::MODE | fattr::FH, handle)),
        ("uid", requests::setattr(file, fattr::UID, 0)),
        ("gid", requests::setattr(file, fattr::GID, 0)),
        ("chown of a link", requests::setattr(link, owner, 0)),
        ("truncate", requests::setattr(file, fattr::SIZE, 0)),
        ("ftruncate", requests::setattr(file, fattr::SIZE | fattr::FH, handle)),
        ("atime", requests::setattr(file, fattr::ATIME, 0)),
        ("mtime", requests::setattr(file, fattr::MTIME, 0)),
        ("mtime and size", requests::setattr(file, MODIFY | fattr::SIZE, 0)),
        ("mtime now", requests::setattr(file, MODIFY, 0)),
        ("times now", requests::setattr(file, ATTRIB, 0)),
        ("times now of the root", requests::setattr(ROOT, ATTRIB, 0)),
        ("everything", requests::setattr(file, all, 0)),
        ("setxattr", requests::setxattr(file, "user.size", b"big")),
        ("setxattr of another value", requests::setxattr(file, "user.colour", b"red")),
        ("removexattr", requests::removexattr(file, "user.colour")),
    ])
}

fn of_entries(guest: &mut Guest) -> Vec<Mutation> {
    let (file, dir) = (guest.lookup(ROOT, "file"), guest.lookup(ROOT, "dir"));
    let (old, new, other) = ((ROOT, "file"), (dir, "new"), (ROOT, "other"));
    let mode = 0o644;
    changing(vec![
        ("symlink", requests::symlink(dir, "new")),
        ("mknod of a file", requests::mknod(dir, "new", file_type::REGULAR | mode)),
        ("mknod of a FIFO", requests::mknod(dir, "new", file_type::FIFO | mode)),
        ("mknod of a socket", requests::mknod(dir, "new", file_type::SOCKET | mode)),
        ("mknod of a device", requests::mknod(dir, "new", file_type::CHAR | mode)),
        ("mkdir", requests::mkdir(dir, "new")),
        ("link", requests::link(file, dir, "new")),
        ("create", requests::create(dir, "new", open_flags::RDWR)),
        ("exclusive create", requests::create(dir, "new", open_flags::WRONLY | open_flags::EXCL)),
        (
            "create over a file",
            requests::create(ROOT, "file", open_flags::WRONLY | open_flags::TRUNC),
        ),
        ("unlink", requests::unlink(ROOT, "file")),
        ("unlink of a link", requests::unlink(ROOT, "link")),
        ("unlink of a FIFO", requests::unlink(ROOT, "pipe")),
        ("rmdir", requests::rmdir(ROOT, "empty")),
        ("rename", requests::rename(old, new)),
        ("rename over a file", requests::rename(old, other)),
        ("rename of a directory", requests::rename((ROOT, "dir"), (ROOT, "new"))),
        ("rename2", requests::rename2(old, new, 0)),
        ("rename without replacing", requests::rename2(old, new, rename_flags::NOREPLACE)),
        ("exchange", requests::rename2(old, other, rename_flags::EXCHANGE)),
        ("rename with a whiteout", requests::rename2(old, new, rename_flags::WHITEOUT)),
    ])
}

fn of_open_files(guest: &mut Guest) -> Vec<Mutation> {
    use open_flags::{APPEND, RDONLY, RDWR, TRUNC, WRONLY};
    let (file, dir) = (guest.lookup(ROOT, "file"), guest.lookup(ROOT, "dir"));
    let other = guest.lookup(ROOT, "other");
    // Opened by a program; the mark counts when they are used.
    let (handle, handle_2) = (guest.open(file), guest.open(other));
    let dir_handle = guest.opendir(dir);
    let of = |name, request, changes| Mutation { name, request, changes };
    vec![
        of("open for writing", requests::open(file, WRONLY), false),
        of("open for both", requests::open(file, RDWR), false),
        of("open for appending", requests::open(file, WRONLY | APPEND), false),
        of("open and truncate", requests::open(file, WRONLY | TRUNC), true),
        of("open for reading and truncate", requests::open(file, RDONLY | TRUNC), true),
        of("write", requests::write(file, handle, b"spoilt"), true),
        of("fallocate", requests::fallocate(file, handle), true),
        of("copy_file_range", requests::copy_file_range((other, handle_2), (file, handle)), true),
        of("fsync", requests::fsync(file, handle), false),
        of("fsyncdir", requests::fsyncdir(dir, dir_handle), false),
        of("flush", requests::flush(file, handle), false),
        of("syncfs", requests::syncfs(ROOT), false),
    ]
}
