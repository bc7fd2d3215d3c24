// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a mount is the file system that a local directory is, but for what stock virtiofsd does otherwise too: our own
//! checks. `cargo xtask correctness` runs those of others as well.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::correctness::{self, Length, Plan, Suite};

/// So many checks there are at least.
const CHECKS_MIN: usize = 90;

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount, Need::Python, Need::StockVirtiofsd];
        mount_differs_from_a_local_directory_only_where_stock_virtiofsd_does,
    ])
}

fn mount_differs_from_a_local_directory_only_where_stock_virtiofsd_does() -> Result<()> {
    let stock = e2e::stock_virtiofsd().context("virtiofsd has gone")?;
    let (suites, length) = (vec![Suite::Checks], Length::Short);
    let table = correctness::run(&Plan { suites, length, stock, programs: None }, |_| {})?;
    for row in table.rows() {
        ensure!(row.run >= CHECKS_MIN, "{} checks with {}", row.run, row.server);
        let own: String = row.own.iter().map(ToString::to_string).collect();
        ensure!(own.is_empty(), "{}, unlike both:\n{own}", row.server);
    }
    ensure!(!table.rows().is_empty(), "nothing was compared");
    Ok(())
}
