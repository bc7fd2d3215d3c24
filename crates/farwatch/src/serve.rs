// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch serve`: the daemon. It puts the rooms together, file server and interposer, device and
//! watch thread, and ends on a signal.
//!
//! What needs the host as it is comes first: the shared directory and what `farwatch doctor` would say of
//! it, the sockets for the client and for `farwatch status`. Then the process is
//! shut in, from `sandbox` over `seccomp` to `capabilities`, and only then it starts threads and
//! serves. The fanotify group is opened in the sandbox, where its events name this process by the pid
//! that it has there, and before CAP_SYS_ADMIN goes; and so is the inotify instance.

mod capabilities;
mod config;
mod sandbox;
mod seccomp;
mod socket;
mod watching;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use farwatch_sys::handle;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{MigrationOnError, PassthroughFs};
use virtiofsd::sandbox::SandboxMode;

use self::sandbox::Inside;
use crate::dev_fuse::{Counts, Handoff};
use crate::device::{self, Device, StopHandle, Tag};
use crate::doctor;
use crate::fs::{Inner, Interposer};
use crate::monitor::protocol::Command;
use crate::monitor::{Listeners, Monitor, Process, ServedShare, StatusSocket};
use crate::options::{Defaults, InodeFileHandles, ServeArgs};
use crate::share::Share;
use crate::signals;
use crate::watch::{Backend, Watcher};

/// `--print-capabilities`: what virtiofsd prints.
const CAPABILITIES: &str = r#"{
  "type": "fs",
  "features": [
    "migrate-precopy",
    "posix-acl-negotiation-mode",
    "security-label-negotiation-mode",
    "separate-options"
  ]
}"#;

/// Prints what this device can do, in the form of QEMU's `docs/interop/vhost-user.json`.
///
/// # Errors
/// Those of writing to `out`.
pub(crate) fn print_capabilities(out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{CAPABILITIES}").context("standard output")
}

/// Runs until the client has gone (`--once`) or a signal ends it.
///
/// # Errors
/// One sentence for the user, and what caused it.
pub(crate) fn run(args: &ServeArgs, defaults: Defaults) -> anyhow::Result<()> {
    let ending = signals::catch().context("signals cannot be waited for")?;
    args.check()?;
    sandbox::check(args)?;
    args.warn();
    let shared = shared_dir(args)?;
    for complaint in doctor::complaints(Path::new(&shared)) {
        tracing::warn!("{complaint}");
    }
    let tag = Tag::new(&args.tag)?;
    let process = Process::this(Command::Serve);
    let (listeners, status) = Listeners::bind("serve", args.sharing.metrics.as_ref())?;
    let socket::Socket { listener, pid_file: _pid_file } = socket::open(&args.connection)?;
    let guest_fd_limit = config::limit_files(args)?;
    if args.connection.socket.is_some() {
        // A client can connect. From the sandbox, systemd's socket could not be reached any more.
        signals::notify_ready();
    }
    let _status = keep(args, status);
    let socket = args.connection.socket.as_deref().and_then(|path| path.canonicalize().ok());

    farwatch_sys::survive_missing_memory().context("sigaction(2) of SIGBUS")?;
    let mut inside = sandbox::enter(args, shared.clone(), listener)?;
    let share = Arc::new(share(args, defaults, &inside.root_dir)?);
    shut_in(args, share.backend().map_or(&[], Backend::system_calls))?;
    let inner = inner(args, defaults, &mut inside, guest_fd_limit)?;
    let adopts = args.files.inode_file_handles != InodeFileHandles::Never
        && has_file_handles(&inside.root_dir)?;
    let mut fs = Interposer::new(inner, Arc::clone(&share), inside.root_dir.as_ref(), adopts)
        .with_lease(args.sharing.lease());
    if matches!(args.migration.migration_on_error, MigrationOnError::Abort) {
        fs = fs.keeping_open_files();
    }
    let queues = args.sharing.request_queues;
    let device = Arc::new(Device::new(fs, tag, queues.into(), Arc::clone(&share) as _)?);
    let pump = Arc::downgrade(&device);
    share.add_sink(move || {
        if let Some(device) = pump.upgrade() {
            device.pump();
        }
    });
    let counting = Arc::clone(&device);
    let served = ServedShare {
        process,
        shared_dir: shared.clone(),
        socket: socket.map(|path| path.to_string_lossy().into_owned()),
        share: Arc::clone(&share),
        device: move || counting.stats(),
    };
    let _monitor = Monitor::start(listeners, served).context("the monitor thread")?;
    if let Some(fd) = args.connection.handoff_fd {
        serve_kernel(fd, &device, &share)?;
    }
    let _watcher = Watcher::start(share).context("the watch thread")?;
    let stop = StopHandle::new()?;
    let stopper = stop.clone();
    ending.then(move || stopper.stop()).context("signals cannot be waited for")?;
    if let (Some(socket), Defaults::Farwatch) = (&args.connection.socket, defaults) {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "serving {shared} on {}", socket.display())
            .and_then(|()| stdout.flush())
            .context("standard output")?;
    }
    let once = args.connection.once || defaults == Defaults::Virtiofsd;
    let ended = device::serve(&inside.listener, &device, once, &stop)?;
    tracing::info!(?ended, stats = ?device.stats(), "the device exits");
    Ok(())
}

