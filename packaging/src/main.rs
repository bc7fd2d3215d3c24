// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-pages DIR`: writes manual pages and completions for shells, made from the definitions of the command
//! lines, into `DIR/man` and `DIR/completions`. `farwatch-pages --markdown FILE` writes the page for the site.
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
    let usage = "usage: farwatch-pages DIR, or farwatch-pages --markdown FILE";
    let mut args = std::env::args_os().skip(1);
    let first = args.next().context(usage)?;
    if first == "--markdown" {
        return packaging::write_markdown(args.next().context(usage)?.as_ref());
    }
    packaging::write(first.as_ref())
}
