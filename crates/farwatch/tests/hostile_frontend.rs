// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replays the corpus of the fuzz target `frontend`, and some random inputs. The only test of its process, whose
//! descriptors and threads it counts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/fake_driver.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod fake_driver;
#[path = "../../../fuzz/src/frontend.rs"]
mod frontend;
#[path = "common/guest.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod guest;
#[path = "common/mutations.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod mutations;
#[path = "common/replay.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod replay;
#[path = "common/requests.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod requests;
#[path = "common/served.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod served;
#[path = "common/snapshot.rs"]
mod snapshot;

use std::fs;
use std::path::Path;

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use served::skip_without_root;

/// Random inputs beside the corpus.
const INPUTS: usize = 150;

#[test]
fn the_corpus_of_frontend_passes_and_so_do_random_inputs() {
    if skip_without_root() {
        return;
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/frontend");
    let mut files: Vec<_> =
        fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        println!("{}", file.display());
        frontend::frontend(&fs::read(&file).unwrap());
    }
    let input = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
    let mut runner = TestRunner::deterministic();
    for _ in 0..INPUTS {
        let input = input.new_tree(&mut runner).unwrap().current();
        println!("{input:?}");
        frontend::frontend(&input);
    }
}
