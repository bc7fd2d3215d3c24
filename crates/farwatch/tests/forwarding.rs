// SPDX-License-Identifier: Apache-2.0 OR MIT
//! For a request of each kind the interposer gives the answer that the bare file server gives. That it
//! has every method of the library's trait is checked by the compiler (`missing_trait_methods`).
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

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use farwatch::fs::Interposer;
use farwatch::share::Share;
use guest::{Caller, Guest, ROOT, fh, nodeid};
use requests::{Request, file_type, open_flags, rename_flags};
use rustix::io::Errno;
use served::{Served, passthrough, shared_dir, skip_without_root};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::fuse::Opcode;

/// What the library answers ENOSYS to, whatever is behind it.
const NOT_IN_THE_LIBRARY: [&str; 8] =
    ["bmap", "getlk", "ioctl", "notify_reply", "poll", "setlk", "setlkw", "tmpfile"];

/// What a file system answered: which method was meant, and how many bytes came, or the error.
type Answers = Vec<(&'static str, Result<usize, Errno>)>;

/// Sends requests and notes the answers.
struct Asking {
    guest: Guest,
    answers: Answers,
}

impl Asking {
    fn ask(&mut self, method: &'static str, request: &Request) -> Option<Vec<u8>> {
        let reply = self.guest.send(Caller::PROGRAM, request);
        self.answers.push((method, reply.as_ref().map(Vec::len).map_err(|error| *error)));
        reply.ok()
    }

    /// What must succeed, since more depends on it.
    fn get(&mut self, method: &'static str, request: &Request) -> Vec<u8> {
        self.ask(method, request).unwrap_or_else(|| panic!("{method}: {request:?}"))
    }

    fn entry(&mut self, dir: u64, name: &str) -> u64 {
        nodeid(&self.get("lookup", &requests::lookup(dir, name)))
    }
}

fn populate(share: &Path) {
    fs::write(share.join("file"), "hello, guest").unwrap();
    fs::write(share.join("other"), "hello, other guest").unwrap();
    fs::create_dir(share.join("dir")).unwrap();
    fs::write(share.join("dir/inner"), "").unwrap();
    symlink("file", share.join("link")).unwrap();
}

/// A request of every kind, in an order in which each makes sense.
fn ask_everything<F>(served: &Served<F>) -> Answers
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let mut asking = Asking { guest: served.connect(), answers: Vec::new() };
    asking.ask("lookup", &requests::lookup(ROOT, "file"));
    asking.get("init", &requests::init(guest::INIT_EXT));
    ask_of_entries(&mut asking);
    ask_of_directories(&mut asking);
    ask_of_files(&mut asking);
    ask_to_forget(&mut asking);
    for (method, opcode) in [
        ("bmap", Opcode::Bmap),
        ("getlk", Opcode::Getlk),
        ("ioctl", Opcode::Ioctl),
        ("notify_reply", Opcode::NotifyReply),
        ("poll", Opcode::Poll),
        ("setlk", Opcode::Setlk),
        ("setlkw", Opcode::Setlkw),
        ("tmpfile", Opcode::TmpFile),
    ] {
        asking.ask(method, &requests::opaque(opcode, ROOT));
    }
    asking.ask("destroy", &requests::opaque(Opcode::Destroy, 0));
    asking.ask("getattr", &requests::getattr(ROOT));
    asking.answers
}

fn ask_of_entries(asking: &mut Asking) {
    let (file, dir) = (asking.entry(ROOT, "file"), asking.entry(ROOT, "dir"));
    let link = asking.entry(ROOT, "link");
    for (method, request) in [
        ("lookup", requests::lookup(ROOT, "nothing")),
        ("lookup", requests::lookup(file, "below a file")),
        ("lookup", requests::lookup(99, "file")),
        ("lookup", requests::lookup(ROOT, &"n".repeat(255))),
        ("lookup", requests::lookup(ROOT, &"n".repeat(256))),
        ("mkdir", requests::mkdir(ROOT, &"n".repeat(256))),
        ("unlink", requests::unlink(ROOT, &"n".repeat(256))),
        ("readlink", requests::readlink(link)),
        ("readlink", requests::readlink(file)),
        ("symlink", requests::symlink(dir, "symlink")),
        ("symlink", requests::symlink(dir, "symlink")),
        ("mknod", requests::mknod(dir, "node", file_type::REGULAR | 0o600)),
        ("mknod", requests::mknod(dir, "pipe", file_type::FIFO | 0o600)),
        ("mknod", requests::mknod(dir, "pipe", file_type::FIFO | 0o600)),
        ("mkdir", requests::mkdir(dir, "subdir")),
        ("mkdir", requests::mkdir(file, "subdir")),
        ("link", requests::link(file, dir, "twin")),
        ("link", requests::link(dir, dir, "twin of a directory")),
        ("unlink", requests::unlink(dir, "node")),
        ("unlink", requests::unlink(dir, "node")),
        ("unlink", requests::unlink(dir, "subdir")),
        ("rmdir", requests::rmdir(dir, "pipe")),
        ("rmdir", requests::rmdir(ROOT, "dir")),
        ("rmdir", requests::rmdir(dir, "subdir")),
        ("rename", requests::rename((dir, "pipe"), (ROOT, "pipe"))),
        ("rename", requests::rename((dir, "pipe"), (ROOT, "pipe"))),
        ("rename", requests::rename2((dir, "twin"), (ROOT, "pipe"), rename_flags::NOREPLACE)),
        ("rename", requests::rename2((dir, "twin"), (ROOT, "pipe"), rename_flags::EXCHANGE)),
        ("rename", requests::rename2((dir, "twin"), (ROOT, "new"), rename_flags::WHITEOUT)),
    ] {
        asking.ask(method, &request);
    }
}

