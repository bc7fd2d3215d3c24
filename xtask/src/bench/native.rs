// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench native`: what an event costs where the guest's kernel raises it. Builds the product, the kernel
//! with the patches and the test kit's `farwatch-bench`, and runs that.

use std::path::Path;

use farwatch_testkit::vm::Uml;

use crate::{guest, kernel, testkit};

/// `args` are those of `farwatch-bench native`.
pub(crate) fn run(root: &Path, args: &[&str]) -> anyhow::Result<bool> {
    testkit::build(root)?;
    guest::run(root)?;
    if !Uml::is_named() {
        kernel::run(root, &["6.12"])?;
    }
    testkit::start(root, "farwatch-bench", ["native"].iter().chain(args))
}
