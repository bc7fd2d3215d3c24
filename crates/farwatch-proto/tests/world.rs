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
#[path = "world/barrier.rs"]
mod barrier;
#[path = "world/calls.rs"]
mod calls;
#[path = "world/checks.rs"]
mod checks;
#[path = "world/config.rs"]
mod config;
#[path = "world/dcache.rs"]
mod dcache;
#[path = "world/fanotify.rs"]
mod fanotify;
#[path = "world/faults.rs"]
mod faults;
#[path = "world/handles.rs"]
mod handles;
#[path = "world/host.rs"]
mod host;
#[path = "world/inotify.rs"]
mod inotify;
#[path = "world/interposer.rs"]
mod interposer;
#[path = "world/marked.rs"]
mod marked;
#[path = "world/names.rs"]
mod names;
#[path = "world/ops.rs"]
mod ops;
#[path = "world/programs.rs"]
mod programs;
#[path = "world/replay.rs"]
mod replay;
#[path = "world/rng.rs"]
mod rng;
#[path = "world/run.rs"]
mod run;
#[path = "world/server.rs"]
mod server;
#[path = "world/show.rs"]
mod show;
#[path = "world/sim.rs"]
mod sim;
#[path = "world/vfs.rs"]
mod vfs;
#[path = "world/watcher.rs"]
mod watcher;
#[path = "world/watches.rs"]
mod watches;

use config::{Limits, Watched};
use faults::Fault;
use ops::{Dir, Family, Kind};
use run::{fails_within, run_family};

/// What programs do to the names of files alone.
const FILES: &[Kind] = &[
    Kind::Create,
    Kind::Create,
    Kind::Create,
    Kind::Write,
    Kind::Chmod,
    Kind::Unlink,
    Kind::Unlink,
    Kind::Rename,
    Kind::Rename,
];
/// The same and everything else that is not exotic.
const TREES: &[Kind] = &[
    Kind::Create,
    Kind::Create,
    Kind::Create,
    Kind::Write,
    Kind::Chmod,
    Kind::Unlink,
    Kind::Unlink,
    Kind::Rename,
    Kind::Rename,
    Kind::Rename,
    Kind::RenameOut,
    Kind::RenameIn,
    Kind::Mkdir,
    Kind::Mkdir,
    Kind::Rmdir,
    Kind::Symlink,
];
/// What is rare, and hard to tell by names alone.
const EXOTIC: &[Kind] = &[
    Kind::Create,
    Kind::Create,
    Kind::Write,
    Kind::Unlink,
    Kind::Rename,
    Kind::Exchange,
    Kind::Link,
    Kind::Link,
    Kind::Mkdir,
    Kind::Rmdir,
];
const RENAMES: &[Kind] = &[Kind::Create, Kind::Rename, Kind::Rename, Kind::Rename, Kind::Rename];
/// What programs in the guest do that changes nothing.
const LOOKS: &[Kind] = &[Kind::Look, Kind::Look, Kind::Look, Kind::Watch, Kind::DropCaches];
const NAMES: &[&str] = &["x", "y", "z"];

/// One program on the host, and one in the guest that only looks, by inotify.
const ONE_HOST: Family = Family {
    watched: Watched::ByInotify,
    hosts: 1,
    guests: 1,
    host_ops: FILES,
    guest_ops: LOOKS,
    dirs: &[Dir::Root, Dir::A],
    names: NAMES,
    ops_max: 24,
    limits: Limits::None,
    identifies: true,
    exact: true,
    fault: None,
};
const THREE_HOSTS: Family = Family { hosts: 3, exact: false, ..ONE_HOST };
/// Both sides change the same names.
const BOTH_SIDES: Family = Family { hosts: 2, guests: 2, guest_ops: FILES, ..THREE_HOSTS };

#[test]
fn events_equal_the_hosts_with_one_host_program_by_inotify() {
    run_family("one host program", &ONE_HOST, 300);
}

