// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Per-thread state against the running kernel. Each test works in a thread of its own, so that
//! nothing is left over for the others.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;
use std::thread::spawn;

use farwatch_sys::Error;
use farwatch_sys::thread::{
    CapabilitySet, has_capability, keep_capabilities, set_fsgid, set_fsuid, tid, unshare_files,
    unshare_fs,
};
use farwatch_testkit::skip_without;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;

/// A line of `/proc/<tid>/status` of the calling thread.
fn status(key: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn the_thread_id_is_the_kernels() {
    let in_thread = spawn(|| (tid().to_string(), status("Pid"))).join().unwrap();
    assert_eq!(in_thread.0, in_thread.1);
    assert_ne!(in_thread.0, tid().to_string());
}

#[test]
fn fsuid_and_fsgid_change_for_the_calling_thread_alone() {
    if skip_without(CapabilitySet::SETUID | CapabilitySet::SETGID) {
        return;
    }
    let fs_ids = |key| status(key).split_whitespace().last().unwrap().to_owned();
    let before = (fs_ids("Uid"), fs_ids("Gid"));
    spawn(move || {
        set_fsuid(0xffff_fffd).unwrap();
        set_fsgid(7).unwrap();
        assert_eq!((fs_ids("Uid"), fs_ids("Gid")), ("4294967293".to_owned(), "7".to_owned()));
    })
    .join()
    .unwrap();
    assert_eq!((fs_ids("Uid"), fs_ids("Gid")), before);
}

#[test]
fn an_id_that_cannot_be_set_is_an_error() {
    assert!(matches!(set_fsuid(u32::MAX), Err(Error::SetFsuid(u32::MAX))));
    assert_eq!(set_fsgid(u32::MAX).unwrap_err().errno(), Errno::PERM);
    if !has_capability(CapabilitySet::SETUID).unwrap() {
        assert_eq!(set_fsuid(12_345).unwrap_err().errno(), Errno::PERM);
    }
}

#[test]
fn a_marked_thread_gets_its_file_capabilities_back() {
    let wanted = CapabilitySet::DAC_READ_SEARCH | CapabilitySet::CHOWN;
    if skip_without(wanted | CapabilitySet::SETUID) {
        return;
    }
    spawn(move || {
        set_fsuid(0xffff_fffd).unwrap();
        assert!(!has_capability(wanted).unwrap());
        keep_capabilities(CapabilitySet::all()).unwrap();
        assert!(has_capability(wanted).unwrap());
        assert_eq!(status("CapEff"), status("CapPrm"));
    })
    .join()
    .unwrap();
    assert!(has_capability(wanted).unwrap());
}

#[test]
fn umask_and_working_directory_are_the_threads_own_after_unsharing() {
    let before = (status("Umask"), std::env::current_dir().unwrap());
    spawn(|| {
        unshare_fs().unwrap();
        umask(Mode::from_raw_mode(0o123));
        rustix::process::chdir("/proc").unwrap();
        assert_eq!(status("Umask"), "0123");
    })
    .join()
    .unwrap();
    assert_eq!((status("Umask"), std::env::current_dir().unwrap()), before);
}

#[test]
fn descriptors_opened_and_closed_after_unsharing_are_the_threads_own() {
    let target = |fd: i32| fs::read_link(format!("/proc/thread-self/fd/{fd}")).ok();
    let (_read, write) = io::pipe().unwrap();
    let closed = write.as_raw_fd();
    let before = target(closed);
    let (opened_tx, opened) = channel();
    let (end, ended) = channel::<()>();
    let thread = spawn(move || {
        unshare_files().unwrap();
        drop(write);
        let (read, _write) = io::pipe().unwrap();
        opened_tx.send((read.as_raw_fd(), target(read.as_raw_fd()))).unwrap();
        // The thread lives on: what it holds is not gone because it has ended.
        ended.recv().unwrap();
    });
    let (number, theirs) = opened.recv().unwrap();
    assert!(theirs.is_some());
    assert_ne!(target(number), theirs);
    assert_eq!(target(closed), before);
    end.send(()).unwrap();
    thread.join().unwrap();
}
