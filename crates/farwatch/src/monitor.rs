// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Monitor`]: a thread of `farwatch mount` and `farwatch serve` that answers what they are doing: `farwatch status`
//! and the like on the status socket, and Prometheus on the address of `--metrics`.
//!
//! The sockets are bound before a sandbox is entered (`state_dir`, `listener`) and the thread starts after it. It asks
//! its [`Source`], writes what it is told and changes nothing. Whoever asks can make it wait for nothing: connections
//! do not block, are few, and are closed when they stall (`server`, `conversation`).
//!
//! `protocol` is what travels, `client` asks. `docs/STATUS.md` describes both for others.

pub(crate) mod client;
mod conversation;
mod http;
mod listener;
mod metrics;
pub(crate) mod protocol;
mod server;
mod shared;
pub(crate) mod state_dir;

pub(crate) use listener::{Listeners, StatusSocket};
pub(crate) use server::Monitor;
pub(crate) use shared::{Process, ServedShare, Source};
pub(crate) use state_dir::remove_status_socket;
