// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--events all`: OPEN, ACCESS and CLOSE_NOWRITE too. Every stream is first that of a local directory.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::vm::{Kernel, Vm};
use farwatch_testkit::{Mount, Place, Record, Recorder, Share};
use rustix::process::Signal;

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[Need::Mount];
        open_use_and_close_are_reported_in_order,
        listing_is_reported_for_the_directory,
        a_file_stays_open_until_the_host_closes_it,
        reader_beside_a_writer_is_reported_as_a_reader,
        read_in_the_mount_is_reported_once,
        a_writer_that_waits_before_it_writes_is_first_taken_for_a_reader,
        truncation_by_an_open_is_reported_before_or_after_it,
        a_directory_that_was_listed_ends_with_its_deletion,
        a_deleted_file_ends_though_the_host_has_it_open,
        a_mount_ends_while_the_host_has_files_open,
        reads_are_not_reported_without_the_option,
        reads_cannot_be_reported_by_inotify,
    ];
    trials.extend(
        e2e::trials![&[Need::Mount, Need::Vm("6.1")]; reads_are_reported_in_a_machine_with_6_1],
    );
    trials.extend(
        e2e::trials![&[Need::Mount, Need::Vm("6.12")]; reads_are_reported_in_a_machine_with_6_12],
    );
    e2e::run(trials)
}

/// Both sides of a share, and a program that watches.
struct Watched {
    share: Share,
    recorder: Box<dyn Record>,
}

impl Watched {
    fn new(share: Share, paths: &[&str]) -> Result<Self> {
        populate(&share)?;
        share.run_in_mount(LOOK)?;
        let recorder = Recorder::new(&share, Recorder::ALL)?;
        Self::with(share, Box::new(recorder), paths)
    }

    fn with(share: Share, mut recorder: Box<dyn Record>, paths: &[&str]) -> Result<Self> {
        recorder.barrier()?;
        for path in paths {
            recorder.watch(Path::new(path))?;
        }
        recorder.barrier()?;
        recorder.take_events()?;
        Ok(Self { share, recorder })
    }

