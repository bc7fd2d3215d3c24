// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host side of farwatch: a virtio-fs device that tells its guest what changes on the host, and
//! `farwatch mount`, which drives such a device on the same machine.
//!
//! From the guest to the host: `device` (virtqueues) calls `fs` (the interposer around virtiofsd's
//! file server). From the host to the guest: `watch` (inotify, or fanotify) feeds the engine in
//! `share`, and the sinks in `deliver` take notifications from it. `driver` is the guest's part on one
//! machine; `mount`, `serve`, `status` and `doctor` are the commands, and `options` what their command lines say.
#![forbid(unsafe_code)]

mod busy_poll;
pub mod cli;
mod deliver;
pub mod dev_fuse;
pub mod device;
pub mod doctor;
pub mod driver;
pub mod fs;
mod limits;
mod logging;
mod meter;
mod monitor;
mod mount;
mod mount_helper;
mod options;
mod replay_cpu;
mod serve;
pub mod share;
mod shared_memory;
mod signals;
mod status;
mod sync;
pub mod virtio;
pub mod watch;
