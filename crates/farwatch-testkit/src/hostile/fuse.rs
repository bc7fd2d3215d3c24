// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The numbers of `linux/fuse.h` and `docs/PROTOCOL.md` that a server needs, spelled again here: this server must
//! be able to say what the product's types cannot.

pub(super) const LOOKUP: u32 = 1;
pub(super) const FORGET: u32 = 2;
pub(super) const GETATTR: u32 = 3;
pub(super) const SETATTR: u32 = 4;
pub(super) const SYMLINK: u32 = 6;
pub(super) const MKNOD: u32 = 8;
pub(super) const MKDIR: u32 = 9;
pub(super) const UNLINK: u32 = 10;
pub(super) const RMDIR: u32 = 11;
pub(super) const RENAME: u32 = 12;
pub(super) const LINK: u32 = 13;
pub(super) const OPEN: u32 = 14;
pub(super) const READ: u32 = 15;
pub(super) const WRITE: u32 = 16;
pub(super) const RELEASE: u32 = 18;
pub(super) const FLUSH: u32 = 25;
pub(super) const INIT: u32 = 26;
pub(super) const OPENDIR: u32 = 27;
pub(super) const READDIR: u32 = 28;
pub(super) const RELEASEDIR: u32 = 29;
pub(super) const INTERRUPT: u32 = 36;
pub(super) const BATCH_FORGET: u32 = 42;
pub(super) const RENAME2: u32 = 45;
pub(super) const FSNOTIFY: u32 = 0x4657;

pub(super) const ENOENT: i32 = 2;
pub(super) const EIO: i32 = 5;
pub(super) const ENOSYS: i32 = 38;
pub(super) const ESTALE: i32 = 116;

pub(super) const EXPORT_SUPPORT: u32 = 1 << 4;
pub(super) const INIT_EXT: u32 = 1 << 30;
/// FUSE_HAVE_FSNOTIFY, as it stands in `flags2`.
pub(super) const HAVE_FSNOTIFY2: u32 = 1 << 30;
pub(super) const FOPEN_DIRECT_IO: u32 = 1;

pub(super) const RESERVED: u64 = 0x7ffe_0000_0000_0000;
pub(super) const CONTROL: u64 = 0x7fff_ffff_0000_0001;
pub(super) const LIMBO: u64 = 0x7fff_ffff_0000_0002;
pub(super) const PROBE: u64 = RESERVED + 0x1000;
pub(super) const NOTIFY_CODE: u32 = 0x4657;
/// The shortest message, of both structs.
pub(super) const MESSAGE_MIN: usize = 64;

const WELCOME_MAGIC: u32 = 0x4557_7766;
const IN_HEADER_LEN: usize = 40;
const OUT_HEADER_LEN: u32 = 16;

/// Bytes that grow at the end, in the order of a struct's fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// What the kernel asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) nodeid: u64,
    pub(super) body: &'a [u8],
}

impl<'a> Request<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(IN_HEADER_LEN)?;
        Some(Self {
            opcode: u32_at(header, 4)?,
            unique: u64_at(header, 8)?,
            nodeid: u64_at(header, 16)?,
            body,
        })
    }

    /// The name that its body begins with.
    pub(super) fn name(&self) -> &'a [u8] {
        self.body.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A reply as it is written to `/dev/fuse`.
pub(super) fn reply(unique: u64, answer: &Result<Vec<u8>, i32>) -> Vec<u8> {
    let (error, body) = match answer {
        Ok(body) => (0, &body[..]),
        Err(errno) => (-*errno, &[][..]),
    };
    let len = OUT_HEADER_LEN.saturating_add(u32::try_from(body.len()).unwrap_or(u32::MAX));
    Bytes::default().u32(len).u32(error.cast_unsigned()).u64(unique).bytes(body).0
}

/// `fuse_init_out`
pub(super) fn init_out(minor: u32, flags2: u32) -> Vec<u8> {
    let flags = EXPORT_SUPPORT | INIT_EXT;
    let head = Bytes::default().u32(7).u32(minor).u32(0).u32(flags);
    head.u16(0).u16(0).u32(4096).u32(1).u16(0).u16(0).u32(flags2).zeros(28).0
}

/// `farwatch_welcome`: version 2, all events, both marks proved.
pub(super) fn welcome() -> Vec<u8> {
    let head = Bytes::default().u32(WELCOME_MAGIC).u16(2).u16(3).u64(0x3ff);
    head.u32(1).u32(0).u64(CONTROL).u64(LIMBO).u64(0).0
}
