// SPDX-License-Identifier: Apache-2.0 OR MIT
//! See [`farwatch_fuzz::state_decode`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| farwatch_fuzz::state_decode(data));
