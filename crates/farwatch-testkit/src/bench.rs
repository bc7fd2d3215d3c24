// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an event costs in a guest whose kernel raises it, beside an agent and beside a local directory. All of them are
//! measured in one User-mode Linux, in turns, so that the ratios hold on a busy machine too.
//!
//! The program `farwatch-bench` is both ends of it: `run` on the host boots the guest and prints the tables; the
//! measurements themselves are functions that the same program calls in the guest, whose clock they read. Each counts
//! the events that it waits for, so a delivery that loses some does not look fast: it ends with an error.

mod burst;
mod latency;
mod machine;
mod relay;
mod report;
mod run;
mod stats;
mod stock;
mod tree;
mod watch;

pub use burst::{burst, read_burst};
pub use latency::{Change, Latency, latencies};
pub use relay::relayed;
pub use run::{Part, Scale, run};
pub use stats::{Samples, micros, per_event, ratio};
pub use stock::run_stock;
pub use tree::{Tree, fill, walk, watch_all};
pub use watch::{Seen, Watch};

/// What the program in the guest prints when others may begin.
pub const READY: &str = "ready";
/// What it prints now and then, before how far it is: the observer waits so long for a line and no longer.
pub const PROGRESS: &str = "progress";
/// What it prints last, before the durations in ns that it was asked for.
pub const DONE: &str = "done";

/// How often progress is reported.
const REPORTS: usize = 20;
