// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the end-to-end tests of farwatch share; never part of the product.
//!
//! A [`Scenario`] is a text file: commands to run on the host side and the exact stream of events
//! that a program watching the mount must see. A [`Recorder`] is that program, an [`Inotifywait`]
//! is the well-known one. A [`Mount`] gives both a place to work in: a share mounted by the
//! product, or a plain local directory behind the same interface. The kernel's own inotify on the
//! local directory is the oracle, so every expectation is checked there too.
//!
//! Nothing here sleeps. Tests wait for a line, an event, an exit or a barrier, and give up after
//! [`PATIENCE`] with what they have seen so far.
#![forbid(unsafe_code)]

pub mod bench;
pub mod coherence;
pub mod converge;
pub mod correctness;
mod event;
mod fanotify;
mod file_system;
mod here;
pub mod hostile;
mod inotifywait;
mod merge;
mod mount;
pub mod observer;
pub mod oracle;
mod place;
mod process;
mod recorder;
mod scenario;
mod share;
mod skip;
mod submount;
pub mod vm;

use std::time::Duration;

pub use event::{Event, Kind, render};
pub use fanotify::{Objects, Renames};
pub use file_system::{FileSystem, FsType, kernel_has};
pub use here::Here;
pub use inotifywait::Inotifywait;
pub use merge::merge_allowed;
pub use mount::{Mount, farwatch, farwatch_agent, is_mount_point, mount_points};
pub use place::{Place, Record};
pub use process::{Process, child_of, children_of};
pub use recorder::Recorder;
pub use scenario::{Expectation, Scenario, Step, Watch};
pub use share::{Share, shell};
pub use skip::{SKIPPED_VARIABLE, skip, skip_without};
pub use submount::Submount;

/// How long a test waits for something that must happen. Generous: only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(20);
