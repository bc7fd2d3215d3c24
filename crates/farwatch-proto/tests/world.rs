// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A simulated world: a host's file system that programs change, the reports of its kernel, the
//! engine, an agent, and a guest's kernel with programs that work there and watch. A seed decides
//! what is done and who takes the next small step. When everything is at rest, what the watching
//! programs were told must be what is there.
//!
//! ```text
//! cargo test -p farwatch-proto --test world                     some thousands of seeds
//! cargo test -p farwatch-proto --test world one_host_by_inotify  one family of cases
//! WORLD_SEEDS=100000 cargo test --release …                     as many as you like
//! WORLD_SEED=17 cargo test …                                    one of them
//! WORLD_SEED=17 WORLD_STEPS=40 cargo test …                     the same with so many operations
//! ```
//!
//! A case that fails is cut smaller, then the trace of its steps, its operations and what is wrong are
//! printed. `world/server.rs` alone calls the engine; the other files model what is around it, each
//! one part (`sim` holds them together and orders the steps).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "world/agent.rs"]
mod agent;
#[path = "world/backend.rs"]
mod backend;
#[path = "world/checks.rs"]
mod checks;
#[path = "world/config.rs"]
mod config;
#[path = "world/dcache.rs"]
mod dcache;
#[path = "world/handles.rs"]
mod handles;
#[path = "world/host.rs"]
mod host;
#[path = "world/interposer.rs"]
mod interposer;
#[path = "world/marked.rs"]
mod marked;
#[path = "world/ops.rs"]
mod ops;
#[path = "world/programs.rs"]
mod programs;
#[path = "world/rng.rs"]
mod rng;
#[path = "world/run.rs"]
mod run;
#[path = "world/server.rs"]
mod server;
#[path = "world/sim.rs"]
mod sim;
#[path = "world/vfs.rs"]
mod vfs;
#[path = "world/watcher.rs"]
mod watcher;

use config::Watched;
use ops::{Dir, Family, Kind};
use run::run_family;

const FILES: &[Kind] =
    &[Kind::Create, Kind::Create, Kind::Write, Kind::Chmod, Kind::Unlink, Kind::Rename];
const LOOKS: &[Kind] = &[Kind::Look, Kind::Look, Kind::DropCaches];
const BOTH: &[Kind] = &[
    Kind::Create,
    Kind::Create,
    Kind::Write,
    Kind::Unlink,
    Kind::Rename,
    Kind::Look,
    Kind::DropCaches,
];

/// One program on the host, of which nobody in the guest takes notice.
const ONE_HOST: Family = Family {
    watched: Watched::ByInotify,
    hosts: 1,
    guests: 1,
    host_ops: FILES,
    guest_ops: LOOKS,
    dirs: &[Dir::Root, Dir::A],
    names: &["x", "y", "z"],
    ops_max: 24,
};

#[test]
fn names_are_true_at_rest_with_one_host_program_by_inotify() {
    run_family("one host program", &ONE_HOST, 300);
}

#[test]
fn names_are_true_at_rest_with_three_host_programs_by_inotify() {
    run_family("three host programs", &Family { hosts: 3, ..ONE_HOST }, 300);
}

#[test]
fn names_are_true_at_rest_with_host_and_guest_programs_by_inotify() {
    let family = Family { hosts: 2, guests: 2, guest_ops: BOTH, ..ONE_HOST };
    run_family("host and guest programs", &family, 300);
}
