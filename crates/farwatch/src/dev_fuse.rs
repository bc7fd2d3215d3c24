// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `/dev/fuse`: a FUSE connection to this machine's kernel.
//!
//! It reads a message into memory and writes a reply out of it; no message is interpreted here beyond its header. The
//! device of `farwatch mount` serves a connection itself; with `--socket` the driver forwards the messages to a device
//! that it does not know.

mod counts;
mod handoff;
mod slot;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use farwatch_proto::wire::abi::FUSE_HAVE_FSNOTIFY2;
use rustix::fs::OFlags;
use rustix::io::Errno;
use thiserror::Error;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{Bytes, ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile};

pub use self::counts::Counts;
pub(crate) use self::handoff::Handoff;
pub(crate) use self::slot::{MESSAGE_AT, MESSAGE_LEN_MAX, PAGE_LEN, SLOT_LEN, reply_at};

/// What can go wrong with a FUSE connection.
#[derive(Debug, Error)]
pub enum Error {
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open /dev/fuse: load the module `fuse`, and run as root")]
    Open(#[source] io::Error),
    /// The kernel has a message that fits no buffer of ours: the device asked for larger ones.
    #[error("the device negotiated FUSE messages larger than {0} bytes")]
    MessageTooLong(usize),
    /// `read(2)` failed in a way that it should not.
    #[error("reading /dev/fuse")]
    Read(#[source] io::Error),
}

/// The most data that one READ or WRITE carries: `FUSE_MAX_MAX_PAGES` of `fs/fuse/fuse_i.h`.
pub(crate) const DATA_LEN_MAX: usize = 1 << 20;
/// `struct fuse_in_header`, which every message begins with.
pub(crate) const IN_HEADER_LEN: usize = 40;
/// `struct fuse_out_header`, which every reply begins with.
pub(crate) const OUT_HEADER_LEN: usize = 16;
/// `struct fuse_write_in`, which goes before the data of a WRITE.
pub(crate) const WRITE_IN_LEN: usize = 40;

const FUSE_FORGET: u32 = 2;
const FUSE_INIT: u32 = 26;
/// Where `flags2` is in the reply to INIT.
const INIT_OUT_FLAGS2_AT: usize = OUT_HEADER_LEN + 32;
const FUSE_READ: u32 = 15;
const FUSE_READDIR: u32 = 28;
const FUSE_INTERRUPT: u32 = 36;
const FUSE_BATCH_FORGET: u32 = 42;
const FUSE_READDIRPLUS: u32 = 44;
/// Where `uid` is in every message, before `gid`.
const UID_AT: usize = 24;
/// Where `size` is in a message with a `struct fuse_read_in`.
const READ_IN_SIZE_AT: usize = IN_HEADER_LEN + 16;

/// What is needed of the head of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InHeader {
    /// `FUSE_LOOKUP` and so on.
    pub(crate) opcode: u32,
    /// Names the request in its reply.
    pub(crate) unique: u64,
    /// The uid and gid of whoever asks; those of an agent's request say that it is one.
    pub(crate) ids: [u32; 2],
    /// The longest reply that the kernel takes, where the message says it. virtiofsd fills all the
    /// room that a READ gives it, so it must be given no more.
    pub(crate) reply_len_max: Option<usize>,
}

impl InHeader {
    /// The head of the message in `message`.
    pub(crate) fn read<B: BitmapSlice>(message: &VolatileSlice<'_, B>) -> Self {
        let opcode: u32 = message.read_obj(4).expect("a message has a header");
        let unique: u64 = message.read_obj(8).expect("a message has a header");
        let ids: [u32; 2] = message.read_obj(UID_AT).expect("a message has a header");
        let reply_len_max = matches!(opcode, FUSE_READ | FUSE_READDIR | FUSE_READDIRPLUS)
            .then(|| message.read_obj::<u32>(READ_IN_SIZE_AT).ok())
            .flatten()
            .and_then(|size| usize::try_from(size).ok()?.checked_add(OUT_HEADER_LEN));
        Self { opcode, unique, ids, reply_len_max }
    }

    /// Whether its reply says what the kernel and the device agree upon.
    pub(crate) fn is_init(self) -> bool {
        self.opcode == FUSE_INIT
    }

    /// True for what goes to the hiprio queue and is never answered (virtio 1.2 §5.11.6.2).
    pub(crate) fn is_hiprio(self) -> bool {
        matches!(self.opcode, FUSE_FORGET | FUSE_INTERRUPT | FUSE_BATCH_FORGET)
    }
}

/// What a read of `/dev/fuse` gave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Incoming {
    /// A message of that many bytes.
    Message(usize),
    /// There is none now.
    Nothing,
    /// The file system is unmounted, or its connection was aborted.
    Gone,
}

/// The FUSE connection. The last clone of the `Arc` around it to go ends the connection, and with
/// it every request that still waits (`fuse_dev_release()`).
#[derive(Debug)]
pub(crate) struct FuseDevice {
    file: File,
    /// The kernel takes notifications and raises the events itself (`FUSE_HAVE_FSNOTIFY`).
    raises: AtomicBool,
}

