// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What travels: [`Notification`] from server to client, control frames both ways, [`interest`]
//! and [`sync`] frames.
//!
//! `abi` holds the structs with the kernel's spelling, their sizes asserted; nothing outside this
//! module sees raw bytes. `docs/PROTOCOL.md` is the reference.

pub mod abi;
pub mod control;
pub mod interest;
mod notification;
pub mod sync;

pub use notification::{DecodeError, Notification};
