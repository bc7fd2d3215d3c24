// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a mount with an agent differs from a local directory (`docs/SEMANTICS.md`), and a kernel that raises the
//! events itself does not: User-mode Linux with the patches of `kernel/series`.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::vm::{Uml, Vm};
use farwatch_testkit::{Event, Kind, Place, Record as _};

const VERSION: &str = "6.12";
const NEEDS: [Need; 2] = [Need::Mount, Need::Uml(VERSION)];

fn main() -> ExitCode {
    let trials = e2e::trials![
        &NEEDS;
        close_of_a_fifo_is_reported_to_its_watchers,
        close_is_reported_without_an_open_before_it,
        open_and_read_are_reported_immediately_without_an_open_in_the_guest,
    ];
    e2e::run(trials)
}

fn start(options: &[&str]) -> Result<Vm> {
    Vm::start_uml(&Uml::find(VERSION).context("the kernel has gone")?, options)
}

fn close_is_reported_without_an_open_before_it() -> Result<()> {
    told(&[], &[], &[Kind::Modify, Kind::CloseWrite])
}

fn open_and_read_are_reported_immediately_without_an_open_in_the_guest() -> Result<()> {
    let read = [Kind::Open, Kind::Access, Kind::CloseNowrite];
    let written = [Kind::Open, Kind::Modify, Kind::CloseWrite];
    told(&["--events", "all"], &read, &written)
}

fn close_of_a_fifo_is_reported_to_its_watchers() -> Result<()> {
    let vm = start(&[])?;
    let share = vm.share("fifo")?;
    share.run_on_host("mkfifo p")?;
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("p"))?;
    share.run_on_host("exec 3<> p; exec 3>&-")?;
    recorder.barrier()?;
    let told = recorder.take_events()?;
    ensure!(told == [Event::parse("CLOSE_WRITE [p]")?], "{told:?}\n{}", vm.log());
    vm.is_sound()
}

/// Reads a file on the host, and writes to it.
fn told(options: &[&str], read: &[Kind], written: &[Kind]) -> Result<()> {
    let vm = start(options)?;
    let share = vm.share("open")?;
    let file = share.host().join("f");
    fs::write(&file, "content")?;
    let mut recorder = vm.remote_recorder_of_all(&share)?;
    recorder.watch(Path::new("."))?;
    recorder.barrier()?;
    recorder.take_events()?;
    let mut told = |wanted: &[Kind]| -> Result<()> {
        recorder.barrier()?;
        let of_file = |event: &&Event| event.object == "f";
        let events = recorder.take_events()?;
        let told: Vec<Kind> = events.iter().filter(of_file).map(|event| event.kind).collect();
        ensure!(told == wanted, "{told:?} instead of {wanted:?}\n{}", vm.log());
        Ok(())
    };
    fs::read(&file)?;
    told(read)?;
    fs::OpenOptions::new().append(true).open(&file)?.write_all(b"x")?;
    told(written)?;
    vm.is_sound()
}