fn ask_of_directories(asking: &mut Asking) {
    let dir = asking.entry(ROOT, "dir");
    let handle = fh(&asking.get("opendir", &requests::opendir(dir)));
    let file = asking.entry(ROOT, "file");
    for (method, request) in [
        ("opendir", requests::opendir(file)),
        ("readdir", requests::readdir(dir, handle, 4096)),
        ("readdir", requests::readdirplus(dir, handle, 4096)),
        ("readdir", requests::readdir(dir, handle + 9, 4096)),
        ("fsyncdir", requests::fsyncdir(dir, handle)),
        ("statfs", requests::statfs(dir)),
        ("syncfs", requests::syncfs(dir)),
        ("access", requests::access(dir)),
        ("releasedir", requests::releasedir(dir, handle)),
        ("releasedir", requests::releasedir(dir, handle)),
    ] {
        asking.ask(method, &request);
    }
}

fn ask_of_files(asking: &mut Asking) {
    let (file, other) = (asking.entry(ROOT, "file"), asking.entry(ROOT, "other"));
    let handle = fh(&asking.get("open", &requests::open(file, open_flags::RDWR)));
    let handle_2 = fh(&asking.get("open", &requests::open(other, open_flags::RDWR)));
    let created = asking.get("create", &requests::create(ROOT, "created", open_flags::RDWR));
    assert_eq!(created.len(), 144);
    let all = requests::fattr::MODE | requests::fattr::SIZE | requests::fattr::MTIME_NOW;
    for (method, request) in [
        ("open", requests::open(99, open_flags::RDONLY)),
        ("create", requests::create(ROOT, "file", open_flags::EXCL)),
        ("getattr", requests::getattr(file)),
        ("getattr", requests::getattr(99)),
        ("write", requests::write(file, handle, b"HELLO")),
        ("write", requests::write(file, handle + 9, b"HELLO")),
        ("read", requests::read(file, handle, 4096)),
        ("read", requests::read(file, handle + 9, 4096)),
        ("lseek", requests::lseek(file, handle)),
        ("copyfilerange", requests::copy_file_range((other, handle_2), (file, handle))),
        ("copyfilerange", requests::copy_file_range((other, handle_2), (file, handle + 9))),
        ("fallocate", requests::fallocate(file, handle)),
        ("fsync", requests::fsync(file, handle)),
        ("setattr", requests::setattr(file, all, 0)),
        ("setattr", requests::setattr(file, all | requests::fattr::FH, handle)),
        ("setattr", requests::setattr(99, all, 0)),
        ("setxattr", requests::setxattr(file, "user.colour", b"blue")),
        ("getxattr", requests::getxattr(file, "user.colour", 0)),
        ("getxattr", requests::getxattr(file, "user.colour", 100)),
        ("getxattr", requests::getxattr(file, "user.colour", 1)),
        ("listxattr", requests::listxattr(file, 100)),
        ("removexattr", requests::removexattr(file, "user.colour")),
        ("removexattr", requests::removexattr(file, "user.colour")),
        ("flush", requests::flush(file, handle)),
        ("release", requests::release(file, handle)),
        ("flush", requests::flush(file, handle)),
        ("release", requests::release(file, handle)),
    ] {
        asking.ask(method, &request);
    }
}

/// FORGET has no reply: whether it has come shows in the next request.
fn ask_to_forget(asking: &mut Asking) {
    let inner = {
        let dir = asking.entry(ROOT, "dir");
        asking.entry(dir, "inner")
    };
    asking.ask("getattr", &requests::getattr(inner));
    // READDIRPLUS has named it too.
    asking.ask("forget", &requests::forget(inner, 1));
    asking.ask("getattr", &requests::getattr(inner));
    asking.ask("batch_forget", &requests::batch_forget(&[inner]));
    asking.ask("getattr", &requests::getattr(inner));
}

#[test]
fn a_request_of_every_kind_has_the_answer_of_the_bare_file_server() {
    if skip_without_root() {
        return;
    }
    let bare = shared_dir(populate);
    let fs = passthrough(&bare);
    let expected = ask_everything(&Served::new(bare, fs, Arc::new(Share::new(None))));

    let dir = shared_dir(populate);
    let share = Arc::new(Share::new(None));
    let root = dir.path().join("share");
    let fs = Interposer::new(passthrough(&dir), Arc::clone(&share), &root, true);
    let answers = ask_everything(&Served::new(dir, fs, share));

    for (n, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
        assert_eq!(answer, expected, "request {n}");
    }
    let asked: BTreeSet<_> = expected.iter().map(|(method, _)| *method).collect();
    // Forwarded, and not the trait's own answer on both sides.
    let implemented: BTreeSet<_> = expected
        .iter()
        .filter(|(_, answer)| *answer != Err(Errno::NOSYS))
        .map(|(method, _)| *method)
        .collect();
    let missing: Vec<_> = asked.difference(&implemented).copied().collect();
    assert_eq!(missing, NOT_IN_THE_LIBRARY);
}