/// What has become of a notification that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notified {
    /// The kernel has it.
    Taken,
    /// Too many wait to be raised already.
    Full,
    /// It is none that the kernel takes.
    Refused,
    /// The file system is unmounted, or its connection was aborted.
    Gone,
}

impl FuseDevice {
    /// Opens `/dev/fuse`.
    pub(crate) fn open() -> Result<Self, Error> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag of open(2)");
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/fuse");
        file.map(Self::from).map_err(Error::Open)
    }

    /// What the device answers to INIT. Called before the kernel gets it.
    pub(crate) fn note_init<B: BitmapSlice>(&self, reply: &VolatileSlice<'_, B>) {
        let granted = reply.read_obj::<u32>(4).is_ok_and(|error| error == 0)
            && reply
                .read_obj::<u32>(INIT_OUT_FLAGS2_AT)
                .is_ok_and(|flags2| flags2 & FUSE_HAVE_FSNOTIFY2 != 0);
        self.raises.store(granted, Ordering::Release);
    }

    /// Whether the kernel raises the events of notifications itself. Known when INIT has been answered.
    pub(crate) fn raises(&self) -> bool {
        self.raises.load(Ordering::Acquire)
    }

    /// Writes a notification. Waits for nobody.
    pub(crate) fn notify(&self, message: &[u8]) -> Notified {
        match rustix::io::write(&self.file, message) {
            Ok(_) => Notified::Taken,
            Err(Errno::AGAIN) => Notified::Full,
            Err(Errno::NODEV | Errno::CONNABORTED) => Notified::Gone,
            Err(error) => {
                tracing::debug!(%error, "the kernel refused a notification");
                Notified::Refused
            }
        }
    }

    /// Reads one message into `space`.
    pub(crate) fn read<B: BitmapSlice>(
        &self,
        space: &mut VolatileSlice<'_, B>,
    ) -> Result<Incoming, Error> {
        loop {
            let error = match (&self.file).read_volatile(space) {
                Ok(len) if len >= IN_HEADER_LEN => return Ok(Incoming::Message(len)),
                Ok(_) => return Ok(Incoming::Gone),
                Err(error) => error,
            };
            match errno(&error) {
                // ENOENT: the request was aborted while the kernel handed it out.
                Some(Errno::INTR | Errno::NOENT) => {}
                Some(Errno::AGAIN) => return Ok(Incoming::Nothing),
                Some(Errno::NODEV | Errno::CONNABORTED) => return Ok(Incoming::Gone),
                Some(Errno::INVAL) => return Err(Error::MessageTooLong(space.len())),
                _ => {
                    return Err(Error::Read(io::Error::other(error)));
                }
            }
        }
    }

    /// Writes `reply`, the device's answer to the request `unique`. When the device has answered
    /// nothing, or nothing that the kernel takes, the request fails with EIO: whoever waits for it
    /// must never wait in vain.
    pub(crate) fn reply<B: BitmapSlice>(&self, unique: u64, reply: &VolatileSlice<'_, B>) {
        let answered =
            reply.len() >= OUT_HEADER_LEN && reply.read_obj::<u64>(8).ok() == Some(unique);
        if !answered {
            tracing::debug!(unique, len = reply.len(), "the device did not answer a request");
        } else if let Err(error) = (&self.file).write_volatile(reply) {
            // ENOENT: the caller was killed meanwhile, nobody waits.
            if errno(&error) == Some(Errno::NOENT) {
                tracing::trace!(unique, "reply to an interrupted request");
                return;
            }
            tracing::debug!(unique, %error, "the kernel refused the device's reply");
        } else {
            return;
        }
        if let Err(error) = rustix::io::write(&self.file, &failure(unique, Errno::IO)) {
            tracing::trace!(unique, %error, "failing a request that nobody waits for");
        }
    }
}

impl From<File> for FuseDevice {
    fn from(file: File) -> Self {
        Self { file, raises: AtomicBool::new(false) }
    }
}

impl From<OwnedFd> for FuseDevice {
    fn from(fd: OwnedFd) -> Self {
        File::from(fd).into()
    }
}

impl AsFd for FuseDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for FuseDevice {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

/// A reply without body: `struct fuse_out_header` with a negative errno.
fn failure(unique: u64, errno: Errno) -> [u8; OUT_HEADER_LEN] {
    let mut reply = [0; OUT_HEADER_LEN];
    reply[0] = 16;
    reply[4..8].copy_from_slice(&(-errno.raw_os_error()).to_ne_bytes());
    reply[8..].copy_from_slice(&unique.to_ne_bytes());
    reply
}

fn errno(error: &VolatileMemoryError) -> Option<Errno> {
    let VolatileMemoryError::IOError(error) = error else { return None };
    Errno::from_io_error(error)
}
