// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options: what a command line says, as typed values.
//!
//! One file for each command, `sharing` for what they have in common, `compat` and `modcaps` for the
//! forms that clap does not parse by itself. Nothing is done here, and nothing is looked up on this
//! machine. `cli` parses, `mount` and `serve` read; this room imports none of them.

mod compat;
mod modcaps;
mod mount;
mod serve;
mod sharing;

pub(crate) use compat::apply as apply_compat;
pub(crate) use modcaps::CapabilityChanges;
pub(crate) use mount::MountArgs;
pub(crate) use serve::{ConnectionArgs, Defaults, InodeFileHandles, Seccomp, ServeArgs};
pub(crate) use sharing::{Cache, Events, SharingArgs, WatchBackend};

/// The environment variable that says what to log when `--log` does not.
pub(crate) const LOG_VARIABLE: &str = "FARWATCH_LOG";
