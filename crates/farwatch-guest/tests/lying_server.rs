// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replays the corpus of the fuzz target `agent`, and some random inputs.

#[path = "../../../fuzz/src/agent.rs"]
mod agent;

use std::fs;
use std::path::Path;

use farwatch_sys::thread::CapabilitySet;
use farwatch_testkit::skip_without;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

/// Random inputs beside the corpus.
const INPUTS: usize = 200;

#[test]
fn the_corpus_of_agent_passes_and_so_do_random_inputs() {
    if skip_without(CapabilitySet::SYS_ADMIN) {
        return;
    }
    agent::unmount_in_panics();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/agent");
    let mut files: Vec<_> =
        fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        println!("{}", file.display());
        agent::agent(&fs::read(&file).unwrap());
    }
    let input = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
    let mut runner = TestRunner::deterministic();
    for _ in 0..INPUTS {
        let input = input.new_tree(&mut runner).unwrap().current();
        println!("{input:?}");
        agent::agent(&input);
    }
}
