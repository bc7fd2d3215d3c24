// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `mount -t farwatch`: the helper that mount(8) starts, by hand, through mount(8) and from a table like /etc/fstab.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::{Mount, Recorder, Share, is_mount_point, render};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Where mount(8) looks for helpers.
const HELPERS: &str = "/sbin";
const NAME: &str = "mount.farwatch";

fn main() -> ExitCode {
    e2e::enter_own_mount_namespace();
    e2e::run(e2e::trials![
        &[Need::Mount, Need::Program("mount")];
        the_helper_returns_when_events_are_delivered_and_leaves_nothing_after_umount,
        the_helper_lets_go_of_its_standard_error,
        mount_and_its_table_start_the_helper,
        flags_of_mount_are_those_of_the_mount,
        ro_keeps_the_mount_from_changing_anything_and_events_come,
        a_mount_that_fails_is_one_sentence_and_exit_code_32,
        wrong_usage_is_exit_code_1_and_names_the_option,
        nothing_is_mounted_where_mount_only_pretends,
    ])
}

fn the_helper_returns_when_events_are_delivered_and_leaves_nothing_after_umount() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.mounted(&[])?;
    let share = fixture.mount.share("share")?;
    events_come(&share)?;
    drop(share);
    fixture.umount()
}

/// A file made on the host is an event in the mount.
fn events_come(share: &Share) -> Result<()> {
    let mut recorder = Recorder::new(share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    share.run_on_host("touch made")?;
    recorder.barrier()?;
    let seen = render(recorder.events());
    ensure!(seen.contains("CREATE made"), "{seen}");
    Ok(())
}

/// `output` reads to the end of the pipe: it would not return while the background process has it.
fn the_helper_lets_go_of_its_standard_error() -> Result<()> {
    let fixture = Fixture::new()?;
    let (mut reader, writer) = std::io::pipe()?;
    let mut helper = fixture.helper(&[])?;
    helper.stdout(writer.try_clone()?).stderr(writer);
    let status = helper.status()?;
    drop(helper);
    let mut said = String::new();
    reader.read_to_string(&mut said)?;
    ensure!(status.success() && said.is_empty(), "{status}: {said}");
    fixture.umount()
}

fn mount_and_its_table_start_the_helper() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.install()?;
    let (host, mount_point) = (fixture.mount.host(), fixture.mount.mount_point());
    let mut mount = fixture.marked("mount")?;
    mount.args(["-t", "farwatch", "-o", "cache=never"]).arg(&host).arg(&mount_point);
    succeeds(&mut mount)?;
    fixture.is_shared()?;
    fixture.umount()?;
    let table = fixture.mount.outside().join("fstab");
    let line = format!(
        "{} {} farwatch defaults,lease=120,nofail,x-systemd.automount 0 0\n",
        host.display(),
        mount_point.display()
    );
    fs::write(&table, line)?;
    for round in ["mounted", "there already"] {
        let mut mount = fixture.marked("mount")?;
        succeeds(mount.arg("--all").arg("--fstab").arg(&table)).context(round)?;
        fixture.is_shared()?;
    }
    fixture.umount()
}

fn flags_of_mount_are_those_of_the_mount() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.mounted(&["-o", "rw,noexec,noatime"])?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let point = fixture.mount.mount_point().display().to_string();
    let line = table.lines().find(|line| line.contains(&point)).context("not mounted")?;
    for flag in ["nosuid", "nodev", "noexec", "noatime"] {
        ensure!(line.contains(flag), "{flag} is missing: {line}");
    }
    fixture.umount()
}

fn ro_keeps_the_mount_from_changing_anything_and_events_come() -> Result<()> {
    let fixture = Fixture::new()?;
    fixture.mounted(&["-o", "ro"])?;
    let share = fixture.mount.share("share")?;
    let made = fs::write(share.mount().join("f"), "");
    ensure!(made.is_err_and(|error| error.raw_os_error() == Some(30)), "it is not EROFS");
    events_come(&share)?;
    drop(share);
    fixture.umount()
}

