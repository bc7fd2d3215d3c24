// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Replays the corpus of the fuzz target `frontend`, and some random inputs. The only test of its process, whose
//! descriptors and threads it counts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../fuzz/corpus.rs"]
#[expect(
    clippy::print_stdout,
    reason = "the output of a failed test ends with the input that it ran"
)]
mod corpus;
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

use served::skip_without_root;

/// Random inputs beside the corpus.
const INPUTS: usize = 150;

#[test]
fn the_corpus_of_frontend_passes_and_so_do_random_inputs() {
    if skip_without_root() {
        return;
    }
    corpus::replay("frontend", frontend::frontend);
    corpus::draw(INPUTS, frontend::frontend);
}
