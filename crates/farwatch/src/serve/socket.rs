// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The listening socket: inherited, or bound with its pid file beside it and with the permissions
//! that `--socket-group` asks for.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context as _, bail};
use farwatch_sys::group_id;
use rustix::fs::Mode;
use rustix::process::Gid;
use virtiofsd::oslib::ScopedUmask;
use virtiofsd::util::write_pid_file;

use crate::options::ConnectionArgs;

/// A socket that clients can connect to.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    /// Locked, so that a second device leaves this one's socket alone.
    pub(super) pid_file: Option<File>,
}

/// Opens what the command line names.
///
/// # Errors
/// One sentence for the user, and what caused it.
pub(super) fn open(args: &ConnectionArgs) -> anyhow::Result<Socket> {
    if let Some(fd) = args.fd {
        let fd = farwatch_sys::inherited(fd).with_context(|| format!("--fd {fd} is not open"))?;
        return Ok(Socket { listener: UnixListener::from(fd), pid_file: None });
    }
    let path = args.socket.as_deref().context("--socket or --fd is needed")?;
    let group = args.socket_group.as_deref().map(group).transpose()?;
    let others = if group.is_some() { Mode::RWXO } else { Mode::RWXO | Mode::RWXG };
    let _umask = ScopedUmask::new(others.bits());
    let pid_file = lock(path)?;
    let shown = || format!("socket {}", path.display());
    match std::fs::remove_file(path) {
        Ok(()) => tracing::debug!("replaced a socket"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(shown),
    }
    let listener = UnixListener::bind(path).with_context(shown)?;
    if let Some(group) = group {
        rustix::fs::chown(path, None, Some(group))
            .with_context(|| format!("{} cannot be given to the group", shown()))?;
    }
    Ok(Socket { listener, pid_file: Some(pid_file) })
}

/// Writes `<socket>.pid`, which is locked until this process and its children have ended.
fn lock(socket: &Path) -> anyhow::Result<File> {
    let mut path = OsString::from(socket);
    path.push(".pid");
    let path = Path::new(&path);
    let file = match write_pid_file(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!(
                "socket {} is served by another process: {} is locked",
                socket.display(),
                path.display()
            )
        }
        Err(error) => return Err(error).with_context(|| format!("pid file {}", path.display())),
    };
    // The library leaves what is there behind a number with fewer digits.
    let len = format!("{}\n", std::process::id()).len();
    file.set_len(u64::try_from(len).context("a number has few digits")?)?;
    Ok(file)
}

fn group(name: &str) -> anyhow::Result<Gid> {
    let id = group_id(name).with_context(|| format!("--socket-group {name}"))?;
    id.with_context(|| format!("--socket-group: there is no group {name}"))
}
