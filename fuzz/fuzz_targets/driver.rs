// SPDX-License-Identifier: Apache-2.0 OR MIT
//! See [`farwatch::driver::lying`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| farwatch::driver::lying::lies(data));
