// SPDX-License-Identifier: Apache-2.0 OR MIT
//! File handles: an object's [`Fid`], and opening an object by its handle.
//!
//! The host keys its tree by what [`fid`] gives, which is what fanotify reports; the agent opens
//! directories of its mount by [`fuse_handle`]. Nothing here remembers a handle.

// UNSAFETY: rustix has neither name_to_handle_at nor open_by_handle_at.
#![expect(unsafe_code, reason = "the calls take a structure of variable length")]

use std::ffi::{CStr, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use farwatch_proto::{Fid, Generation, Node, NodeId};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{Error, check};

/// `FILEID_INO64_GEN` of `linux/exportfs.h`: the type of [`fuse_handle`]'s handles.
pub const FUSE_HANDLE_TYPE: i32 = 0x81;

/// Names the object behind `fd`, which may be a descriptor of `O_PATH`. Needs no privilege.
///
/// # Errors
/// EOPNOTSUPP or EOVERFLOW when the file system has no file handles: overlayfs before Linux 6.6,
/// among others.
pub fn fid(fd: BorrowedFd<'_>) -> Result<Fid, Error> {
    let handle = encode(fd, c"", libc::AT_EMPTY_PATH)?.handle;
    let stat =
        rustix::fs::fstatvfs(fd).map_err(|source| Error::Fstatfs { fd: fd.as_raw_fd(), source })?;
    let [a, b, c, d, e, f, g, h] = stat.f_fsid.to_le_bytes();
    let fsid = [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])];
    handle.fid(fsid).ok_or_else(|| overflow(fd))
}

/// The node that `fd` is open on, in a FUSE mount whose server grants FUSE_EXPORT_SUPPORT. Sends no request.
///
/// # Errors
/// EOPNOTSUPP in another file system; EINVAL when it is one, and has other handles.
pub fn fuse_node(fd: BorrowedFd<'_>) -> Result<Node, Error> {
    let Encoded { handle, .. } = encode(fd, c"", libc::AT_EMPTY_PATH)?;
    let (fd, flags, source) = (fd.as_raw_fd(), libc::AT_EMPTY_PATH, Errno::INVAL);
    handle.fuse_node().ok_or(Error::NameToHandleAt { fd, flags, source })
}

/// Names the object that `name` leads to in `dir`, without opening it; a symlink is not followed.
/// `fsid` is that of the directory's [`Fid`], which is the object's too unless something is mounted
/// on the name. So it comes with the number of the mount that the object is found in, which statx(2) calls `stx_mnt_id`.
///
/// # Errors
/// As [`fid`], and what looking up a name can give.
pub fn fid_at(dir: BorrowedFd<'_>, name: &CStr, fsid: [u32; 2]) -> Result<(Fid, u64), Error> {
    let Encoded { handle, mount_id } = encode(dir, name, 0)?;
    let fid = handle.fid(fsid).ok_or_else(|| overflow(dir))?;
    Ok((fid, u64::from(mount_id.cast_unsigned())))
}

/// Opens the object that `handle` names on the file system of `mount`. Needs CAP_DAC_READ_SEARCH in
/// the first user namespace.
///
/// # Errors
/// ESTALE when the object is gone or the file system's handles only name (overlayfs), EPERM without
/// the capability, EINVAL for a handle that is empty or longer than [`Fid::HANDLE_LEN_MAX`].
pub fn open(
    mount: BorrowedFd<'_>,
    handle_type: i32,
    handle: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Error> {
    let flags = flags | OFlags::CLOEXEC;
    open_by_handle(mount, handle_type, handle, flags).map_err(|source| Error::OpenByHandleAt {
        mount: mount.as_raw_fd(),
        handle_type,
        len: handle.len(),
        flags: flags.bits(),
        source,
    })
}

/// The handle of a FUSE object, with [`FUSE_HANDLE_TYPE`], as `fuse_encode_fh()` would make it:
/// three native words, nodeid high, nodeid low, generation.
pub fn fuse_handle(node: Node) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = node.id.get().to_be_bytes();
    let words =
        [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]), node.generation.0];
    let mut handle = [0; 12];
    for (bytes, word) in handle.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    handle
}

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct FileHandle {
    handle_bytes: u32,
    handle_type: c_int,
    f_handle: [u8; Fid::HANDLE_LEN_MAX],
}

