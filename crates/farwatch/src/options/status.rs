// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options of `farwatch status`, `farwatch watch` and `farwatch top`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `farwatch status`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 no problem, 1 the command failed, 2 usage error, \
    3 a problem, 4 no farwatch runs that this user may look at. docs/STATUS.md has the fields \
    of --json.")]
pub(crate) struct StatusArgs {
    /// Show only the share that this path is in, on either side
    pub(crate) path: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `farwatch watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints a line for each report of the host, and one for each event when it has been \
    delivered, with the time between the two. Times of day are UTC. Changes made in the mount or the guest are \
    not shown: their own kernel reports them."
)]
pub(crate) struct WatchArgs {
    /// A file or directory of the shared directory or of the mount; what is below it is shown, too
    pub(crate) path: PathBuf,
    /// Print JSON, one record a line
    #[arg(long)]
    pub(crate) json: bool,
}
