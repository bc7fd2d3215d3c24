// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replays the corpus of the fuzz target `agent`, and some random inputs.

#[path = "../../../fuzz/src/agent.rs"]
mod agent;
#[path = "../../../fuzz/corpus.rs"]
#[expect(
    clippy::print_stdout,
    reason = "the output of a failed test ends with the input that it ran"
)]
mod corpus;

use farwatch_sys::thread::CapabilitySet;
use farwatch_testkit::skip_without;

/// Random inputs beside the corpus.
const INPUTS: usize = 200;

#[test]
fn the_corpus_of_agent_passes_and_so_do_random_inputs() {
    if skip_without(CapabilitySet::SYS_ADMIN) {
        return;
    }
    agent::unmount_in_panics();
    corpus::replay("agent", agent::agent);
    corpus::draw(INPUTS, agent::agent);
}
