// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch serve`: the daemon. It puts the rooms together, file server and interposer, device and
//! watch thread, and ends on a signal.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use farwatch_sys::fanotify::Fanotify;
use farwatch_sys::thread::{CapabilitySet, has_capability};
use virtiofsd::passthrough::file_handle::FileHandle;
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};

use crate::cli::{Cache, ServeArgs, SharingArgs};
use crate::device::{self, Device, StopHandle, Tag};
use crate::fs::Interposer;
use crate::share::Share;
use crate::signals;
use crate::watch::Watcher;

/// Runs until the client has gone (`--once`) or a signal ends it.
///
/// # Errors
/// One sentence for the user, and what caused it.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let shown = args.shared_dir.display();
    let shared =
        args.shared_dir.canonicalize().with_context(|| format!("shared directory {shown}"))?;
    if !shared.is_dir() {
        bail!("shared directory {shown} is not a directory");
    }
    let tag = Tag::new(&args.tag)?;
    let listener = listen(args)?;
    if let Err(error) = virtiofsd::limits::setup_rlimit_nofile(None) {
        tracing::warn!(error, "the limit of open files stays as it is");
    }
    let share = Arc::new(Share::new(open_fanotify()));
    if let Some(len_max) = args.sharing.backlog_events_max {
        share.lock().engine.limit_backlog(len_max);
    }
    let handles = file_handles(&shared)?;
    let config = config(&shared, handles, args.announce_submounts(), &args.sharing);
    let inner = PassthroughFs::new(config).context("the shared directory cannot be served")?;
    let fs = Interposer::new(inner, Arc::clone(&share), &shared, handles);
    let queues = args.sharing.request_queues;
    let device = Arc::new(Device::new(fs, tag, queues.into(), Arc::clone(&share) as _)?);
    let pump = Arc::clone(&device);
    let _watcher = Watcher::start(share, move || pump.pump()).context("the watch thread")?;
    let stop = StopHandle::new()?;
    let stopper = stop.clone();
    signals::on_end(move || stopper.stop()).context("signals cannot be waited for")?;
    if let Some(socket) = &args.socket {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "serving {} on {}", shared.display(), socket.display())
            .and_then(|()| stdout.flush())
            .context("standard output")?;
    }
    let ended = device::serve(&listener, &device, args.once, &stop)?;
    tracing::info!(?ended, stats = ?device.stats(), "the device ends");
    Ok(())
}

fn listen(args: &ServeArgs) -> anyhow::Result<UnixListener> {
    if let Some(fd) = args.fd {
        let fd = farwatch_sys::inherited(fd).with_context(|| format!("--fd {fd} is not open"))?;
        return Ok(UnixListener::from(fd));
    }
    let socket = args.socket.as_deref().context("--socket or --fd is needed")?;
    match std::fs::remove_file(socket) {
        Ok(()) => tracing::debug!("replaced a socket"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("socket {}", socket.display())),
    }
    UnixListener::bind(socket).with_context(|| format!("socket {}", socket.display()))
}

fn open_fanotify() -> Option<Fanotify> {
    Fanotify::open()
        .inspect(|group| tracing::info!(level = ?group.level(), "fanotify"))
        .inspect_err(|error| {
            let cause = std::error::Error::source(error);
            tracing::warn!(%error, cause, "changes on the host cannot be watched: no events \
                (`farwatch doctor` says what is missing)");
        })
        .ok()
}

/// Whether the file server can keep a file handle for each known object, instead of a descriptor.
fn file_handles(shared: &Path) -> anyhow::Result<bool> {
    let root =
        File::open(shared).with_context(|| format!("shared directory {}", shared.display()))?;
    let privileged = has_capability(CapabilitySet::DAC_READ_SEARCH)?;
    Ok(privileged && FileHandle::from_fd(&root).is_ok_and(|handle| handle.is_some()))
}

fn config(shared: &Path, handles: bool, submounts: bool, sharing: &SharingArgs) -> Config {
    const DAY: Duration = Duration::from_secs(86_400);
    let (cache_policy, timeout) = match sharing.cache {
        Cache::Never => (CachePolicy::Never, Duration::ZERO),
        Cache::Auto => (CachePolicy::Auto, Duration::from_secs(1)),
        Cache::Always => (CachePolicy::Always, DAY),
    };
    let inode_file_handles =
        if handles { InodeFileHandlesMode::Prefer } else { InodeFileHandlesMode::Never };
    Config {
        entry_timeout: timeout,
        attr_timeout: timeout,
        cache_policy,
        root_dir: shared.to_string_lossy().into_owned(),
        xattr: !sharing.no_xattr,
        announce_submounts: submounts,
        inode_file_handles,
        ..Config::default()
    }
}
