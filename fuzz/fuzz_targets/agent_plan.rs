// SPDX-License-Identifier: Apache-2.0 OR MIT
//! See [`farwatch_fuzz::agent_plan`].
#![no_main]

use std::time::Instant;

libfuzzer_sys::fuzz_target!(|data: &[u8]| farwatch_fuzz::agent_plan(Instant::now(), data));
