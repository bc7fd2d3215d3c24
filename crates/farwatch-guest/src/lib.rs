// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest side of farwatch: an agent opens the control node of a mount, receives notifications,
//! and replays each by the system call that makes the guest's own kernel raise the event.
//!
//! What to do is decided in `farwatch_proto::guest`; this carries it out. `farwatch mount` runs the
//! same agent in a thread of its own, fed by the notification queue; the program `farwatch-agent` runs
//! it in a guest, fed by reads on the control node.
#![forbid(unsafe_code)]

pub mod agent;
mod announcement;
mod error;
mod link;
mod progress;
mod reads;
mod replay;
mod root;
mod run;
mod submounts;
mod superblocks;
mod sync;
mod times;

pub use announcement::Announcement;
pub use error::Error;
pub use link::{CAPABILITIES, CAPABILITIES_IN_GUEST, Link};
pub use progress::Progress;
pub use reads::Reads;
pub use replay::Outcome;
pub use root::{MountRoot, Target};
pub use run::{Receive, Received, Report, run};
pub use superblocks::Superblocks;
pub use sync::{SyncArgs, SyncError, sync};
pub use times::{duration, seconds};
