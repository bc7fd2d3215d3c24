// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads a scenario file. Strict: a section or word that is not known is an error, so that a
//! slip of the pen cannot make a test that tests nothing.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Expectation, Scenario, Step, Watch};
use crate::event::Event;

/// Parses `text`, the content of the file called `name`.
pub(super) fn scenario(name: &str, text: &str) -> Result<Scenario> {
    let mut lines = text.lines().peekable();
    let title = lines.next().unwrap_or_default();
    ensure!(title.starts_with("# "), "the first line says what is shown: `# …`");
    let mut scenario = Scenario {
        name: name.to_owned(),
        needs: Vec::new(),
        fresh_mount: false,
        setup: String::new(),
        watches: Vec::new(),
        random_names: Vec::new(),
        steps: Vec::new(),
        checks: Vec::new(),
    };
    let mut script = None;
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) =
            line.split_once(':').with_context(|| format!("no section starts like {line:?}"))?;
        let mut block = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
            block.extend(line.strip_prefix("  "));
        }
        let value = value.trim();
        ensure!(
            (value.is_empty() && !block.is_empty())
                || (!value.is_empty() && block.is_empty())
                || ["expect", "locally"].contains(&key),
            "{key}: wants either a word on its line or an indented block below it"
        );
        let words = || value.split_whitespace().map(str::to_owned);
        match key {
            "needs" => scenario.needs.extend(words()),
            "mount" => {
                ensure!(value == "fresh", "mount: can only be `fresh`");
                scenario.fresh_mount = true;
            }
            "random" => scenario.random_names.extend(words()),
            "watch" => scenario.watches.push(watch(value)?),
            "setup" => scenario.setup = block.join("\n"),
            "run" => {
                ensure!(script.replace(block.join("\n")).is_none(), "a run: without its expect:");
            }
            "expect" => {
                let script = script.take().context("an expect: without its run:")?;
                let expectation = expectation(value, &block)?;
                scenario.steps.push(Step { script, expectation, locally: None });
            }
            "locally" => {
                ensure!(value.is_empty(), "locally: wants an indented stream");
                let step = scenario.steps.last_mut().filter(|_| script.is_none());
                let step = step.context("a locally: without its expect:")?;
                let is_written = matches!(step.expectation, Expectation::Stream(_));
                ensure!(is_written, "locally: without a written stream in its expect:");
                ensure!(step.locally.replace(stream(&block)?).is_none(), "a second locally:");
            }
            "check" => scenario.checks.extend(block.into_iter().map(str::to_owned)),
            _ => bail!("unknown section {key:?}"),
        }
    }
    let written = |step: &Step| matches!(step.expectation, Expectation::Stream(_));
    ensure!(
        scenario.steps.iter().all(written) || !scenario.steps.iter().any(written),
        "either every stream is written down or none"
    );
    ensure!(script.is_none(), "the last run: has no expect:");
    ensure!(!scenario.steps.is_empty(), "nothing is run");
    ensure!(!scenario.watches.is_empty(), "nothing is watched");
    Ok(scenario)
}

fn watch(value: &str) -> Result<Watch> {
    let (path, recursive) = match value.strip_suffix(" -r") {
        Some(path) => (path, true),
        None => (value, false),
    };
    ensure!(!path.is_empty(), "watch: wants a path");
    Ok(Watch { path: PathBuf::from(path), recursive })
}

fn expectation(value: &str, block: &[&str]) -> Result<Expectation> {
    match (value, block) {
        ("as-local", []) => Ok(Expectation::AsLocal),
        ("as-local in any order", []) => Ok(Expectation::AsLocalInAnyOrder),
        // An empty block is a promise too: nothing is reported.
        ("", lines) => Ok(Expectation::Stream(stream(lines)?)),
        _ => bail!("expect: wants an indented stream, `as-local` or `as-local in any order`"),
    }
}

fn stream(lines: &[&str]) -> Result<Vec<Event>> {
    lines.iter().map(|line| Event::parse(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# A rename.\nsetup:\n  touch a\nwatch: . -r\nrun:\n  mv a b\n\
        expect:\n  MOVED_FROM a c1\n  MOVED_TO b c1\ncheck:\n  test -f b\n";

    #[test]
    fn a_scenario_is_read_section_by_section() {
        let scenario = scenario("rename", GOOD).unwrap();
        assert!(scenario.watches[0].recursive);
        assert_eq!(scenario.setup, "touch a");
        let Expectation::Stream(stream) = &scenario.steps[0].expectation else { panic!() };
        assert_eq!(stream.len(), 2);
        assert_eq!(scenario.checks, ["test -f b"]);
    }

    #[test]
    fn a_local_stream_belongs_to_the_step_before_and_is_a_difference_if_it_is_another_one() {
        let local = |stream: &str| format!("{GOOD}run:\n  rm b\nexpect:\nlocally:\n{stream}");
        let other = scenario("x", &local("  DELETE b\n")).unwrap();
        assert!(other.steps[0].locally.is_none());
        assert_eq!(other.steps[1].locally.as_ref().map(Vec::len), Some(1));
        assert!(other.differs_locally());
        assert!(!scenario("x", &local("")).unwrap().differs_locally());
        assert!(!scenario("x", GOOD).unwrap().differs_locally());
    }

    #[test]
    fn a_local_stream_without_a_written_one_before_it_is_an_error() {
        let locally = "locally:\n  DELETE b\n";
        for text in [
            GOOD.replacen("run:\n", &format!("{locally}run:\n"), 1),
            GOOD.replacen("expect:\n", &format!("{locally}expect:\n"), 1),
            format!("{GOOD}{locally}{locally}"),
            format!("{GOOD}locally: as-local\n"),
            "# A.\nwatch: .\nrun:\n  rm b\nexpect: as-local\n".to_owned() + locally,
        ] {
            assert!(scenario("x", &text).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_input_is_refused() {
        for (from, to) in [
            ("# A", "A"),
            ("setup", "set-up"),
            ("watch: . -r\n", ""),
            ("watch: . -r", "watch:"),
            ("run:\n  mv a b\n", ""),
            ("MOVED_TO b c1", "MOVED_TO b"),
            ("expect:\n", "expect: something\n"),
        ] {
            assert!(scenario("x", &GOOD.replacen(from, to, 1)).is_err(), "{from} → {to}");
        }
    }
}
