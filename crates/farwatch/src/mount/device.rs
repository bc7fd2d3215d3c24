// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device of a mount: `farwatch serve` as a child process, on a socket that only this process
//! can reach.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::dev_fuse::Handoff;
use crate::monitor::remove_status_socket;
use crate::options::{LOG_FORMAT_VARIABLE, LOG_VARIABLE, LogArgs, MountArgs};

/// The running child.
#[derive(Debug)]
pub(super) struct Device(Child);

/// A connection to the child.
#[derive(Debug)]
pub(super) struct Connection {
    /// The vhost-user socket.
    pub(super) stream: UnixStream,
    /// The way of the FUSE connection to it.
    pub(super) handoff: Handoff,
}

impl Device {
    /// Starts it, and connects to it.
    pub(super) fn start(
        shared: &Path,
        args: &MountArgs,
        log: &LogArgs,
    ) -> anyhow::Result<(Self, Connection)> {
        let (listener, stream) = private_socket().context("a socket for the device")?;
        let (handoff, theirs) = Handoff::pair().context("a socket for the device")?;
        let program = std::env::current_exe().context("the path of this program")?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--once", "--fd", "0", "--handoff-fd", "1", "--no-announce-submounts"])
            .args(args.device.to_args())
            .args(args.sharing.to_args())
            .args(args.syslog.then_some("--syslog"))
            .arg("--shared-dir")
            .arg(shared)
            .env(LOG_VARIABLE, &log.log)
            .env(LOG_FORMAT_VARIABLE, log.log_format.name())
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            // Ctrl-C is for this process, which unmounts before the device goes.
            .process_group(0);
        let child = command.spawn().context("the device cannot be started")?;
        Ok((Self(child), Connection { stream, handoff }))
    }

    /// Has it log how many requests the kernel has made.
    pub(super) fn report(&self) -> anyhow::Result<impl Fn() + Send + 'static> {
        self.sender(Signal::USR1)
    }

    /// Ends it, whatever it is doing.
    pub(super) fn kill(&self) -> anyhow::Result<impl Fn() + Send + 'static> {
        self.sender(Signal::KILL)
    }

    /// What sends it a signal, and nobody else when it has ended.
    fn sender(&self, signal: Signal) -> anyhow::Result<impl Fn() + Send + 'static> {
        let pid = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())
            .context("a descriptor of the device's process")?;
        Ok(move || {
            if let Err(error) = pidfd_send_signal(&pid, signal) {
                tracing::debug!(%error, "the device has ended");
            }
        })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end: it ends by itself when its client has gone.
    pub(super) fn join(mut self) -> anyhow::Result<()> {
        let status = self.0.wait().context("the device")?;
        // From its sandbox it cannot reach the name.
        remove_status_socket("serve", self.pid());
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (_, Some(signal)) => bail!("the device was killed by signal {signal}"),
            _ => bail!("the device failed; see its log"),
        }
    }
}

/// A listening socket and a connection to it, which nobody else can make: the path is in a directory
/// that only root enters, and is gone when this returns.
fn private_socket() -> std::io::Result<(UnixListener, UnixStream)> {
    let dir = std::env::temp_dir().join(format!("farwatch-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&dir)?;
    let path = dir.join("socket");
    let connected = UnixListener::bind(&path).and_then(|listener| {
        let stream = UnixStream::connect(&path)?;
        Ok((listener, stream))
    });
    let removed = std::fs::remove_file(&path).and_then(|()| std::fs::remove_dir(&dir));
    let connected = connected?;
    removed?;
    Ok(connected)
}
