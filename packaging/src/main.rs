// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-pages DIR`: writes manual pages and completions for shells, made from the definitions of the command
//! lines, into `DIR/man` and `DIR/completions`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("farwatch-pages: {error:#}\n").as_bytes(),
            ));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let dir = std::env::args_os().nth(1).context("usage: farwatch-pages DIR")?;
    packaging::write(dir.as_ref())
}
