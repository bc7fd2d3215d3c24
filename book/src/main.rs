// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch-book DIR`: builds the book in `DIR`, which has `book.toml` and `src`, into `DIR/book`. Run by
//! `cargo xtask docs`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use mdbook_driver::MDBook;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: farwatch-book DIR");
        return ExitCode::from(2);
    };
    match MDBook::load(PathBuf::from(dir)).and_then(|book| book.build()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("farwatch-book: {error:#}");
            ExitCode::FAILURE
        }
    }
}
