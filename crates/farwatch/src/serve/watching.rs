// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--watch`: opens what changes on the host are seen by, and says what that is.

use std::error::Error;
use std::os::fd::AsFd;

use anyhow::{Context as _, anyhow, bail};
use farwatch_proto::Mask;
use farwatch_sys::fanotify::Fanotify;
use farwatch_sys::handle;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::options::{Events, InodeFileHandles, ServeArgs, WatchBackend};
use crate::watch::{Inotify, Watch, mark_mask};

/// Why there is no `--events all` without fanotify.
const NO_READS: &str = "--events all needs fanotify: inotify does not say who reads a file, the \
    guest or others";

/// Opens it; `None`, and a warning, when `auto` finds neither.
///
/// # Errors
/// When the one that was asked for cannot be had.
pub(super) fn open(args: &ServeArgs, shared: &str) -> anyhow::Result<Option<Watch>> {
    let events = args.sharing.events;
    match args.sharing.watch {
        WatchBackend::Fanotify => {
            let group = open_fanotify(shared, events.mask()).map_err(|error| anyhow!(error))?;
            Ok(Some(Watch::fanotify(group, events.mask())))
        }
        WatchBackend::Inotify if events == Events::All => bail!(NO_READS),
        WatchBackend::Inotify => {
            let inotify = open_inotify(args).context("changes on the host cannot be watched")?;
            tracing::info!(joins = inotify.joins(), "inotify");
            Ok(Some(Watch::Inotify(inotify)))
        }
        // What was asked for and does not come would be missed in silence.
        WatchBackend::Auto if events == Events::All => {
            let group = open_fanotify(shared, events.mask());
            let group = group.map_err(|without| anyhow!("{NO_READS}, and {without}"))?;
            Ok(Some(Watch::fanotify(group, events.mask())))
        }
        WatchBackend::Auto => Ok(choose(args, shared)),
    }
}

fn choose(args: &ServeArgs, shared: &str) -> Option<Watch> {
    let events = args.sharing.events.mask();
    let without = match open_fanotify(shared, events) {
        Ok(group) => return Some(Watch::fanotify(group, events)),
        Err(without) => without,
    };
    match open_inotify(args) {
        Ok(inotify) => {
            tracing::warn!("the host is watched by inotify: {without}");
            Some(Watch::Inotify(inotify))
        }
        Err(error) => {
            tracing::warn!(
                "changes on the host cannot be watched: no events ({without}; {error:#})"
            );
            None
        }
    }
}

/// A group, if it can watch the shared directory: one sentence why not, otherwise.
fn open_fanotify(shared: &str, events: Mask) -> Result<Fanotify, String> {
    let cause = |error: &dyn Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let group = Fanotify::open().map_err(|error| {
        format!("fanotify cannot be had here (`farwatch doctor` says why): {}", cause(&error))
    })?;
    let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(shared, path_only, Mode::empty())
        .map_err(|error| format!("the shared directory: {error}"))?;
    let mask = mark_mask(group.level(), events);
    let marked = group.mark(root.as_fd(), mask).and_then(|()| group.unmark(root.as_fd(), mask));
    marked.and_then(|()| handle::fid(root.as_fd())).map_err(|error| {
        format!("fanotify cannot watch the shared directory's file system: {}", cause(&error))
    })?;
    tracing::info!(level = ?group.level(), "fanotify");
    Ok(group)
}

fn open_inotify(args: &ServeArgs) -> anyhow::Result<Inotify> {
    let handles = args.files.inode_file_handles != InodeFileHandles::Never;
    Inotify::open(handles, !args.sharing.no_join_renames).map_err(|error| {
        if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) {
            anyhow!(error).context(
                "this user has too many inotify instances: raise fs.inotify.max_user_instances by \
                 sysctl(8), and in a user namespace user.max_inotify_instances",
            )
        } else {
            anyhow!(error).context("inotify cannot be had")
        }
    })
}
