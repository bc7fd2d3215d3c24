// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fanotify group and the file handles against the running kernel. The tests need no privilege;
//! what they expect follows from the level that the group says it has.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use farwatch_proto::{Fid, Mask};
use farwatch_sys::fanotify::{
    DirRecord, EVENT_LEN_MAX, FAN_DELETE_SELF, FAN_EVENT_ON_CHILD, FAN_ONDIR, FAN_RENAME, Fanotify,
    Record, records,
};
use farwatch_sys::thread::{CapabilitySet, has_capability};
use farwatch_sys::{handle, kernel};
use farwatch_testkit::skip;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// A temporary directory, the descriptor that names it, and a group.
struct Setup {
    tmp: tempfile::TempDir,
    dir: OwnedFd,
    group: Fanotify,
}

impl Setup {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let dir = open_path(tmp.path());
        Self { tmp, dir, group: Fanotify::open().unwrap() }
    }

    fn mark(&self, mask: u64) {
        self.group.mark(self.dir.as_fd(), mask).unwrap();
    }

    /// Waits until there is something to read and gives what `pick` makes of each record.
    fn read<T>(&self, pick: impl Fn(&Record<'_>) -> T) -> Vec<T> {
        let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.group, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "no event in 10 s");
        let mut buf = [0; 8 * EVENT_LEN_MAX];
        let len = self.group.read(&mut buf).unwrap();
        records(&buf[..len]).map(|record| pick(&record.unwrap())).collect()
    }
}

