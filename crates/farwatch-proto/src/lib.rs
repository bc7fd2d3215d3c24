// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The wire format of farwatch and every decision it takes.
//!
//! Nothing here does I/O, reads a clock, starts a thread or draws a random number: time is a
//! parameter called `now`, the file system is what the caller says it is. The host's daemon
//! ([`host`]), the guest's agent and the driver of `farwatch mount` ([`guest`]) are built from these
//! parts; they do the I/O and decide nothing. Both go by one table of what a replay is ([`replay`]).
//!
//! Three stages, three nouns: a [`host::HostChange`] was observed on the host, a [`GuestEvent`] is
//! what the guest is to see of it, a [`wire::Notification`] is how that travels.
#![forbid(unsafe_code)]

mod bytes;
mod event;
mod fid;
pub mod guest;
pub mod host;
mod kind;
mod mask;
mod name;
mod node;
pub mod replay;
mod seq;
pub mod wire;

pub use event::{Entry, GuestEvent};
pub use fid::{Fid, FidError};
pub use kind::FileKind;
pub use mask::Mask;
pub use name::{Name, NameError};
pub use node::{Cookie, Generation, Node, NodeId, Submount};
pub use seq::Seq;
