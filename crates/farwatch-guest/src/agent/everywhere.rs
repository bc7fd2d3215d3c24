// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-agent --all`: a supervisor that starts a worker for each virtiofs in the mount table, now and later, and
//! ends it when that is unmounted. So a virtual machine needs to know neither tags nor directories.
//!
//! It sleeps until a mount or a worker changes. What is mounted in another mount namespace only, it does not see.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use farwatch_sys::mountinfo::{self, Mount};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use sd_notify::NotifyState;

use super::mounts::{Device, Mounts, Step};
use crate::submounts;

use super::supervisor::{News, Worker, end, notify, signals, wait};

/// Runs until a signal ends it. `fs_type` is the type of the mounts to serve.
///
/// # Errors
/// When something else than a worker fails.
pub(super) fn run(fs_type: &str, log: &str, timeout: Duration) -> anyhow::Result<ExitCode> {
    let signals = signals()?;
    let mut table = File::open(mountinfo::PATH).context(mountinfo::PATH)?;
    let mut mounts = Mounts::default();
    let mut workers: BTreeMap<Device, Worker> = BTreeMap::new();
    notify(&[NotifyState::Ready]);
    loop {
        let present = read(&mut table, fs_type).context(mountinfo::PATH)?;
        for step in mounts.update(&present) {
            match step {
                Step::Start(device, mount_point) => {
                    let target = mount_point.as_os_str();
                    workers.insert(device, Worker::start(target, log, timeout)?);
                }
                Step::End(device) => end(workers.remove(&device)),
            }
        }
        let changed = PollFd::from_borrowed_fd(table.as_fd(), PollFlags::PRI);
        if !wait(&signals, workers.values(), Some(changed))? {
            notify(&[NotifyState::Stopping]);
            end(workers.into_values());
            return Ok(ExitCode::SUCCESS);
        }
        for device in look(&mut workers, log, timeout)? {
            mounts.left(device);
        }
    }
}

/// Looks what has become of the workers. Returns the devices of those that have ended.
fn look(
    workers: &mut BTreeMap<Device, Worker>,
    log: &str,
    timeout: Duration,
) -> anyhow::Result<Vec<Device>> {
    let mut ended = Vec::new();
    for (device, worker) in workers.iter_mut() {
        match worker.news(timeout)? {
            None => {}
            Some(News::Welcome) => worker.welcome()?,
            Some(News::Ended) if worker.was_lost()? => worker.replace(log, timeout)?,
            Some(news) => ended.push((*device, news)),
        }
    }
    for (device, news) in &ended {
        if let Some(worker) = workers.remove(device) {
            worker.bury(news, timeout);
        }
    }
    Ok(ended.into_iter().map(|(device, _)| device).collect())
}

/// The mounts of that type that can be reached by their path, and are no submounts: those have the worker of their share.
fn read(table: &mut File, fs_type: &str) -> io::Result<Vec<Mount>> {
    let mut text = Vec::new();
    table.rewind()?;
    table.read_to_end(&mut text)?;
    let mounts: Vec<Mount> = mountinfo::mounts(&text).collect();
    let is_share = |mount: &&Mount| mount.fs_type == fs_type && !submounts::is_one(&mounts, mount);
    Ok(mounts.iter().filter(is_share).filter(|mount| is_reachable(mount)).cloned().collect())
}

/// False if another mount covers it. No file server is asked: the mount id does not come from one.
fn is_reachable(mount: &Mount) -> bool {
    let path: &OsStr = mount.mount_point.as_os_str();
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    statx(CWD, path, flags, StatxFlags::MNT_ID).is_ok_and(|stat| stat.stx_mnt_id == mount.id)
}
