// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commands that documents show have the output that they show.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use e2e::transcript::Transcript;

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount, Need::Inotifywait, Need::Program("getfattr")];
        the_commands_of_the_readme_print_what_it_shows,
        the_commands_of_the_tutorial_print_what_it_shows,
        the_commands_of_the_page_on_types_print_what_it_shows,
        the_commands_of_the_status_page_print_what_it_shows,
        a_transcript_with_another_output_fails,
    ])
}

/// Runs the commands of a document, of which there are at least so many.
fn run(document: &str, len_min: usize) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = std::fs::read_to_string(&path).with_context(|| document.to_owned())?;
    let transcript = Transcript::parse(&text)?;
    ensure!(transcript.len() >= len_min, "{document} has {} commands to run", transcript.len());
    transcript.run(&programs()?)
}

fn programs() -> Result<std::path::PathBuf> {
    let farwatch = farwatch_testkit::farwatch()?;
    let dir = Path::new(farwatch.get_program()).parent().context("a program is in a directory")?;
    Ok(dir.canonicalize()?)
}

fn the_commands_of_the_readme_print_what_it_shows() -> Result<()> {
    run("README.md", 5)
}

fn the_commands_of_the_tutorial_print_what_it_shows() -> Result<()> {
    run("docs/TUTORIAL.md", 10)
}

fn the_commands_of_the_page_on_types_print_what_it_shows() -> Result<()> {
    run("docs/TYPES.md", 3)
}

fn the_commands_of_the_status_page_print_what_it_shows() -> Result<()> {
    run("docs/STATUS.md", 6)
}

fn a_transcript_with_another_output_fails() -> Result<()> {
    let run = |output: &str| {
        let text = format!("```console run\n$ echo 12 of 30 files; echo b\n{output}\n```\n");
        Transcript::parse(&text)?.run(&programs()?)
    };
    run("9 of 1,000  files\nb")?;
    run("…\nb")?;
    run("9 of…\nb")?;
    for wrong in ["9 of 30 file\nb", "9 of 30 files", "b\n9 of 30 files", "9 of…"] {
        ensure!(run(wrong).is_err(), "passes: {wrong}");
    }
    Ok(())
}