#[test]
fn events_equal_the_hosts_with_one_host_program_and_directories_by_inotify() {
    let family = Family { host_ops: TREES, dirs: &Dir::SHARED, ..ONE_HOST };
    run_family("one host program, directories", &family, 300);
}

#[test]
fn state_is_true_at_rest_with_three_host_programs_by_inotify() {
    run_family("three host programs", &THREE_HOSTS, 200);
}

#[test]
fn state_is_true_at_rest_with_three_host_programs_and_directories_by_inotify() {
    let family = Family { host_ops: TREES, dirs: &Dir::SHARED, ..THREE_HOSTS };
    run_family("three host programs, directories", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_guest_programs_alone_by_inotify() {
    let family = Family { hosts: 0, guests: 2, guest_ops: FILES, ..THREE_HOSTS };
    run_family("guest programs alone", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_guest_programs_alone_and_everything_by_inotify() {
    let guest_ops = EXOTIC;
    let family = Family { hosts: 0, guests: 3, guest_ops, dirs: &Dir::SHARED, ..THREE_HOSTS };
    run_family("guest programs alone, everything", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_both_sides_by_inotify() {
    run_family("both sides", &BOTH_SIDES, 300);
}

#[test]
fn state_is_true_at_rest_with_both_sides_and_directories_by_inotify() {
    let family = Family { host_ops: TREES, guest_ops: TREES, dirs: &Dir::SHARED, ..BOTH_SIDES };
    run_family("both sides, directories", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_links_and_exchanges_of_one_host_program_by_inotify() {
    let family = Family { host_ops: EXOTIC, exact: false, ..ONE_HOST };
    run_family("links and exchanges", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_links_and_exchanges_on_both_sides_by_inotify() {
    let family = Family { host_ops: EXOTIC, guest_ops: EXOTIC, ..BOTH_SIDES };
    run_family("links and exchanges, both sides", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_one_host_program_by_fanotify() {
    let family = Family { watched: Watched::ByFanotify, exact: false, ..ONE_HOST };
    run_family("one host program, fanotify", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_renames_there_and_back_by_fanotify() {
    let family =
        Family { watched: Watched::ByFanotify, host_ops: RENAMES, exact: false, ..ONE_HOST };
    run_family("renames there and back, fanotify", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_both_sides_by_fanotify() {
    let family = Family { watched: Watched::ByFanotify, ..BOTH_SIDES };
    run_family("both sides, fanotify", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_a_small_backlog() {
    let family = Family { limits: Limits::Backlog, ..THREE_HOSTS };
    run_family("small backlog", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_a_small_queue_of_the_hosts_kernel() {
    let family = Family { limits: Limits::Queue, ..THREE_HOSTS };
    run_family("small queue", &family, 200);
}

#[test]
fn state_is_true_at_rest_with_an_agent_that_dies_and_comes_back() {
    const OPS: &[Kind] = &[Kind::Look, Kind::Watch, Kind::Die];
    let family = Family { guest_ops: OPS, ..THREE_HOSTS };
    run_family("agent dies", &family, 200);
}

#[test]
fn state_is_true_whenever_a_barrier_is_reached() {
    const OPS: &[Kind] = &[Kind::Look, Kind::Sync, Kind::Sync];
    let family = Family { guest_ops: OPS, ..THREE_HOSTS };
    run_family("barriers", &family, 200);
}

#[test]
fn references_are_counted_though_a_file_is_found_while_its_name_changes() {
    let family = Family { identifies: false, ..THREE_HOSTS };
    run_family("found while the name changes", &family, 200);
}

#[test]
fn a_check_fails_for_each_fault() {
    for fault in [Fault::Drop, Fault::Swap, Fault::LoseCookie, Fault::MergeRenames] {
        let family = Family { fault: Some(fault), host_ops: RENAMES, ..ONE_HOST };
        assert!(fails_within(&family, 300), "nobody notices {fault:?}");
    }
    let fault = Some(Fault::SkipRepair);
    let family = Family { fault, limits: Limits::Queue, ..THREE_HOSTS };
    assert!(fails_within(&family, 300), "nobody notices {fault:?}");
}