const _: () = assert!(size_of::<FileHandle>() == size_of::<libc::file_handle>() + 128);

/// What name_to_handle_at(2) gives.
struct Encoded {
    handle: FileHandle,
    mount_id: c_int,
}

impl FileHandle {
    /// `None` when the kernel claims to have written more than there was room for.
    fn fid(&self, fsid: [u32; 2]) -> Option<Fid> {
        let len = usize::try_from(self.handle_bytes).ok()?;
        Fid::new(fsid, self.handle_type, self.f_handle.get(..len)?).ok()
    }
}

impl FileHandle {
    /// What [`fuse_handle`] has made of a node.
    fn fuse_node(&self) -> Option<Node> {
        let is_node = (self.handle_type, self.handle_bytes) == (FUSE_HANDLE_TYPE, 12);
        let word = |at: usize| {
            let bytes = self.f_handle.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        let id = u64::from(word(0)?) << 32 | u64::from(word(4)?);
        let id = NodeId::new(id).filter(|_| is_node)?;
        Some(Node { id, generation: Generation(word(8)?) })
    }
}

/// fanotify asks the file system for handles that need not be openable (AT_HANDLE_FID, Linux 6.5); on
/// some file systems only such handles exist.
fn encode(fd: BorrowedFd<'_>, name: &CStr, flags: c_int) -> Result<Encoded, Error> {
    let handle = match name_to_handle(fd, name, flags | libc::AT_HANDLE_FID) {
        Err(Errno::INVAL) => name_to_handle(fd, name, flags),
        handle => handle,
    };
    handle.map_err(|source| Error::NameToHandleAt { fd: fd.as_raw_fd(), flags, source })
}

fn overflow(fd: BorrowedFd<'_>) -> Error {
    Error::NameToHandleAt { fd: fd.as_raw_fd(), flags: 0, source: Errno::OVERFLOW }
}

fn name_to_handle(fd: BorrowedFd<'_>, name: &CStr, flags: c_int) -> Result<Encoded, Errno> {
    let f_handle = [0; Fid::HANDLE_LEN_MAX];
    let mut handle = FileHandle { handle_bytes: 128, handle_type: 0, f_handle };
    let mut mount_id = 0;
    // SAFETY: open_by_handle_at(2): "It is the caller's responsibility to allocate the structure
    // with a size large enough", and "handle_bytes [...] contain[s] the allocated size for
    // f_handle": 128 bytes follow the two fields. mount_id is an int that outlives the call, and the
    // path is a C string.
    let ret = unsafe {
        libc::name_to_handle_at(
            fd.as_raw_fd(),
            name.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount_id,
            flags,
        )
    };
    check(ret)?;
    Ok(Encoded { handle, mount_id })
}

fn open_by_handle(
    mount: BorrowedFd<'_>,
    handle_type: i32,
    bytes: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let mut handle = FileHandle { handle_bytes: 0, handle_type, f_handle: [0; _] };
    handle.f_handle.get_mut(..bytes.len()).ok_or(Errno::INVAL)?.copy_from_slice(bytes);
    handle.handle_bytes = u32::try_from(bytes.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: open_by_handle_at(2) reads the handle, whose handle_bytes are all inside f_handle.
    let ret = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast(),
            flags.bits().cast_signed(),
        )
    };
    let fd = check(ret)?;
    // SAFETY: open_by_handle_at(2): "open_by_handle_at() returns a file descriptor (a nonnegative
    // integer)", which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_handle_is_nodeid_high_nodeid_low_generation() {
        let id = NodeId::new(0x1122_3344_5566_7788).unwrap();
        let handle = fuse_handle(Node { id, generation: Generation(0x99aa_bbcc) });
        let words = [0x1122_3344_u32, 0x5566_7788, 0x99aa_bbcc].map(u32::to_ne_bytes);
        assert_eq!(handle.as_slice(), words.as_flattened());
        let mut read = FileHandle { handle_bytes: 12, handle_type: 0x81, f_handle: [0; _] };
        read.f_handle[..12].copy_from_slice(&handle);
        let node = Node { id, generation: Generation(0x99aa_bbcc) };
        assert_eq!(read.fuse_node(), Some(node));
        assert_eq!(FileHandle { handle_type: 1, ..read }.fuse_node(), None);
    }
}
