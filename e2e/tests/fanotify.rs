// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program in the mount that watches with fanotify: a rename on the host is one FAN_RENAME with
//! both directories and both names (S11).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_sys::fanotify::{DirRecord, EVENT_LEN_MAX, FAN_RENAME, Fanotify, records};
use farwatch_sys::handle;
use farwatch_testkit::{Mount, PATIENCE, Recorder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount];
        a_program_with_fanotify_gets_one_rename_with_both_directories_and_names,
    ])
}

fn a_program_with_fanotify_gets_one_rename_with_both_directories_and_names() -> Result<()> {
    let mount = Mount::start()?;
    let share = mount.share("fanotify")?;
    for dir in ["a", "b"] {
        fs::create_dir(share.host().join(dir))?;
    }
    fs::File::create_new(share.host().join("a/old"))?;
    Recorder::new(&share, Recorder::CHANGES)?.barrier()?;
    let group = Fanotify::open()?;
    let (a, b) = (open(&share.mount().join("a"))?, open(&share.mount().join("b"))?);
    group.mark(a.as_fd(), FAN_RENAME)?;
    group.mark(b.as_fd(), FAN_RENAME)?;
    fs::rename(share.host().join("a/old"), share.host().join("b/new"))?;

    let patience = Timespec::try_from(PATIENCE)?;
    let ready = poll(&mut [PollFd::new(&group, PollFlags::IN)], Some(&patience))?;
    ensure!(ready == 1, "no event came");
    let mut buf = [0; 4 * EVENT_LEN_MAX];
    let len = group.read(&mut buf)?;
    let events = records(&buf[..len]).collect::<Result<Vec<_>, _>>()?;
    let [rename] = &events[..] else { anyhow::bail!("one event was expected: {events:?}") };
    ensure!(rename.mask == FAN_RENAME, "not a rename: {rename:?}");
    ensure!(is(rename.old.as_ref(), &a, b"old")?, "the old entry: {rename:?}");
    ensure!(is(rename.new.as_ref(), &b, b"new")?, "the new entry: {rename:?}");
    Ok(())
}

fn open(dir: &Path) -> Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn is(entry: Option<&DirRecord<'_>>, dir: &OwnedFd, name: &[u8]) -> Result<bool> {
    let entry = entry.context("no entry")?;
    Ok(entry.fid == handle::fid(dir.as_fd())? && entry.name == name)
}
