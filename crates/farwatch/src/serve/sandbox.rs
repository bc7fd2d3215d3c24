// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Enters the sandbox of virtiofsd's library, and says where things are inside.
//!
//! In `namespace` mode the process forks: the parent waits for the child and ends with its exit code,
//! and only the child comes back from here, as the first process of a pid namespace whose root is the
//! shared directory. So there must be no other thread yet, and whatever knows its own pid
//! (the echo filter of `watch`) starts afterwards.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::{panic, process};

use anyhow::{Context as _, bail};
use rustix::io::Errno;
use rustix::process::geteuid;
use vhost::vhost_user::Listener;
use virtiofsd::sandbox::{Error, Sandbox, SandboxMode};

use crate::limits::Limit;
use crate::options::ServeArgs;

/// What is where, inside.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) listener: UnixListener,
    /// The shared directory.
    pub(super) root_dir: String,
    /// What to take from the front of a path in mountinfo.
    pub(super) mountinfo_prefix: Option<String>,
    pub(super) proc_self_fd: Option<File>,
    pub(super) mountinfo: Option<File>,
}

/// Refuses what this user cannot have.
///
/// # Errors
/// One sentence for the user.
pub(super) fn check(args: &ServeArgs) -> anyhow::Result<()> {
    let (mode, ids) = (args.isolation.sandbox, &args.ids);
    let root = geteuid().is_root();
    if mode == SandboxMode::Chroot && !root {
        bail!("--sandbox chroot needs root: use --sandbox namespace");
    }
    let maps = !ids.uid_map.is_empty() || !ids.gid_map.is_empty();
    if maps && (root || mode != SandboxMode::Namespace) {
        bail!(
            "--uid-map and --gid-map are for an ordinary user with --sandbox namespace: \
             --translate-uid and --translate-gid work for everybody"
        );
    }
    Ok(())
}

/// See the module's documentation.
///
/// # Errors
/// One sentence for the user, and what caused it.
pub(super) fn enter(
    args: &ServeArgs,
    shared: String,
    listener: UnixListener,
) -> anyhow::Result<Inside> {
    let (mode, ids) = (args.isolation.sandbox, &args.ids);
    let mut sandbox = Sandbox::new(shared, mode, ids.uid_map.clone(), ids.gid_map.clone());
    let mountinfo_prefix = sandbox.get_mountinfo_prefix().context("the shared directory's path")?;
    let pid = process::id();
    let listener = match quietly(|| sandbox.enter(Listener::from(listener))) {
        Ok(listener) => listener,
        // A helper process whose parent has ended before it, and has told why.
        Err(Error::Fork(_)) if process::id() != pid => process::exit(1),
        Err(error) => return Err(told(error)),
    };
    // The library's type does not give its descriptor away. It closes its own when it is dropped.
    let duplicate = farwatch_sys::inherited(listener.as_raw_fd()).context("the socket")?;
    Ok(Inside {
        listener: duplicate.into(),
        root_dir: sandbox.get_root_dir(),
        mountinfo_prefix,
        proc_self_fd: sandbox.get_proc_self_fd(),
        mountinfo: sandbox.get_mountinfo_fd(),
    })
}

fn told(error: Error) -> anyhow::Error {
    let error = if let Error::Unshare(source) = error {
        let why = match Errno::from_io_error(&source) {
            // user_namespaces(7); or of another kind, with a file of the same name beside it.
            Some(Errno::NOSPC) => format!(": {}", Limit::UserNamespaces.reached()),
            _ => " (see user_namespaces(7))".to_owned(),
        };
        anyhow::Error::from(source).context(format!("this user cannot have namespaces{why}"))
    } else {
        error.into()
    };
    error.context("the sandbox cannot be set up (`--sandbox none` runs without)")
}

/// Runs `enter` without what its helper process says when it panics: that is its way to end when the
/// parent has no use for it, and the parent tells why.
fn quietly<T>(enter: impl FnOnce() -> T) -> T {
    let told = Arc::new(panic::take_hook());
    let (pid, hook) = (process::id(), Arc::clone(&told));
    panic::set_hook(Box::new(move |panic| {
        if process::id() == pid {
            hook(panic);
        }
    }));
    let entered = enter();
    panic::set_hook(Box::new(move |panic| told(panic)));
    entered
}
