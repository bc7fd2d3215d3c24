// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `farwatch` command. All of it is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    farwatch::cli::main()
}