    /// What has been told, with equal neighbours as one.
    fn told(&mut self) -> Result<String> {
        self.recorder.barrier()?;
        let mut events = self.recorder.take_events()?;
        events.dedup();
        Ok(events.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    fn expect(&mut self, expected: &str) -> Result<()> {
        let told = self.told()?;
        ensure!(told == expected, "told\n  {told}\nand not\n  {expected}");
        Ok(())
    }

    fn file(&self) -> std::path::PathBuf {
        self.share.host().join("f")
    }
}

/// What there is to look at.
fn populate(share: &Share) -> Result<()> {
    share.run_on_host("echo old > f; echo old > g; mkdir d; echo old > d/inner")
}

/// Makes it known to the mount.
const LOOK: &str = "stat f g d d/inner";

/// Runs a test on a local directory and on a mount.
fn on_both(paths: &[&str], test: impl Fn(&mut Watched) -> Result<()>) -> Result<()> {
    let mount = Mount::start_with(&["--events", "all"])?;
    let mut local = Watched::new(mount.local_twin("local")?, paths)?;
    test(&mut local).context("on a local directory")?;
    let mut mounted = Watched::new(mount.share("share")?, paths)?;
    test(&mut mounted).with_context(|| mount.log())
}

fn open_use_and_close_are_reported_in_order() -> Result<()> {
    on_both(&["."], cycles)
}

fn cycles(it: &mut Watched) -> Result<()> {
    for (script, expected) in [
        ("cat f", "OPEN f; ACCESS f; CLOSE_NOWRITE f"),
        ("echo x >> f", "OPEN f; MODIFY f; CLOSE_WRITE f"),
        (": >> f", "OPEN f; CLOSE_WRITE f"),
        ("echo x > new", "CREATE new; OPEN new; MODIFY new; CLOSE_WRITE new"),
        ("cat new; rm new", "OPEN new; ACCESS new; CLOSE_NOWRITE new; DELETE new"),
    ] {
        it.share.run_on_host(script)?;
        it.expect(expected).context(script)?;
    }
    Ok(())
}

fn listing_is_reported_for_the_directory() -> Result<()> {
    for (watched, object) in [(".", "d"), ("d", "[d]")] {
        on_both(&[watched], |it| {
            // A directory that the mount has forgotten is not told of.
            let _known = File::open(it.share.mount().join("d"))?;
            it.told()?;
            it.share.run_on_host("ls d")?;
            let events = ["OPEN,ISDIR", "ACCESS,ISDIR", "CLOSE_NOWRITE,ISDIR"];
            it.expect(&events.map(|event| format!("{event} {object}")).join("; "))
        })?;
    }
    Ok(())
}

fn a_file_stays_open_until_the_host_closes_it() -> Result<()> {
    on_both(&[".", "f"], stays_open)
}

fn stays_open(it: &mut Watched) -> Result<()> {
    let mut reader = File::open(it.file())?;
    it.expect("OPEN f; OPEN [f]")?;
    reader.read_exact(&mut [0])?;
    it.expect("ACCESS f; ACCESS [f]")?;
    fs::rename(it.file(), it.share.host().join("f2"))?;
    it.expect("MOVED_FROM f c1; MOVED_TO f2 c1; MOVE_SELF [f]")?;
    drop(reader);
    it.expect("CLOSE_NOWRITE f2; CLOSE_NOWRITE [f]")?;
    let mut writer = OpenOptions::new().append(true).open(it.share.host().join("f2"))?;
    writer.write_all(b"more")?;
    it.expect("OPEN f2; OPEN [f]; MODIFY f2; MODIFY [f]")?;
    drop(writer);
    it.expect("CLOSE_WRITE f2; CLOSE_WRITE [f]")
}

fn reader_beside_a_writer_is_reported_as_a_reader() -> Result<()> {
    on_both(&["."], |it| {
        let mut writer = OpenOptions::new().append(true).open(it.file())?;
        writer.write_all(b"more")?;
        it.expect("OPEN f; MODIFY f")?;
        it.share.run_on_host("cat f")?;
        it.expect("OPEN f; ACCESS f; CLOSE_NOWRITE f")?;
        let reader = File::open(it.file())?;
        it.expect("OPEN f")?;
        writer.write_all(b"more")?;
        it.expect("MODIFY f")?;
        drop(writer);
        it.expect("CLOSE_WRITE f")?;
        drop(reader);
        it.expect("CLOSE_NOWRITE f")
    })
}

fn read_in_the_mount_is_reported_once() -> Result<()> {
    on_both(&["."], |it| {
        for (script, expected) in [
            ("cat f", "OPEN f; ACCESS f; CLOSE_NOWRITE f"),
            ("ls d", "OPEN,ISDIR d; ACCESS,ISDIR d; CLOSE_NOWRITE,ISDIR d"),
            ("echo x >> f", "OPEN f; MODIFY f; CLOSE_WRITE f"),
        ] {
            it.share.run_in_mount(script)?;
            it.expect(expected).context(script)?;
        }
        Ok(())
    })
}

fn a_writer_that_waits_before_it_writes_is_first_taken_for_a_reader() -> Result<()> {
    let mount = Mount::start_with(&["--events", "all"])?;
    let mut it = Watched::new(mount.share("share")?, &["."])?;
    let mut writer = OpenOptions::new().append(true).open(it.file())?;
    it.expect("OPEN f")?;
    writer.write_all(b"more")?;
    it.expect("MODIFY f")?;
    drop(writer);
    it.expect("OPEN f; CLOSE_WRITE f; CLOSE_NOWRITE f")
}

fn truncation_by_an_open_is_reported_before_or_after_it() -> Result<()> {
    on_both(&["."], |it| {
        it.share.run_on_host("echo x > f")?;
        let told = it.told()?;
        let (after, before) = ("OPEN f; MODIFY f; CLOSE_WRITE f", "MODIFY f; ");
        ensure!(told.strip_prefix(before).unwrap_or(&told) == after, "{told}");
        Ok(())
    })
}

fn a_directory_that_was_listed_ends_with_its_deletion() -> Result<()> {
    let mount = Mount::start_with(&["--events", "all"])?;
    let mut it = Watched::new(mount.share("share")?, &["d"])?;
    let listing = File::open(it.share.host().join("d"))?;
    it.expect("OPEN,ISDIR [d]")?;
    it.share.run_on_host("rm d/inner; rmdir d")?;
    let told = it.told()?;
    ensure!(told.ends_with("CLOSE_NOWRITE,ISDIR [d]; DELETE_SELF [d]; IGNORED [d]"), "{told}");
    drop(listing);
    it.expect("")
}

fn a_mount_ends_while_the_host_has_files_open() -> Result<()> {
    let mut mount = Mount::start_with(&["--events", "all"])?;
    let mut it = Watched::new(mount.share("share")?, &["."])?;
    let (_reader, mut writer) =
        (File::open(it.file())?, OpenOptions::new().append(true).open(it.share.host().join("g"))?);
    writer.write_all(b"more")?;
    let told = it.told()?;
    ensure!(told.contains("OPEN f") && told.contains("OPEN g; MODIFY g"), "{told}");
    drop(it);
    mount.driver().signal(Signal::TERM)?;
    ensure!(mount.ended()?.success(), "the mount did not end cleanly");
    Ok(())
}

fn a_deleted_file_ends_though_the_host_has_it_open() -> Result<()> {
    let mount = Mount::start_with(&["--events", "all"])?;
    let mut it = Watched::new(mount.share("share")?, &["f"])?;
    let reader = File::open(it.file())?;
    it.expect("OPEN [f]")?;
    fs::remove_file(it.file())?;
    it.expect("ATTRIB [f]; CLOSE_NOWRITE [f]; DELETE_SELF [f]; IGNORED [f]")?;
    drop(reader);
    it.expect("")
}

fn reads_are_not_reported_without_the_option() -> Result<()> {
    let mount = Mount::start()?;
    let mut it = Watched::new(mount.share("share")?, &["."])?;
    it.share.run_on_host("cat f; ls d; echo x >> g")?;
    let told = it.told()?;
    ensure!(
        told == "OPEN g; MODIFY g; CLOSE_WRITE g" || told == "MODIFY g; OPEN g; CLOSE_WRITE g",
        "{told}"
    );
    Ok(())
}

fn reads_cannot_be_reported_by_inotify() -> Result<()> {
    let mount = Mount::unmounted()?;
    let mut command: Command = mount.farwatch()?;
    command.args(["mount", "--events", "all", "--watch", "inotify"]);
    let output = command.arg(mount.host()).arg(mount.mount_point()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let why = "--events all needs fanotify: inotify does not report which process reads a file";
    ensure!(output.status.code() == Some(1) && said.contains(why), "{said}");
    Ok(())
}

fn reads_are_reported_in_a_machine_with_6_1() -> Result<()> {
    in_a_machine("6.1")
}

fn reads_are_reported_in_a_machine_with_6_12() -> Result<()> {
    in_a_machine("6.12")
}

fn in_a_machine(version: &str) -> Result<()> {
    let kernel = Kernel::find(version).context("no such kernel")?;
    let vm = Vm::start_without_agent(&kernel, &["--events", "all"])?;
    vm.start_agent()?;
    let test = |name: &str, paths: &[&str], test: fn(&mut Watched) -> Result<()>| {
        let share = vm.share(name)?;
        populate(&share)?;
        vm.run_in_mount(&share, LOOK)?;
        let recorder = vm.remote_recorder_of_all(&share)?;
        test(&mut Watched::with(share, Box::new(recorder), paths)?).with_context(|| vm.log())
    };
    test("cycles", &["."], cycles)?;
    test("stays-open", &[".", "f"], stays_open)?;
    test("listing", &["d"], |it| {
        it.share.run_on_host("ls d")?;
        it.expect("OPEN,ISDIR [d]; ACCESS,ISDIR [d]; CLOSE_NOWRITE,ISDIR [d]")
    })
}
