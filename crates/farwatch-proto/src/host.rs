// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The decisions on the host's side: which of the changes that a watcher observed the guest is to
//! see, in which order, and how an agent's replay of each is answered.
//!
//! [`Engine`] is the whole of it; the other modules are its parts. The daemon feeds it from two
//! sides, the FUSE requests that it serves and the changes that it observes, and takes notifications
//! out.

mod backlog;
mod barrier;
mod change;
mod contested;
mod engine;
mod hold;
pub mod inotify;
mod interest;
mod ledger;
mod net;
mod order;
mod poll;
pub mod split;
mod state;
mod tree;

pub use backlog::Look;
pub use barrier::{Progress, Ticket};
pub use change::{HostChange, HostEntry};
pub use contested::{Check, Checked};
pub use engine::{
    AttachError, Engine, Figures, HandedOut, Input, InterestError, Output, OwnChange, ReadMark,
};
pub use hold::Hold;
pub use ledger::{Answer, Ending, Held, MarkedRequest, Object, Refusal};
pub use net::{Listed, Listing, Rescan};
pub use order::put_right;
pub use state::{State, StateError};
pub use tree::{Forgotten, Learned, Tree};
