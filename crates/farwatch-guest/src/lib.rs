// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest side of farwatch: an agent opens the control node of a mount, receives notifications,
//! and replays each by the system call that makes the guest's own kernel raise the event.
//!
//! What to do is decided in `farwatch_proto::guest`; this carries it out. `farwatch mount` runs the
//! same agent in a thread of its own, fed by the notification queue.
#![forbid(unsafe_code)]

mod agent;
mod error;
mod link;
mod replay;

pub use agent::{Receive, Received, Report, run};
pub use error::Error;
pub use link::{Link, MountRoot};
pub use replay::{Outcome, Replayer};
