// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options of `farwatch mount`.

use std::path::PathBuf;

use clap::Args;

use super::sharing::SharingArgs;

/// Arguments of `farwatch mount`.
#[derive(Debug, Args)]
#[command(override_usage = "farwatch mount [OPTIONS] SHARED_DIR MOUNT_POINT\n       \
    farwatch mount [OPTIONS] --socket PATH MOUNT_POINT")]
pub(crate) struct MountArgs {
    /// The directory to share (not with --socket), and the directory to mount it on
    #[arg(value_names = ["SHARED_DIR", "MOUNT_POINT"], num_args = 1..=2, required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Mount the device that listens on this socket: `farwatch serve`, or virtiofsd, which reports
    /// no events
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Buffers in the notification queue
    #[arg(long, value_name = "N", default_value_t = 64, hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) notification_buffers: u16,
    /// Deliver no events: a separate farwatch-agent does
    #[arg(long, hide = true)]
    pub(crate) no_agent: bool,
    /// Log to syslog, not to standard error
    #[arg(long)]
    pub(crate) syslog: bool,
    /// Start a session without a terminal: for mount.farwatch
    #[arg(long, hide = true)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) sharing: SharingArgs,
}
