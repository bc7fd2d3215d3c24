// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--watch`: opens what changes on the host are seen by, and says what that is.

use anyhow::{Context as _, anyhow, bail};
use rustix::io::Errno;

use crate::limits::Limit;
use crate::options::{Events, InodeFileHandles, ServeArgs, WatchBackend};
use crate::watch::{Backend, FanotifyBackend, InotifyBackend};

/// Why there is no `--events all` without fanotify.
const NO_READS: &str = "--events all needs fanotify: inotify does not report which process reads a file, the \
    guest or others";

/// Opens it; `None`, and a warning, when `auto` finds neither.
///
/// # Errors
/// When the one that was asked for cannot be had.
pub(super) fn open(args: &ServeArgs, shared: &str) -> anyhow::Result<Option<Box<dyn Backend>>> {
    let events = args.sharing.events;
    match args.sharing.watch {
        WatchBackend::Fanotify => {
            let fanotify = FanotifyBackend::open(shared, events.mask());
            Ok(Some(Box::new(fanotify.map_err(|error| anyhow!(error))?)))
        }
        WatchBackend::Inotify if events == Events::All => bail!(NO_READS),
        WatchBackend::Inotify => {
            let inotify = open_inotify(args).context("changes on the host cannot be watched")?;
            tracing::info!(joins = inotify.pairs_renames(), "inotify");
            Ok(Some(Box::new(inotify)))
        }
        // What was asked for and does not come would be missed in silence.
        WatchBackend::Auto if events == Events::All => {
            let fanotify = FanotifyBackend::open(shared, events.mask());
            let fanotify = fanotify.map_err(|without| anyhow!("{NO_READS}, and {without}"))?;
            Ok(Some(Box::new(fanotify)))
        }
        WatchBackend::Auto => Ok(choose(args, shared)),
    }
}

/// inotify, which alone reports each change in its order, or fanotify where it cannot be had.
fn choose(args: &ServeArgs, shared: &str) -> Option<Box<dyn Backend>> {
    let events = args.sharing.events.mask();
    let without = match open_inotify(args) {
        Ok(inotify) => {
            tracing::info!(joins = inotify.pairs_renames(), "inotify");
            return Some(Box::new(inotify));
        }
        Err(without) => without,
    };
    match FanotifyBackend::open(shared, events) {
        Ok(fanotify) => {
            tracing::warn!(
                "the host is watched by fanotify, which merges events that follow each other quickly: \
                 {without:#}"
            );
            Some(Box::new(fanotify))
        }
        Err(error) => {
            tracing::warn!(
                "changes on the host cannot be watched: no events ({without:#}; {error})"
            );
            None
        }
    }
}

fn open_inotify(args: &ServeArgs) -> anyhow::Result<InotifyBackend> {
    let handles = args.files.inode_file_handles != InodeFileHandles::Never;
    InotifyBackend::open(handles, !args.sharing.no_join_renames).map_err(|error| {
        let limit = match Errno::from_io_error(&error) {
            Some(Errno::MFILE) => Some(Limit::InotifyInstances),
            errno => errno.and_then(Limit::of_files),
        };
        match limit {
            Some(limit) => anyhow!("inotify is not available: {}", limit.reached()),
            None => anyhow!(error).context("inotify is not available"),
        }
    })
}
