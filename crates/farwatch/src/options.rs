// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Options: the command lines as typed values.
//!
//! There is one file for each command, `sharing` for the options that they have in common, and `compat`,
//! `metrics` and `modcaps` for the forms that clap does not parse by itself. This room acts on nothing and asks
//! the machine nothing. `cli` parses the options, `mount` and `serve` read them; this room imports none
//! of the three.

mod compat;
mod ids;
mod log;
mod metrics;
mod modcaps;
mod mount;
mod mount_helper;
mod serve;
mod sharing;
mod status;

pub(crate) use compat::apply as apply_compat;
pub(crate) use log::{LOG_FORMAT_VARIABLE, LOG_VARIABLE, LogArgs, LogFormat};
pub(crate) use metrics::MetricsAddr;
pub(crate) use modcaps::CapabilityChanges;
pub(crate) use mount::MountArgs;
pub(crate) use mount_helper::{MountFlag, MountHelperArgs, MountRequest};
pub(crate) use serve::{ConnectionArgs, Defaults, InodeFileHandles, LogLevel, Seccomp, ServeArgs};
pub(crate) use sharing::{Cache, Events, WatchBackend};
pub(crate) use status::{StatusArgs, WatchArgs};
