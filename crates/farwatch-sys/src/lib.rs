// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The system calls of farwatch that no library wraps: fanotify with its info records, file
//! handles, the credentials and descriptors of one thread.
//!
//! This is the only crate with unsafe code, and all that it does is call the kernel: it decides
//! nothing. Host, guest agent and `farwatch mount` are built on it. Each error names the call that
//! failed, with its arguments. `status_socket` is here since host and agent both have one.

mod error;
pub mod fanotify;
mod group;
pub mod handle;
mod inherited;
mod ioctl;
pub mod kernel;
mod missing_memory;
pub mod mount;
pub mod mountinfo;
pub mod status_socket;
pub mod thread;

pub use error::Error;
pub use group::group_id;
pub use inherited::inherited;
pub use ioctl::ioctl_sync;
/// What `statfs(2)` of a shared directory says, in the file server library's type.
pub use libc::statvfs64;
pub use missing_memory::{missing_memory_was_touched, survive_missing_memory};
