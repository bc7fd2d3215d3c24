// SPDX-License-Identifier: Apache-2.0 OR MIT
//! See [`frontend::frontend`].
#![no_main]

#[path = "../../crates/farwatch/tests/common/fake_driver.rs"]
#[expect(dead_code, reason = "tests need the rest")]
mod fake_driver;
#[path = "../src/frontend.rs"]
mod frontend;
#[path = "../../crates/farwatch/tests/common/guest.rs"]
#[expect(dead_code, reason = "tests need the rest")]
mod guest;
#[path = "../../crates/farwatch/tests/common/mutations.rs"]
#[expect(dead_code, reason = "tests need the rest")]
mod mutations;
#[path = "../../crates/farwatch/tests/common/replay.rs"]
#[expect(dead_code, reason = "tests need the rest")]
mod replay;
#[path = "../../crates/farwatch/tests/common/requests.rs"]
#[expect(dead_code, reason = "tests need the rest")]
mod requests;
#[path = "../../crates/farwatch/tests/common/served.rs"]
#[expect(dead_code, reason = "tests need the rest")]
mod served;
#[path = "../../crates/farwatch/tests/common/snapshot.rs"]
mod snapshot;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

libfuzzer_sys::fuzz_target!(
    // As in a program of Rust: a pipe without a reader is an error.
    init: {
        let broken_pipe = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGPIPE, broken_pipe).expect("a handler");
    },
    |data: &[u8]| frontend::frontend(data)
);