fn a_mount_that_fails_is_one_sentence_and_exit_code_32() -> Result<()> {
    let fixture = Fixture::new()?;
    fs::remove_dir(fixture.mount.host())?;
    let output = fixture.helper(&[])?.output()?;
    fs::create_dir(fixture.mount.host())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(32), "{}: {said}", output.status);
    ensure!(said.contains(&fixture.mount.host().display().to_string()), "{said}");
    Ok(())
}

fn wrong_usage_is_exit_code_1_and_names_the_option() -> Result<()> {
    let fixture = Fixture::new()?;
    for option in ["colour=blue", "suid"] {
        let Output { status, stderr, .. } = fixture.helper(&["-o", option])?.output()?;
        let said = String::from_utf8_lossy(&stderr);
        ensure!(status.code() == Some(1) && said.contains(option), "{status}: {said}");
    }
    let code = fixture.marked(&fixture.program)?.output()?.status.code();
    ensure!(code == Some(1), "without a directory: {code:?}");
    Ok(())
}

fn nothing_is_mounted_where_mount_only_pretends() -> Result<()> {
    let fixture = Fixture::new()?;
    succeeds(&mut fixture.helper(&["-f"])?)?;
    ensure!(!is_mount_point(&fixture.mount.mount_point())?, "it is mounted");
    Ok(())
}

/// Two directories, and the helper by its name.
struct Fixture {
    mount: Mount,
    program: PathBuf,
}

impl Fixture {
    fn new() -> Result<Self> {
        let mount = Mount::unmounted()?;
        let program = mount.outside().join(NAME);
        symlink(mount.farwatch()?.get_program(), &program)?;
        Ok(Self { mount, program })
    }

    /// A program whose processes are those of this fixture.
    fn marked(&self, program: impl AsRef<Path>) -> Result<Command> {
        let mut command = Command::new(program.as_ref());
        let farwatch = self.mount.farwatch()?;
        command.envs(farwatch.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ok(command)
    }

    /// The helper, as mount(8) starts it.
    fn helper(&self, options: &[&str]) -> Result<Command> {
        let mut helper = self.marked(&self.program)?;
        helper.arg(self.mount.host()).arg(self.mount.mount_point()).args(options);
        Ok(helper)
    }

    fn mounted(&self, options: &[&str]) -> Result<()> {
        succeeds(&mut self.helper(options)?)?;
        self.is_shared()
    }

    fn is_shared(&self) -> Result<()> {
        ensure!(is_mount_point(&self.mount.mount_point())?, "it is not mounted");
        self.mount.sync()
    }

    fn umount(&self) -> Result<()> {
        succeeds(Command::new("umount").arg(self.mount.mount_point()))?;
        self.mount.wait_for_processes()
    }

    /// Puts the helper where mount(8) looks for it, in the mount namespace of this process.
    fn install(&self) -> Result<()> {
        let dir = self.mount.outside().join("helpers");
        fs::create_dir(&dir)?;
        // An overlay is not laid over a directory of another overlay, as the root of a container is.
        mount("none", &dir, "tmpfs", MountFlags::empty(), None)?;
        let layer = |name: &str| -> Result<String> {
            let layer = dir.join(name);
            fs::create_dir(&layer)?;
            Ok(layer.display().to_string())
        };
        let (upper, work) = (layer("upper")?, layer("work")?);
        symlink(&self.program, Path::new(&upper).join(NAME))?;
        let sbin = fs::canonicalize(HELPERS)?;
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", sbin.display());
        mount(
            "none",
            &sbin,
            "overlay",
            MountFlags::empty(),
            Some(&*std::ffi::CString::new(options)?),
        )?;
        Ok(())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // After a failure: what failed is told, and not that it is still mounted.
        let mount_point = self.mount.mount_point();
        if is_mount_point(&mount_point).unwrap_or(false) {
            let _unmounted = unmount(mount_point, UnmountFlags::DETACH);
        }
        let dir = self.mount.outside().join("helpers");
        if dir.exists() {
            for path in [Path::new(HELPERS), &dir] {
                let _unmounted = unmount(path, UnmountFlags::DETACH);
            }
        }
    }
}

fn succeeds(command: &mut Command) -> Result<()> {
    let Output { status, stderr, .. } = command.output()?;
    ensure!(status.success(), "{command:?}: {status}: {}", String::from_utf8_lossy(&stderr));
    Ok(())
}
