// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Known differences between a mount and a local directory: `docs/SEMANTICS.md` gives the reasons.
//!
//! Each scenario in `differences` has two streams for a step: that of a mount (`expect:`) and that of a
//! local directory (`locally:`). Both are checked. One of which the mount gives the local stream moves to
//! `scenarios`.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
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
        "open_is_reported_with_the_close_and_a_read_is_not_reported",
        &[Need::Mount],
        open_with_the_close,
    ));
    e2e::run(trials)
}

/// Differences that a mount has only where the host is watched by fanotify.
const BY_FANOTIFY: [&str; 1] = ["attrib-never-looked-up-directory"];

fn differs(scenario: &Scenario) -> Result<()> {
    ensure!(scenario.differs_locally(), "no step has a `locally:` that differs from its `expect:`");
    let by_fanotify = BY_FANOTIFY.contains(&scenario.name.as_str());
    let options: &[&str] = if by_fanotify { &["--watch", "fanotify"] } else { &[] };
    scenario.run(&Mount::start_with(options)?).context("on a mount")?;
    scenario.run(&Mount::local()?).context("on a local directory")
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
