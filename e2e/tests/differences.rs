// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a mount is known not to do what a local directory does: `docs/SEMANTICS.md` says why.
//!
//! The scenarios in `differences` must pass on a mount and fail on a local directory. One that fails
//! here is good news: it moves to `scenarios`.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use e2e::{Need, scenario_trial, trial};
use farwatch_testkit::{Kind, Mount, PATIENCE, Recorder, Scenario};
use inotify::WatchMask;

fn main() -> ExitCode {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("differences");
    let scenarios = Scenario::load_all(&dir).expect("every scenario can be read");
    let mut trials: Vec<_> = scenarios
        .into_iter()
        .map(|scenario| scenario_trial(scenario, &[Need::Mount], differs))
        .collect();
    trials.push(trial(
        "an_open_is_told_with_the_close_and_a_read_not_at_all",
        &[Need::Mount],
        open_with_the_close,
    ));
    e2e::run(trials)
}

fn differs(scenario: &Scenario) -> Result<()> {
    scenario.run(&Mount::start()?)?;
    ensure!(scenario.run(&Mount::local()?).is_err(), "there is no difference any more");
    Ok(())
}

fn open_with_the_close() -> Result<()> {
    let mount = Mount::start()?;
    let share = mount.share("open")?;
    let file = share.host().join("f");
    fs::File::create_new(&file)?;
    let everything = Recorder::CHANGES | WatchMask::OPEN | WatchMask::ACCESS | WatchMask::CLOSE;
    let mut recorder = Recorder::new(&share, everything)?;
    recorder.barrier()?;
    recorder.watch(Path::new("."))?;
    let mut told = |wanted: &[Kind]| -> Result<()> {
        recorder.wait_until(PATIENCE, |recorder| recorder.events().len() >= wanted.len())?;
        recorder.barrier()?;
        let told: Vec<Kind> = recorder.take_events().iter().map(|event| event.kind).collect();
        ensure!(told == wanted, "{told:?} instead of {wanted:?}");
        Ok(())
    };
    fs::read(&file)?;
    told(&[])?;
    let mut writer = fs::OpenOptions::new().append(true).open(&file)?;
    writer.write_all(b"x")?;
    told(&[Kind::Modify])?;
    drop(writer);
    told(&[Kind::Open, Kind::CloseWrite])
}
