// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counts checks and tests from what the test runners print.

use std::collections::BTreeMap;

/// The sum of a run.
///
/// A test that cannot run on this machine is skipped in one of two ways. A trial of `e2e` is known to be
/// skipped before it starts, and the runner says so ([`Tally::add_line`]). Any other test returns early, and
/// the runner counts it as passed; it leaves a line in a file ([`Tally::add_skipped`]).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
    /// Why tests were skipped → how many.
    reasons: BTreeMap<String, u32>,
    failures: Vec<String>,
}

impl Tally {
    /// Adds one check that is not a test.
    pub(crate) fn gate(&mut self, name: &str, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(name.to_owned());
        }
    }

    /// Adds what one line of output tells: a summary of nextest or libtest, a skipped or failed
    /// test, or nothing.
    pub(crate) fn add_line(&mut self, line: &str) {
        let (whole, line) = (line, line.trim());
        if let Some((_, counts)) =
            line.split_once("tests run: ").or_else(|| line.split_once("test run: "))
        {
            // `Summary [ 3.2s] 9 tests run: 7 passed (1 slow), 2 failed, 1 skipped`
            self.add_counts(counts.split(", "));
        } else if let Some(counts) = whole.strip_prefix("test result: ") {
            // `test result: ok. 7 passed; 2 failed; 1 ignored; 0 measured; …`. Indented, it is what nextest
            // shows of a failed test, which is in its summary.
            let (_, counts) = counts.split_once(". ").unwrap_or_default();
            self.add_counts(counts.split("; "));
        } else if line.starts_with("SKIP ") || line.ends_with(" ... ignored") {
            self.add_reason(line.trim_end_matches(" ... ignored"));
        }
    }

    /// Counts a test as skipped that its runner has counted as passed. `line` is what the test has left
    /// (`farwatch_testkit::skip`): `SKIP <program> <test> (<reason>)`. Called after the runner's lines.
    pub(crate) fn add_skipped(&mut self, line: &str) {
        // Zero when the runner broke before its summary; then that is a failure of its own.
        self.passed = self.passed.saturating_sub(1);
        self.skipped += 1;
        self.add_reason(line);
    }

    /// The reason is in the last pair of brackets.
    fn add_reason(&mut self, line: &str) {
        let reason = line.rsplit_once(" (").map_or("no reason", |(_, reason)| reason);
        *self.reasons.entry(reason.trim_end_matches(')').to_owned()).or_default() += 1;
    }

    /// The closing lines; the last one is `N passed, N failed, N skipped`.
    pub(crate) fn report(&self) -> String {
        let mut report = String::new();
        for failure in &self.failures {
            report += &format!("failed: {failure}\n");
        }
        for (reason, count) in &self.reasons {
            report += &format!("skipped: {count} ({reason})\n");
        }
        let Self { passed, failed, skipped, .. } = self;
        report + &format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    fn add_counts<'a>(&mut self, counts: impl Iterator<Item = &'a str>) {
        for count in counts {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match what.split(' ').next().unwrap_or_default() {
                "passed" => self.passed += number,
                "skipped" | "ignored" => self.skipped += number,
                "measured" | "filtered" => {}
                // failed, timed out, could not be started
                _ => self.failed += number,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(output: &str) -> String {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.add_line(line));
        tally.report()
    }

    #[test]
    fn the_summary_of_nextest_is_counted() {
        let output = "     Summary [   3.217s] 9 tests run: 6 passed (1 slow), 2 failed, \
            1 timed out, 4 skipped";
        assert_eq!(sum(output), "6 passed, 3 failed, 4 skipped");
    }

    #[test]
    fn the_summaries_of_libtest_are_added_up() {
        let line = "test result: ok. 3 passed; 1 failed; 2 ignored; 0 measured; 5 filtered out; \
            finished in 0.00s";
        assert_eq!(sum(&format!("{line}\n{line}")), "6 passed, 2 failed, 4 skipped");
    }

    #[test]
    fn the_output_of_a_failed_test_that_nextest_shows_is_not_counted_again() {
        let output = "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured\n\
            \x20    Summary [ 3.2s] 2 tests run: 1 passed, 1 failed, 0 skipped";
        assert_eq!(sum(output), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn the_reasons_of_skipped_tests_are_counted() {
        let output = "        SKIP [         ] (─────) e2e::local tool-rsync (needs rsync)\n\
            test save-vim (needs rsync) ... ignored";
        assert_eq!(sum(output), "skipped: 2 (needs rsync)\n0 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn a_test_that_skipped_itself_is_moved_from_passed_to_skipped_with_its_reason() {
        let mut tally = Tally::default();
        tally.add_line("Summary [ 3.2s] 9 tests run: 7 passed, 1 failed, 1 skipped");
        tally.add_line("SKIP [         ] (─────) e2e::local tool-rsync (needs rsync)");
        tally.add_skipped("SKIP interposer a_test (needs root: CAP_SYS_ADMIN)");
        tally.add_skipped("SKIP thread b_test (needs root: CAP_SYS_ADMIN)");
        let expected = "skipped: 2 (needs root: CAP_SYS_ADMIN)\nskipped: 1 (needs rsync)\n\
            5 passed, 1 failed, 3 skipped";
        assert_eq!(tally.report(), expected);
    }

    #[test]
    fn a_test_that_skipped_itself_in_a_run_without_a_summary_is_counted_and_passed_stays_zero() {
        let mut tally = Tally::default();
        tally.add_skipped("SKIP interposer a_test");
        let expected = "skipped: 1 (no reason)\n0 passed, 0 failed, 1 skipped";
        assert_eq!(tally.report(), expected);
    }

    #[test]
    fn a_failed_check_is_named() {
        let mut tally = Tally::default();
        tally.gate("fmt", true);
        tally.gate("clippy", false);
        assert_eq!(tally.report(), "failed: clippy\n1 passed, 1 failed, 0 skipped");
    }
}
