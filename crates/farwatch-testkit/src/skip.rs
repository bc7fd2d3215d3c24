// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests that cannot run on this machine, and how they are counted.
//!
//! Rust's test harness cannot skip a test that has started: one that returns has passed. So a test that is
//! missing something calls [`skip`], which prints the reason and appends it to the file that
//! `cargo xtask ci` names in [`SKIPPED_VARIABLE`]; the sum there then has it as skipped. The trials of
//! `e2e` know their needs before they start and do not come here.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

use farwatch_sys::thread::{CapabilitySet, has_capability};

/// The environment variable that holds the path of the file. It must exist; each skipped test appends one
/// line, `SKIP <program> <test> (<reason>)`.
pub const SKIPPED_VARIABLE: &str = "FARWATCH_SKIPPED_TESTS";

/// Reports that the calling test is skipped. The test must return right after this, and must not call it
/// again.
///
/// # Panics
/// When the file of [`SKIPPED_VARIABLE`] cannot be appended to: the test would count as passed.
pub fn skip(reason: &str) {
    let test = test_name();
    // Past the harness, which captures what `eprintln!` of a passing test says.
    drop(writeln!(io::stderr(), "farwatch-test: skipped: {test} ({reason})"));
    let Some(path) = std::env::var_os(SKIPPED_VARIABLE) else { return };
    if let Err(error) = append(path.as_ref(), &format!("SKIP {test} ({reason})\n")) {
        panic!("{}, named by {SKIPPED_VARIABLE}: {error}", path.display());
    }
}

/// Skips the calling test if this thread does not have all of `needed`. The test must return when this
/// is true.
///
/// # Panics
/// Like [`skip`].
#[must_use]
pub fn skip_without(needed: CapabilitySet) -> bool {
    let is_missing = |capability: &CapabilitySet| !has_capability(*capability).unwrap_or(false);
    let missing: Vec<String> = needed
        .iter_names()
        .filter(|(_, capability)| is_missing(capability))
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    if missing.is_empty() {
        return false;
    }
    skip(&format!("needs root: {}", missing.join(", ")));
    true
}

/// In one write, since tests run side by side. The file is not created: it would belong to root, and
/// in `/tmp` root must not create what belongs to another user (`fs.protected_regular`, proc_sys_fs(5)).
fn append(path: &Path, line: &str) -> io::Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(line.as_bytes())
}

/// The test program, without the hash that cargo gives it, and the test: the harness names its threads
/// after them.
fn test_name() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.file_name().unwrap_or_default().to_string_lossy();
    let program = program.rsplit_once('-').map_or(&*program, |(name, _)| name);
    let test = std::env::var("NEXTEST_TEST_NAME").ok();
    let thread = std::thread::current();
    format!("{program} {}", test.as_deref().or_else(|| thread.name()).unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appended_line_goes_behind_the_others_and_no_file_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skipped");
        assert_eq!(append(&file, "SKIP a b (c)\n").unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&file, "").unwrap();
        append(&file, "SKIP a b (c)\n").unwrap();
        append(&file, "SKIP d e (f)\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "SKIP a b (c)\nSKIP d e (f)\n");
    }

    #[test]
    fn the_name_of_a_test_has_its_program_and_its_path() {
        let name = test_name();
        let test = "skip::tests::the_name_of_a_test_has_its_program_and_its_path";
        assert!(name == format!("farwatch_testkit {test}") || name.ends_with(" main"), "{name}");
    }
}
