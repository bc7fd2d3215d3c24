// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench stock`: what a share costs in a virtual machine with a stock kernel, beside stock virtiofsd. Builds
//! the product and the test kit's `farwatch-bench`, and runs that.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::Context as _;

use crate::{guest, testkit};

/// `args` are those of `farwatch-bench stock`, but for the virtiofsd.
pub(crate) fn run(root: &Path, args: &[&str]) -> anyhow::Result<bool> {
    let virtiofsd = std::env::var_os("FARWATCH_STOCK_VIRTIOFSD")
        .context("FARWATCH_STOCK_VIRTIOFSD names no virtiofsd 1.14 (`./test` builds one)")?;
    testkit::build(root)?;
    guest::run(root)?;
    let args = ["stock"].iter().chain(args).map(OsStr::new);
    testkit::start(root, "farwatch-bench", args.chain([virtiofsd.as_os_str()]))
}
