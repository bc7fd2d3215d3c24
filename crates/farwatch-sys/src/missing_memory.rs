// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory shared with another process, whose file that process has made shorter. To touch what lies behind the end of the
//! file is SIGBUS, which would end this process.

// UNSAFETY: a signal handler, and a mapping that it puts in the place of another.
#![expect(unsafe_code, reason = "sigaction(2), and mmap(2) in the handler")]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::error::check;

/// Bytes of a page.
static PAGE_LEN: AtomicUsize = AtomicUsize::new(0);
static HAS_BEEN_TOUCHED: AtomicBool = AtomicBool::new(false);

/// From now on, a page of a mapping that its file does not have is an empty page of this process alone. The server of a
/// virtual machine calls this before it maps the machine's memory.
///
/// # Errors
/// Those of `sigaction(2)`.
pub fn survive_missing_memory() -> Result<(), Errno> {
    PAGE_LEN.store(rustix::param::page_size(), Ordering::Relaxed);
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are an empty mask, no flags, and SIG_DFL.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = put_empty_page as extern "C" fn(_, _, _) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: "act" points to a valid action, whose handler has the type that SA_SIGINFO asks for and calls only what
    // signal-safety(7) allows, and mmap(2), which is a system call alone.
    check(unsafe { libc::sigaction(libc::SIGBUS, action, ptr::null_mut()) })?;
    Ok(())
}

/// Whether such a page has been touched since this was asked last.
pub fn missing_memory_was_touched() -> bool {
    HAS_BEEN_TOUCHED.swap(false, Ordering::Relaxed)
}

extern "C" fn put_empty_page(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel has filled it in, and it lives as long as the handler runs.
    let info = unsafe { &*info };
    if info.si_code == libc::BUS_ADRERR {
        let page_len = PAGE_LEN.load(Ordering::Relaxed);
        // SAFETY: a SIGBUS of this code has an address.
        let page = unsafe { info.si_addr() }.map_addr(|at| at & !(page_len - 1));
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page is mapped, and has nothing: whoever touches it gets SIGBUS. What is put in its place has the
        // same length, and lives until the mapping around it is removed.
        let put = unsafe { libc::mmap(page, page_len, protection, flags, -1, 0) };
        if put != libc::MAP_FAILED {
            HAS_BEEN_TOUCHED.store(true, Ordering::Relaxed);
            return;
        }
    }
    // SAFETY: the default action takes no pointer. What caused the signal does it again, and ends the process.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::AtomicU8;

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    #[test]
    fn page_that_the_file_has_lost_is_empty_and_the_others_stay() {
        const PAGE: usize = 4096;
        survive_missing_memory().unwrap();
        let file = File::from(memfd_create("shared", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(3 * PAGE as u64).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses where.
        let mapped =
            unsafe { mmap(ptr::null_mut(), 3 * PAGE, protection, MapFlags::SHARED, &file, 0) };
        let first = mapped.unwrap().cast::<u8>();
        let at = |page: usize| {
            let byte = first.wrapping_add(page * PAGE + 7).cast::<AtomicU8>();
            // SAFETY: in the mapping, which nobody else has.
            unsafe { &*byte }
        };
        at(0).store(1, Ordering::Relaxed);
        at(1).store(2, Ordering::Relaxed);
        assert!(!missing_memory_was_touched());
        file.set_len(PAGE as u64).unwrap();
        assert_eq!(at(0).load(Ordering::Relaxed), 1);
        assert!(!missing_memory_was_touched());
        assert_eq!(at(1).load(Ordering::Relaxed), 0);
        at(2).store(3, Ordering::Relaxed);
        assert_eq!(at(2).load(Ordering::Relaxed), 3);
        assert!(missing_memory_was_touched());
        assert!(!missing_memory_was_touched());
        assert_eq!(file.metadata().unwrap().len(), PAGE as u64);
        // SAFETY: nothing points into it any more.
        unsafe { munmap(first.cast(), 3 * PAGE) }.unwrap();
    }
}
