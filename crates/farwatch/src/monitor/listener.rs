// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sockets that a [`Monitor`](super::Monitor) listens on. They are bound before a sandbox is entered.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Context as _;
use farwatch_sys::status_socket::bind_own;

use super::state_dir;
use crate::options::MetricsAddr;

/// The name of a status socket. Dropping it removes the name.
#[derive(Debug)]
pub(crate) struct StatusSocket(Option<PathBuf>);

impl StatusSocket {
    /// Leaves the name: this process cannot reach it any more, as in a sandbox, where a path means something else.
    /// `farwatch status` removes it when nothing listens there.
    pub(crate) fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(%error, path = %path.display(), "the status socket is not there to be removed");
        }
    }
}

/// What is listened on.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(super) status: Option<OwnedFd>,
    pub(super) metrics: Option<OwnedFd>,
}

impl Listeners {
    /// Binds the status socket of this process, which is called `command`, and the address for metrics.
    ///
    /// Without a status socket it warns: nothing but `farwatch status` needs that.
    ///
    /// # Errors
    /// When the address was asked for and cannot be had.
    pub(crate) fn bind(
        command: &str,
        metrics: Option<&MetricsAddr>,
    ) -> anyhow::Result<(Self, StatusSocket)> {
        let metrics = metrics.map(bind_metrics).transpose()?;
        let (status, name) = match bind_status(command) {
            Ok((socket, path)) => (Some(socket), Some(path)),
            Err(error) => {
                tracing::warn!("`farwatch status` will not show this process: {error:#}");
                (None, None)
            }
        };
        Ok((Self { status, metrics }, StatusSocket(name)))
    }
}

fn bind_status(command: &str) -> anyhow::Result<(OwnedFd, PathBuf)> {
    let dir = state_dir::own().context("a directory for the status socket")?;
    state_dir::remove_stale(&dir);
    let path = dir.join(state_dir::socket_name(command, std::process::id()));
    let socket = bind_own(&path).with_context(|| format!("socket {}", path.display()))?;
    Ok((socket, path))
}

fn bind_metrics(addr: &MetricsAddr) -> anyhow::Result<OwnedFd> {
    let bound = match addr {
        MetricsAddr::Tcp(addr) => TcpListener::bind(addr).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener.into())
        }),
        MetricsAddr::Unix(path) => bind_own(path),
    };
    bound.with_context(|| format!("--metrics {addr}"))
}
