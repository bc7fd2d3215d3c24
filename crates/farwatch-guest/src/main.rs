// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program `farwatch-agent`; all of it is in the library's `agent`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    farwatch_guest::agent::main()
}