/// The share, with its way to watch the host.
fn share(args: &ServeArgs, defaults: Defaults, root_dir: &str) -> anyhow::Result<Share> {
    let share = Share::new(watching::open(args, root_dir)?);
    share.poll_every(Duration::from_secs(args.sharing.poll_interval));
    if args.announces_submounts(defaults) {
        share.announce_submounts();
    }
    if let Some(len_max) = args.sharing.backlog_events_max {
        share.limit_backlog(len_max);
    }
    Ok(share)
}

/// The name of the status socket, if it can be removed at the end: in a sandbox its path means something else.
fn keep(args: &ServeArgs, status: StatusSocket) -> Option<StatusSocket> {
    if args.isolation.sandbox == SandboxMode::None {
        return Some(status);
    }
    status.leave();
    None
}

/// Serves the FUSE connection of a `farwatch mount`, which comes over this socket.
fn serve_kernel(
    fd: RawFd,
    device: &Arc<Device<Interposer>>,
    share: &Arc<Share>,
) -> anyhow::Result<()> {
    let socket =
        farwatch_sys::inherited(fd).with_context(|| format!("--handoff-fd {fd} is not open"))?;
    let counts = Arc::<Counts>::default();
    let share = Arc::clone(share);
    let on_cpu = move |cpu| share.replays_on(cpu);
    device
        .serve_kernel(Handoff::from(socket), Arc::clone(&counts), on_cpu)
        .context("a thread for /dev/fuse")?;
    signals::on_report(move || tracing::info!("requests: {counts}"))
        .context("SIGUSR1 cannot be waited for")
}

/// The path of the shared directory, without symbolic links.
fn shared_dir(args: &ServeArgs) -> anyhow::Result<String> {
    let given = args.shared_dir.as_deref().context("--shared-dir is missing")?;
    let shown = given.display();
    let shared = given.canonicalize().with_context(|| format!("shared directory {shown}"))?;
    if !shared.is_dir() {
        bail!("shared directory {shown} is not a directory");
    }
    match shared.into_os_string().into_string() {
        Ok(shared) => Ok(shared),
        Err(_) => bail!("shared directory {shown}: its path is not UTF-8"),
    }
}

/// Gives up what serving does not need. `watching` are the system calls of the watch backend.
fn shut_in(args: &ServeArgs, watching: &[&str]) -> anyhow::Result<()> {
    let isolation = &args.isolation;
    rustix::thread::set_no_new_privs(true).context("prctl(PR_SET_NO_NEW_PRIVS)")?;
    let sends_messages = args.compat.syslog || args.connection.handoff_fd.is_some();
    seccomp::load(isolation.seccomp, watching, sends_messages)?;
    // An ordinary user has none, or in a user namespace all, but over nothing outside.
    let has_some = geteuid().is_root() || isolation.sandbox != SandboxMode::None;
    if has_some {
        let file_handles = args.files.inode_file_handles != InodeFileHandles::Never;
        capabilities::restrict(isolation.modcaps.as_ref(), file_handles)?;
    }
    Ok(())
}

fn inner(
    args: &ServeArgs,
    defaults: Defaults,
    inside: &mut Inside,
    guest_fd_limit: u64,
) -> anyhow::Result<Inner> {
    let config = config::config(args, defaults, inside, guest_fd_limit);
    let inner = if args.sharing.readonly {
        PassthroughFsRo::new(config).map(Inner::from)
    } else {
        PassthroughFs::new(config).map(Inner::from)
    };
    let mandatory = args.files.inode_file_handles == InodeFileHandles::Mandatory;
    inner.with_context(|| match mandatory {
        true => "the shared directory cannot be served with file handles, which need \
                 CAP_DAC_READ_SEARCH and a file system that has them (`--inode-file-handles=prefer`)",
        false => "the shared directory cannot be served",
    })
}

/// Whether a file can be opened by its handle, so that the file server needs no descriptor for each
/// that is known. It tries the same.
fn has_file_handles(shared: &str) -> anyhow::Result<bool> {
    let root = File::open(shared).with_context(|| format!("shared directory {shared}"))?;
    let opened = handle::fid(root.as_fd())
        .and_then(|fid| handle::open(root.as_fd(), fid.handle_type(), fid.handle(), OFlags::PATH));
    Ok(opened.is_ok())
}