fn open_path(path: &Path) -> OwnedFd {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn fid_of(path: &Path) -> Fid {
    handle::fid(open_path(path).as_fd()).unwrap()
}

fn owned(dir: &DirRecord<'_>) -> (Fid, Vec<u8>) {
    (dir.fid.clone(), dir.name.to_vec())
}

fn dir_name(record: &Record<'_>) -> (Fid, Vec<u8>) {
    owned(record.dir.as_ref().unwrap())
}

#[test]
fn a_created_file_is_reported_with_the_handles_that_name_to_handle_at_gives() {
    let setup = Setup::new();
    setup.mark(Mask::CREATE.bits());
    let file = setup.tmp.path().join("file");
    File::create(&file).unwrap();
    let target_fid = setup.group.level().target_fid;
    let got = setup.read(|r| (r.mask, r.pid.cast_unsigned(), dir_name(r), r.object.clone()));
    let dir = (fid_of(setup.tmp.path()), b"file".to_vec());
    let object = target_fid.then(|| fid_of(&file));
    assert_eq!(got, [(Mask::CREATE.bits(), std::process::id(), dir, object)]);
}

#[test]
fn a_change_by_another_process_has_its_pid_or_0_without_privilege() {
    let setup = Setup::new();
    setup.mark(Mask::CREATE.bits());
    let mut touch = Command::new("touch").arg(setup.tmp.path().join("file")).spawn().unwrap();
    let pid = touch.id();
    assert!(touch.wait().unwrap().success());
    let expected = if setup.group.level().unlimited { pid } else { 0 };
    assert_eq!(setup.read(|r| r.pid.cast_unsigned()), [expected]);
}

#[test]
fn a_write_in_a_marked_directory_names_the_file_and_its_directory() {
    let setup = Setup::new();
    let file = setup.tmp.path().join("file");
    fs::write(&file, b"a").unwrap();
    setup.mark(Mask::MODIFY.bits() | FAN_EVENT_ON_CHILD);
    fs::write(&file, b"b").unwrap();
    let dir = (fid_of(setup.tmp.path()), b"file".to_vec());
    let got = setup.read(|r| (r.mask, dir_name(r), r.object.clone()));
    assert_eq!(got, [(Mask::MODIFY.bits(), dir, Some(fid_of(&file)))]);
}

#[test]
fn a_rename_is_one_record_with_both_directories_and_names() {
    let setup = Setup::new();
    if !setup.group.level().rename {
        return skip("needs Linux 5.17: FAN_RENAME");
    }
    let (from, to) = (setup.tmp.path().join("from"), setup.tmp.path().join("to"));
    fs::create_dir(&from).unwrap();
    setup.mark(FAN_RENAME | FAN_ONDIR);
    fs::rename(&from, &to).unwrap();
    let got = setup
        .read(|r| (r.mask, r.old.as_ref().map(owned), r.new.as_ref().map(owned), r.object.clone()));
    let dir = fid_of(setup.tmp.path());
    let expected = (
        FAN_RENAME | FAN_ONDIR,
        Some((dir.clone(), b"from".to_vec())),
        Some((dir, b"to".to_vec())),
        Some(fid_of(&to)),
    );
    assert_eq!(got, [expected]);
}

#[test]
fn the_end_of_the_directory_itself_is_reported_under_the_name_dot() {
    let setup = Setup::new();
    let sub = setup.tmp.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let (dir, fid) = (open_path(&sub), fid_of(&sub));
    setup.group.mark(dir.as_fd(), FAN_DELETE_SELF | FAN_ONDIR).unwrap();
    drop(dir);
    fs::remove_dir(&sub).unwrap();
    let got = setup.read(|r| (r.mask, dir_name(r)));
    assert_eq!(got, [(FAN_DELETE_SELF | FAN_ONDIR, (fid, b".".to_vec()))]);
}

#[test]
fn nothing_comes_from_a_directory_that_is_unmarked_again() {
    let setup = Setup::new();
    let [a, b] = ["a", "b"].map(|name| setup.tmp.path().join(name));
    for dir in [&a, &b] {
        fs::create_dir(dir).unwrap();
        setup.group.mark(open_path(dir).as_fd(), Mask::CREATE.bits()).unwrap();
    }
    setup.group.unmark(open_path(&a).as_fd(), Mask::CREATE.bits()).unwrap();
    File::create(a.join("unseen")).unwrap();
    File::create(b.join("seen")).unwrap();
    assert_eq!(setup.read(dir_name), [(fid_of(&b), b"seen".to_vec())]);
    let again = setup.group.unmark(open_path(&a).as_fd(), Mask::CREATE.bits());
    assert_eq!(again.unwrap_err().errno(), Errno::NOENT);
}

#[test]
fn an_idle_group_reads_0_bytes_and_does_not_wait() {
    let setup = Setup::new();
    setup.mark(Mask::CREATE.bits());
    assert_eq!(setup.group.read(&mut [0; EVENT_LEN_MAX]).unwrap(), 0);
}

#[test]
fn a_file_cannot_be_marked_and_the_error_says_so() {
    let setup = Setup::new();
    let file = File::create(setup.tmp.path().join("file")).unwrap();
    let error = setup.group.mark(file.as_fd(), Mask::MODIFY.bits()).unwrap_err();
    assert_eq!(error.errno(), Errno::NOTDIR);
    assert!(!error.is_limit());
}

#[test]
fn the_level_is_what_the_kernel_release_and_the_capabilities_allow() {
    let level = Fanotify::open().unwrap().level();
    assert!(!level.unlimited || has_capability(CapabilitySet::SYS_ADMIN).unwrap());
    let release = kernel::release().unwrap();
    if (release.major, release.minor) >= (5, 17) {
        assert!(level.target_fid && level.rename);
    }
}

#[test]
fn a_directory_is_opened_by_its_handle_or_refused_without_privilege() {
    // tmpfs: the handles of overlayfs name an object and do not open it.
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let fid = fid_of(tmp.path());
    let mount = File::open("/dev/shm").unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match handle::open(mount.as_fd(), fid.handle_type(), fid.handle(), flags) {
        Ok(opened) => assert_eq!(handle::fid(opened.as_fd()).unwrap(), fid),
        Err(error) => assert_eq!(error.errno(), Errno::PERM),
    }
}

#[test]
fn a_handle_longer_than_any_is_refused_before_the_kernel_sees_it() {
    let mount = File::open("/").unwrap();
    let error = handle::open(mount.as_fd(), 1, &[0; 129], OFlags::PATH).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
}

#[test]
fn without_its_marks_a_group_hears_of_nothing() {
    let setup = Setup::new();
    setup.mark(Mask::CREATE.bits());
    setup.group.unmark_all().unwrap();
    let error = setup.group.unmark(setup.dir.as_fd(), Mask::CREATE.bits()).unwrap_err();
    assert_eq!(error.errno(), Errno::NOENT);
}

#[test]
fn an_entry_is_named_without_opening_it_as_its_descriptor_is() {
    let setup = Setup::new();
    fs::write(setup.tmp.path().join("f"), "").unwrap();
    std::os::unix::fs::symlink("f", setup.tmp.path().join("l")).unwrap();
    let fsid = handle::fid(setup.dir.as_fd()).unwrap().fsid();
    let named = |name| handle::fid_at(setup.dir.as_fd(), name, fsid).unwrap().0;
    assert_eq!(named(c"f"), fid_of(&setup.tmp.path().join("f")));
    assert_ne!(named(c"l"), named(c"f"), "a symlink is an object of its own");
    assert!(handle::fid_at(setup.dir.as_fd(), c"none", fsid).is_err());
}
