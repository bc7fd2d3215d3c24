// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replays the fuzz corpus on a stable compiler, with the functions that the fuzzers call, and feeds
//! random steps to the join.

use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Instant;

#[path = "../../../fuzz/corpus.rs"]
#[expect(
    clippy::print_stdout,
    reason = "the output of a failed test ends with the input that it ran"
)]
#[expect(dead_code, reason = "random inputs are drawn by proptest's macro")]
mod corpus;
#[path = "../../../fuzz/src/lib.rs"]
pub mod targets;

#[test]
fn the_corpus_of_notification_decode_passes() {
    corpus::replay("notification_decode", targets::notification_decode);
}

#[test]
fn the_corpus_of_control_decode_passes() {
    corpus::replay("control_decode", targets::control_decode);
}

#[test]
fn the_corpus_of_state_decode_passes() {
    corpus::replay("state_decode", targets::state_decode);
}

#[test]
fn the_corpus_of_join_passes() {
    corpus::replay("join", |data| targets::join(start(), data));
}

#[test]
fn the_corpus_of_agent_plan_passes() {
    corpus::replay("agent_plan", |data| targets::agent_plan(start(), data));
}

proptest! {
    #[test]
    fn whatever_comes_the_join_gives_every_message_once_and_in_time(
        steps in vec((any::<u8>(), 0..100u8, 0..4u8, Just(0)), 0..300),
    ) {
        let data: Vec<u8> = steps.into_iter().flat_map(<[u8; 4]>::from).collect();
        targets::join(start(), &data);
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
fn start() -> Instant {
    Instant::now()
}
