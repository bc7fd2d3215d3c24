// SPDX-License-Identifier: Apache-2.0 OR MIT
//! FUSE requests as the bytes that a guest's kernel sends, one function for each opcode.
//!
//! The layouts are those of `include/uapi/linux/fuse.h`. What the reply must be is the test's to say.

use farwatch_proto::host::Ticket;
use farwatch_proto::wire::abi::FARWATCH_IOC_SYNC;
use farwatch_proto::wire::sync;
use virtiofsd::fuse::Opcode;

/// `valid` bits of SETATTR.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = ATIME | 1 << 7;
    pub(crate) const MTIME_NOW: u32 = MTIME | 1 << 8;
    pub(crate) const CTIME: u32 = 1 << 10;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// Flags of `open(2)`.
pub(crate) mod open_flags {
    pub(crate) const RDONLY: u32 = 0;
    pub(crate) const WRONLY: u32 = 1;
    pub(crate) const RDWR: u32 = 2;
    pub(crate) const CREAT: u32 = 0o100;
    pub(crate) const EXCL: u32 = 0o200;
    pub(crate) const TRUNC: u32 = 0o1000;
    pub(crate) const APPEND: u32 = 0o2000;
}

/// Flags of `renameat2(2)`.
pub(crate) mod rename_flags {
    pub(crate) const NOREPLACE: u32 = 1;
    pub(crate) const EXCHANGE: u32 = 2;
    pub(crate) const WHITEOUT: u32 = 4;
}

/// File types of `st_mode`.
pub(crate) mod file_type {
    pub(crate) const FIFO: u32 = 0o010_000;
    pub(crate) const CHAR: u32 = 0o020_000;
    pub(crate) const REGULAR: u32 = 0o100_000;
    pub(crate) const SOCKET: u32 = 0o140_000;
}

/// A request without who sends it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    pub(crate) opcode: u32,
    pub(crate) nodeid: u64,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(opcode: Opcode, nodeid: u64) -> Self {
        Self { opcode: opcode as u32, nodeid, body: Vec::new() }
    }

    fn u32(mut self, number: u32) -> Self {
        self.body.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.body.extend(number.to_le_bytes());
        self
    }

    fn name(self, name: &str) -> Self {
        self.bytes(name.as_bytes()).bytes(&[0])
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.body.extend(bytes);
        self
    }
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

/// INIT of protocol 7.38 with these flags, which are `flags | flags2 << 32`.
pub(crate) fn init(flags: u64) -> Request {
    let [low, high] =
        [flags & u64::from(u32::MAX), flags >> 32].map(|half| half.try_into().unwrap());
    Request::new(Opcode::Init, 0).u32(7).u32(38).u32(1 << 17).u32(low).u32(high).bytes(&[0; 44])
}

pub(crate) fn lookup(dir: u64, name: &str) -> Request {
    Request::new(Opcode::Lookup, dir).name(name)
}

pub(crate) fn forget(node: u64, count: u64) -> Request {
    Request::new(Opcode::Forget, node).u64(count)
}

/// FORGET of each node as often as it is there.
pub(crate) fn batch_forget(nodes: &[u64]) -> Request {
    let request = Request::new(Opcode::BatchForget, 0).u32(nodes.len().try_into().unwrap()).u32(0);
    nodes.iter().fold(request, |request, node| request.u64(*node).u64(1))
}

pub(crate) fn getattr(node: u64) -> Request {
    Request::new(Opcode::Getattr, node).u64(0).u64(0)
}

/// Every field has a value that the object does not have; `valid` says which count.
pub(crate) fn setattr(node: u64, valid: u32, fh: u64) -> Request {
    let (size, owner, second) = (3, 0, 1_000_000_000);
    Request::new(Opcode::Setattr, node)
        .u32(valid)
        .u32(0)
        .u64(fh)
        .u64(size)
        .u64(owner)
        .u64(second)
        .u64(second)
        .u64(second)
        .u32(11)
        .u32(22)
        .u32(33)
        .u32(0o4711)
        .u32(0)
        .u32(1234)
        .u32(5678)
        .u32(0)
}

pub(crate) fn readlink(node: u64) -> Request {
    Request::new(Opcode::Readlink, node)
}

pub(crate) fn symlink(dir: u64, name: &str) -> Request {
    Request::new(Opcode::Symlink, dir).name(name).name("target")
}

/// `mode` with a file type.
pub(crate) fn mknod(dir: u64, name: &str, mode: u32) -> Request {
    Request::new(Opcode::Mknod, dir).u32(mode).u32(0).u32(0o22).u32(0).name(name)
}

pub(crate) fn mkdir(dir: u64, name: &str) -> Request {
    Request::new(Opcode::Mkdir, dir).u32(0o755).u32(0o22).name(name)
}

pub(crate) fn unlink(dir: u64, name: &str) -> Request {
    Request::new(Opcode::Unlink, dir).name(name)
}

pub(crate) fn rmdir(dir: u64, name: &str) -> Request {
    Request::new(Opcode::Rmdir, dir).name(name)
}

pub(crate) fn rename(old: (u64, &str), new: (u64, &str)) -> Request {
    Request::new(Opcode::Rename, old.0).u64(new.0).name(old.1).name(new.1)
}

