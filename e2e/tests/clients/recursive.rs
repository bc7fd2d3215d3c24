// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A day's work, for clients that watch a tree.

use crate::client::Step;

pub(crate) const SETUP: &str = "echo one > a; mkdir sub; echo one > sub/deep";

/// What is done. No step is two things of which a client may report one or both. Between a new directory and
/// what is done in it is another step: clients report the directory first, and watch it then.
const RUN: [&str; 15] = [
    "echo two > a",
    "echo one > b",
    "mv b c",
    "echo three > a.tmp",
    "mv a.tmp a",
    "mkdir d",
    "echo four >> a",
    "echo one > d/e",
    "mv sub lib",
    "rm c",
    "echo two > lib/deep",
    "echo two > d/e",
    "rm d/e",
    "rmdir d",
    "touch end",
];

/// A directory with content, made faster than anybody can watch it: for clients that look into a new directory.
pub(crate) const IN_ONE_GO: &str = "mkdir -p f/g; echo one > f/g/h";

/// The day, with what a client tells of each step.
pub(crate) fn day(told: [&[&'static str]; RUN.len()]) -> Vec<Step> {
    RUN.into_iter().zip(told).map(|(run, told)| Step::new(run, told)).collect()
}
