// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs of the oracle in a place, which must find no difference.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use farwatch_testkit::Place;
use farwatch_testkit::oracle::{Case, Oracle, Plan};

/// Runs a plan.
///
/// # Errors
/// When a program in the mount is told something else than locally, with the case.
pub fn equal(place: &impl Place, plan: Plan) -> Result<()> {
    let report = Oracle::new(place).run(plan, |_| {})?;
    ensure!(report.events > 0, "nothing was compared");
    match report.failure {
        None => place.is_sound(),
        Some(failure) => Err(anyhow!(
            "seed {}: {}\nthe case:\n{}\n{}",
            failure.seed,
            failure.difference,
            failure.case,
            place.log()
        )),
    }
}

/// Runs the cases that were written down and `is_meant` takes.
///
/// # Errors
/// The same, or when it takes none.
pub fn kept_cases(place: &impl Place, is_meant: impl Fn(&Case) -> bool) -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle");
    let mut oracle = Oracle::new(place);
    let mut cases = 0;
    for file in std::fs::read_dir(dir)? {
        let file = file?.path();
        let case = Case::parse(&std::fs::read_to_string(&file)?)
            .with_context(|| file.display().to_string())?;
        if !is_meant(&case) {
            continue;
        }
        if let Some(difference) = oracle.run_case(&case)? {
            return Err(anyhow!("{}:\n{difference}", file.display()));
        }
        cases += 1;
    }
    ensure!(cases > 0, "there are no cases");
    place.is_sound()
}
