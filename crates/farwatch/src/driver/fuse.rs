// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `/dev/fuse` and the mount that belongs to it.
//!
//! Opening, mounting, unmounting; reading a message into shared memory and writing a reply out of
//! it. No message is interpreted here beyond its header. Used by [`super::forward`] and by the
//! session.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use farwatch_proto::wire::abi::FUSE_HAVE_FSNOTIFY2;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use vm_memory::{Bytes, ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile};

use super::error::Error;
use super::mount_watch::{MountId, MountWatch};

/// The most data that one READ or WRITE carries: `FUSE_MAX_MAX_PAGES` of `fs/fuse/fuse_i.h`.
pub(super) const DATA_LEN_MAX: usize = 1 << 20;
/// `struct fuse_in_header`, which every message begins with.
pub(super) const IN_HEADER_LEN: usize = 40;
/// `struct fuse_out_header`, which every reply begins with.
pub(super) const OUT_HEADER_LEN: usize = 16;
/// `struct fuse_write_in`, which goes before the data of a WRITE.
pub(super) const WRITE_IN_LEN: usize = 40;

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
pub(super) struct InHeader {
    /// `FUSE_LOOKUP` and so on.
    pub(super) opcode: u32,
    /// Names the request in its reply.
    pub(super) unique: u64,
    /// The uid and gid of whoever asks; those of an agent's request say that it is one.
    pub(super) ids: [u32; 2],
    /// The longest reply that the kernel takes, where the message says it. virtiofsd fills all the
    /// room that a READ gives it, so it must be given no more.
    pub(super) reply_len_max: Option<usize>,
}

impl InHeader {
    /// The head of the message in `message`.
    pub(super) fn read(message: &VolatileSlice<'_>) -> Self {
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
    pub(super) fn is_init(self) -> bool {
        self.opcode == FUSE_INIT
    }

    /// True for what goes to the hiprio queue and is never answered (virtio 1.2 §5.11.6.2).
    pub(super) fn is_hiprio(self) -> bool {
        matches!(self.opcode, FUSE_FORGET | FUSE_INTERRUPT | FUSE_BATCH_FORGET)
    }
}

/// What a read of `/dev/fuse` gave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Incoming {
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
pub(super) struct FuseDevice {
    file: File,
    /// The kernel takes notifications and raises the events itself (`FUSE_HAVE_FSNOTIFY`).
    raises: AtomicBool,
}

/// What has become of a notification that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Notified {
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
    pub(super) fn open() -> Result<Self, Error> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag of open(2)");
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/fuse");
        file.map(Self::from).map_err(Error::OpenFuse)
    }

    /// A socket that keeps messages apart in the place of `/dev/fuse`.
    #[cfg(test)]
    pub(super) fn stand_in(socket: std::os::fd::OwnedFd) -> Self {
        File::from(socket).into()
    }

    /// What the device answers to INIT. Called before the kernel gets it.
    pub(super) fn note_init(&self, reply: &VolatileSlice<'_>) {
        let granted = reply.read_obj::<u32>(4).is_ok_and(|error| error == 0)
            && reply
                .read_obj::<u32>(INIT_OUT_FLAGS2_AT)
                .is_ok_and(|flags2| flags2 & FUSE_HAVE_FSNOTIFY2 != 0);
        self.raises.store(granted, Ordering::Release);
    }

    /// Whether the kernel raises the events of notifications itself. Known when INIT has been answered.
    pub(super) fn raises(&self) -> bool {
        self.raises.load(Ordering::Acquire)
    }

    /// Writes a notification. Waits for nobody.
    pub(super) fn notify(&self, message: &[u8]) -> Notified {
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
    pub(super) fn read(&self, space: &mut VolatileSlice<'_>) -> Result<Incoming, Error> {
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
                    let source = io::Error::other(error);
                    return Err(Error::System { what: "reading /dev/fuse", source });
                }
            }
        }
    }

    /// Writes `reply`, the device's answer to the request `unique`. When the device has answered
    /// nothing, or nothing that the kernel takes, the request fails with EIO: whoever waits for it
    /// must never wait in vain.
    pub(super) fn reply(&self, unique: u64, reply: &VolatileSlice<'_>) {
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

/// The mount of a [`FuseDevice`], unmounted when this goes.
#[derive(Debug)]
pub(super) struct Mount {
    path: PathBuf,
    id: MountId,
    /// It has been taken away. From then on its id may be another mount's, which must not be
    /// unmounted in its place.
    gone: bool,
}

impl Mount {
    /// Mounts the file system behind `device` on the directory `mount_point`; `source` is what the
    /// mount table shows as its source.
    pub(super) fn new(
        device: &FuseDevice,
        mount_point: &Path,
        source: &str,
    ) -> Result<Self, Error> {
        let failed =
            |source: io::Error| Error::Mount { mount_point: mount_point.to_owned(), source };
        // default_permissions: the kernel checks modes; without it FUSE_ALLOW_IDMAP, which file
        // servers grant, makes the kernel refuse the connection. max_read: what a reply has room for.
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,\
             max_read={DATA_LEN_MAX}",
            device.as_raw_fd()
        );
        let options = CString::new(options).map_err(|error| failed(error.into()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount(source, mount_point, "fuse.farwatch", flags, options.as_c_str())
            .map_err(|errno| failed(errno.into()))?;
        match MountId::of(mount_point) {
            Ok(id) => Ok(Self { path: mount_point.to_owned(), id, gone: false }),
            Err(error) => {
                if let Err(error) = unmount(mount_point, UnmountFlags::DETACH) {
                    tracing::warn!(%error, "unmounting what could not be identified");
                }
                Err(failed(error))
            }
        }
    }

    /// Which mount it is.
    pub(super) fn id(&self) -> MountId {
        self.id
    }

    /// Unmounts; when programs still use the mount, it is taken out of sight at once and ends with
    /// the last of them, or with the connection. Nothing happens when it is gone already. May wait
    /// for the device, which then gets what is still to be written.
    pub(super) fn unmount(mut self) -> Result<(), Error> {
        self.take_away()
    }

    /// Somebody else has unmounted it: there is nothing to do any more.
    pub(super) fn was_unmounted(mut self) {
        self.gone = true;
    }

    fn take_away(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        let failed = |source| Error::Unmount { mount_point: self.path.clone(), source };
        // Looked up, since the mount may have been moved, and another one be in its place.
        let Some(path) =
            MountWatch::new(self.id).and_then(|mut at| at.mount_point()).map_err(failed)?
        else {
            return Ok(());
        };
        let outcome = unmount(&path, UnmountFlags::NOFOLLOW).or_else(|errno| {
            if errno != Errno::BUSY {
                return Err(errno);
            }
            tracing::info!(path = %path.display(), "still in use, unmounting lazily");
            unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        });
        outcome.map_err(|errno| failed(errno.into()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            tracing::warn!(%error, "unmounting");
        }
    }
}
