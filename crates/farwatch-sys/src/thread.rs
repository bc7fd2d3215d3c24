// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What belongs to one thread and not to the process: credentials, capabilities, working directory
//! and umask, and if it wants so its descriptors. Threads that replay or serve call this on
//! themselves before they work.
//!
//! "At the kernel level, user IDs and group IDs are a per-thread attribute" (credentials(7)), and so
//! are capabilities. The C library copies a `setuid` to all threads (nptl(7)), but neither setfsuid
//! nor setfsgid nor capset, so these act on the caller alone.
//!
//! A fsuid that changes "from 0 to nonzero" clears CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH,
//! CAP_FOWNER, CAP_FSETID, CAP_LINUX_IMMUTABLE, CAP_MAC_OVERRIDE and CAP_MKNOD from the effective set
//! (capabilities(7)). They stay permitted, and [`keep_capabilities`] makes them effective again.

// UNSAFETY: rustix has no setfsuid; unsharing descriptors is unsafe there for the reason that
// unshare_files() documents.
#![expect(unsafe_code, reason = "setfsuid, setfsgid and unshare")]

use rustix::io::Errno;
pub use rustix::thread::CapabilitySet;
use rustix::thread::{
    CapabilitySets, UnshareFlags, capabilities, remove_capability_from_bounding_set,
    set_capabilities, unshare_unsafe,
};

use crate::error::Error;

/// The calling thread's id, which is what a FUSE server sees as `fuse_in_header.pid`.
pub fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

/// Sets the user id that the calling thread's file accesses have (`setfsuid(2)`).
///
/// # Errors
/// When it has no effect: the thread lacks CAP_SETUID, the user namespace does not map the id, or
/// it is `u32::MAX`, which is no id.
pub fn set_fsuid(uid: u32) -> Result<(), Error> {
    // SAFETY: setfsuid(2) takes an integer, touches no memory, and changes the calling thread only.
    unsafe { libc::setfsuid(uid) };
    // setfsuid(2): "the caller must resort to looking at the return value from a further call such
    // as setfsuid(-1) (which will always fail)".
    // SAFETY: as above.
    let now = unsafe { libc::setfsuid(u32::MAX) };
    if now.cast_unsigned() == uid { Ok(()) } else { Err(Error::SetFsuid(uid)) }
}

/// Sets the group id that the calling thread's file accesses have (`setfsgid(2)`).
///
/// # Errors
/// As [`set_fsuid`], with CAP_SETGID.
pub fn set_fsgid(gid: u32) -> Result<(), Error> {
    // SAFETY: setfsgid(2) takes an integer, touches no memory, and changes the calling thread only.
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above; like setfsuid(-1) the call changes nothing and returns the current id.
    let now = unsafe { libc::setfsgid(u32::MAX) };
    if now.cast_unsigned() == gid { Ok(()) } else { Err(Error::SetFsgid(gid)) }
}

/// Takes from the calling thread, and from what it starts, every capability that is not in `keep`, for good: a program
/// that it executes does not get them back. Those of `keep` that it has become effective (`capset(2)`). Called in a
/// thread before it starts others.
///
/// # Errors
/// Only where a seccomp filter or security module forbids the calls.
pub fn keep_capabilities(keep: CapabilitySet) -> Result<(), Error> {
    let has = capabilities(None).map_err(Error::Capget)?;
    if has.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all() {
            // EINVAL: this kernel does not have it yet.
            match remove_capability_from_bounding_set(capability) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(source) => return Err(Error::Capset { effective: keep, source }),
            }
        }
    }
    let effective = has.permitted.intersection(keep);
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective, permitted: effective, inheritable })
        .map_err(|source| Error::Capset { effective, source })
}

/// True when all of `wanted` are effective in the calling thread (`capget(2)`).
///
/// # Errors
/// Only where a seccomp filter or security module forbids the call.
pub fn has_capability(wanted: CapabilitySet) -> Result<bool, Error> {
    Ok(capabilities(None).map_err(Error::Capget)?.effective.contains(wanted))
}

/// Gives the calling thread its own root, working directory and umask (`unshare(2)`, CLONE_FS).
///
/// # Errors
/// ENOMEM, and EPERM under a seccomp filter.
pub fn unshare_fs() -> Result<(), Error> {
    // SAFETY: unshare_unsafe() asks for care with descriptor tables, and CLONE_FS leaves them alone.
    unsafe { unshare_unsafe(UnshareFlags::FS) }
        .map_err(|source| Error::Unshare { flags: "CLONE_FS", source })
}

/// Gives the calling thread its own descriptor table (`unshare(2)`, CLONE_FILES), a copy of the one
/// that it shared until now.
///
/// From now on a file that another thread opens is not held by this one, and one that this thread
/// closes stays open for the others. It is to be called first thing in a thread, which then hands no
/// descriptor to another: in the other table the number is another file, or none.
///
/// # Errors
/// ENOMEM, and EPERM under a seccomp filter.
pub fn unshare_files() -> Result<(), Error> {
    // SAFETY: unshare_unsafe() asks that no thread uses a descriptor of another table. That is this
    // function's contract, documented above; a breach of it uses a wrong file, not wrong memory.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }
        .map_err(|source| Error::Unshare { flags: "CLONE_FILES", source })
}