pub(crate) fn rename2(old: (u64, &str), new: (u64, &str), flags: u32) -> Request {
    Request::new(Opcode::Rename2, old.0).u64(new.0).u32(flags).u32(0).name(old.1).name(new.1)
}

pub(crate) fn link(node: u64, dir: u64, name: &str) -> Request {
    Request::new(Opcode::Link, dir).u64(node).name(name)
}

pub(crate) fn open(node: u64, flags: u32) -> Request {
    Request::new(Opcode::Open, node).u32(flags).u32(0)
}

pub(crate) fn read(node: u64, fh: u64, size: u32) -> Request {
    transfer(Opcode::Read, node, fh, size)
}

pub(crate) fn write(node: u64, fh: u64, data: &[u8]) -> Request {
    transfer(Opcode::Write, node, fh, len32(data)).bytes(data)
}

/// `fuse_read_in` and `fuse_write_in`, at offset 0.
fn transfer(opcode: Opcode, node: u64, fh: u64, size: u32) -> Request {
    Request::new(opcode, node).u64(fh).u64(0).u32(size).u32(0).u64(0).u32(0).u32(0)
}

pub(crate) fn statfs(node: u64) -> Request {
    Request::new(Opcode::Statfs, node)
}

pub(crate) fn release(node: u64, fh: u64) -> Request {
    Request::new(Opcode::Release, node).u64(fh).u32(0).u32(0).u64(0)
}

pub(crate) fn fsync(node: u64, fh: u64) -> Request {
    Request::new(Opcode::Fsync, node).u64(fh).u32(0).u32(0)
}

/// As without `FUSE_SETXATTR_EXT`.
pub(crate) fn setxattr(node: u64, name: &str, value: &[u8]) -> Request {
    Request::new(Opcode::Setxattr, node).u32(len32(value)).u32(0).name(name).bytes(value)
}

pub(crate) fn getxattr(node: u64, name: &str, size: u32) -> Request {
    Request::new(Opcode::Getxattr, node).u32(size).u32(0).name(name)
}

pub(crate) fn listxattr(node: u64, size: u32) -> Request {
    Request::new(Opcode::Listxattr, node).u32(size).u32(0)
}

pub(crate) fn removexattr(node: u64, name: &str) -> Request {
    Request::new(Opcode::Removexattr, node).name(name)
}

pub(crate) fn flush(node: u64, fh: u64) -> Request {
    Request::new(Opcode::Flush, node).u64(fh).u64(0).u64(0)
}

pub(crate) fn opendir(node: u64) -> Request {
    Request::new(Opcode::Opendir, node).u32(open_flags::RDONLY).u32(0)
}

pub(crate) fn readdir(node: u64, fh: u64, size: u32) -> Request {
    transfer(Opcode::Readdir, node, fh, size)
}

pub(crate) fn readdirplus(node: u64, fh: u64, size: u32) -> Request {
    transfer(Opcode::Readdirplus, node, fh, size)
}

pub(crate) fn releasedir(node: u64, fh: u64) -> Request {
    Request::new(Opcode::Releasedir, node).u64(fh).u32(0).u32(0).u64(0)
}

pub(crate) fn fsyncdir(node: u64, fh: u64) -> Request {
    Request::new(Opcode::Fsyncdir, node).u64(fh).u32(0).u32(0)
}

pub(crate) fn access(node: u64) -> Request {
    Request::new(Opcode::Access, node).u32(0o4).u32(0)
}

pub(crate) fn create(dir: u64, name: &str, flags: u32) -> Request {
    let (flags, mode) = (flags | open_flags::CREAT, file_type::REGULAR | 0o644);
    Request::new(Opcode::Create, dir).u32(flags).u32(mode).u32(0o22).u32(0).name(name)
}

pub(crate) fn fallocate(node: u64, fh: u64) -> Request {
    Request::new(Opcode::Fallocate, node).u64(fh).u64(0).u64(1 << 16).u32(0).u32(0)
}

/// The end of the data from offset 0 on (`SEEK_HOLE`).
pub(crate) fn lseek(node: u64, fh: u64) -> Request {
    Request::new(Opcode::Lseek, node).u64(fh).u64(0).u32(4).u32(0)
}

pub(crate) fn copy_file_range(from: (u64, u64), to: (u64, u64)) -> Request {
    let request = Request::new(Opcode::CopyFileRange, from.0).u64(from.1).u64(0);
    request.u64(to.0).u64(to.1).u64(1 << 16).u64(5).u64(0)
}

pub(crate) fn syncfs(node: u64) -> Request {
    Request::new(Opcode::Syncfs, node).u64(0)
}

/// The question for a barrier. The answer is behind `fuse_ioctl_out`.
pub(crate) fn ioctl_sync(node: u64, ticket: Option<Ticket>) -> Request {
    let argument = sync::ask(ticket);
    let head = Request::new(Opcode::Ioctl, node).u64(0).u32(0).u32(FARWATCH_IOC_SYNC).u64(0);
    head.u32(len32(&argument)).u32(len32(&argument)).bytes(&argument)
}

/// What the library decodes no further than to its opcode.
pub(crate) fn opaque(opcode: Opcode, node: u64) -> Request {
    Request::new(opcode, node).bytes(&[0; 80])
}
