// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What happens to the shared directory as a whole, or to its file system: it is unmounted, mounted again, or becomes
//! read-only. What the mount shows and what its programs are told stay true of one directory, the one that was shared.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::Mount;
use farwatch_testkit::bench::Watch;
use rustix::fs::inotify::WatchFlags;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use tempfile::TempDir;

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount];
        file_system_of_the_shared_directory_is_not_unmounted_while_it_is_shared,
        file_system_that_was_unmounted_lazily_is_shared_on_and_what_is_mounted_in_its_place_is_not,
        file_system_that_becomes_read_only_refuses_changes_and_has_its_events_when_it_is_writable_again,
        content_of_a_deleted_shared_directory_has_its_events,
    ])
}

/// A file system of its own in memory.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount() -> Result<Self> {
        let fs = Self(tempfile::tempdir()?);
        fs.mount_again()?;
        Ok(fs)
    }

    fn mount_again(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        done(mount.args(["-t", "tmpfs", "none"]).arg(self.path()))
    }

    fn remount(&self, options: &str) -> Result<()> {
        done(Command::new("mount").arg("-o").arg(format!("remount,{options}")).arg(self.path()))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let ended = umount.arg("--lazy").arg("--recursive").arg(self.path()).output();
        drop(ended);
    }
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// A mount of that file system by a device in each way of being shut in, and a watch on it.
fn each_sandbox(test: fn(&Mount, &Tmpfs, &Watch) -> Result<()>) -> Result<()> {
    for sandbox in ["none", "namespace"] {
        let fs = Tmpfs::mount()?;
        let served = Mount::start_through_socket(|mount, socket| {
            let mut command = mount.farwatch()?;
            command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(fs.path());
            command.args(["--sandbox", sandbox]);
            Ok(command)
        })?;
        let watch = Watch::new(&served.mount_point(), WatchFlags::CREATE | WatchFlags::DELETE)?;
        served.sync()?;
        test(&served, &fs, &watch).with_context(|| format!("{sandbox}\n{}", served.log()))?;
    }
    Ok(())
}

/// Waits for the event of a name.
fn told(watch: &Watch, name: &std::ffi::CStr) -> Result<()> {
    watch.read_until(name, Duration::from_secs(20)).map(drop)
}

fn file_system_of_the_shared_directory_is_not_unmounted_while_it_is_shared() -> Result<()> {
    each_sandbox(|served, fs, watch| {
        // In a mount namespace of its own the device has a mount of it, too, which keeps the file system alive.
        if served.log().contains("--sandbox\" \"none") {
            let output = Command::new("umount").arg(fs.path()).output()?;
            ensure!(!output.status.success(), "it was unmounted");
        }
        File::create(fs.path().join("f"))?;
        told(watch, c"f")
    })
}

fn file_system_that_was_unmounted_lazily_is_shared_on_and_what_is_mounted_in_its_place_is_not()
-> Result<()> {
    each_sandbox(|served, fs, watch| {
        let before = File::open(fs.path())?;
        done(Command::new("umount").arg("--lazy").arg(fs.path()))?;
        fs.mount_again()?;
        File::create(fs.path().join("in-its-place"))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        drop(openat(&before, c"before", flags, Mode::RUSR | Mode::WUSR)?);
        told(watch, c"before")?;
        served.sync()?;
        ensure!(watch.drain()?.events == 0, "told of what is in its place");
        ensure!(names(&served.mount_point())? == [PathBuf::from("before")], "another directory");
        // What is made in the mount is there as well.
        File::create(served.mount_point().join("made"))?;
        mkdirat(&before, c"made-too", Mode::RWXU)?;
        told(watch, c"made-too")
    })
}

fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into())).collect()
}

fn file_system_that_becomes_read_only_refuses_changes_and_has_its_events_when_it_is_writable_again()
-> Result<()> {
    each_sandbox(|served, fs, watch| {
        File::create(fs.path().join("f"))?;
        told(watch, c"f")?;
        fs.remount("ro")?;
        let refused = File::create(served.mount_point().join("g")).err();
        let errno = refused.and_then(|error| error.raw_os_error());
        ensure!(errno == Some(rustix::io::Errno::ROFS.raw_os_error()), "{errno:?}");
        ensure!(fs::read(served.mount_point().join("f"))?.is_empty(), "it can be read");
        served.sync()?;
        ensure!(watch.drain()?.events == 0, "told of what did not happen");
        fs.remount("rw")?;
        fs::remove_file(fs.path().join("f"))?;
        told(watch, c"f")?;
        File::create(served.mount_point().join("g"))?;
        told(watch, c"g")
    })
}

fn content_of_a_deleted_shared_directory_has_its_events() -> Result<()> {
    let mount = Mount::start()?;
    for name in ["f", "g"] {
        File::create(mount.host().join(name))?;
    }
    let watch = Watch::new(&mount.mount_point(), WatchFlags::DELETE)?;
    mount.sync()?;
    fs::remove_dir_all(mount.host())?;
    fs::create_dir(mount.host())?;
    File::create(mount.host().join("in-its-place"))?;
    let (f, g) = (mount.mount_point().join("f"), mount.mount_point().join("g"));
    while watch.wait(Duration::from_secs(20)).is_ok() && (f.exists() || g.exists()) {
        watch.drain()?;
    }
    ensure!(!f.exists() && !g.exists(), "they are there still");
    ensure!(names(&mount.mount_point())?.is_empty(), "what is in its place is shared");
    let made = File::create(mount.mount_point().join("new")).err();
    let errno = made.and_then(|error| error.raw_os_error());
    ensure!(errno == Some(rustix::io::Errno::NOENT.raw_os_error()), "{errno:?}");
    let sync = mount.farwatch()?.arg("sync").arg(mount.mount_point()).output()?;
    let said = String::from_utf8_lossy(&sync.stderr);
    ensure!(sync.status.code() == Some(1) && said.contains("has been deleted"), "{said}");
    Ok(())
}
