// SPDX-License-Identifier: Apache-2.0 OR MIT
//! See [`agent::agent`].
#![no_main]

#[path = "../src/agent.rs"]
mod agent;

libfuzzer_sys::fuzz_target!(init: agent::unmount_in_panics(), |data: &[u8]| agent::agent(data));
