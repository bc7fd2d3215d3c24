// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A shared directory and its mount, taken away again when dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};

/// A mount of a temporary directory.
pub(super) struct Share {
    dir: PathBuf,
    mount: Option<Child>,
    device: Option<Child>,
}

impl Share {
    /// `farwatch mount SRC MNT`.
    pub(super) fn farwatch(farwatch: &Path) -> anyhow::Result<Self> {
        let mut share = Self::directories("farwatch")?;
        share.mount_at(farwatch, &[share.src().as_os_str()])?;
        Ok(share)
    }

    /// The same driver on a device of stock virtiofsd, which shares extended attributes too.
    pub(super) fn stock(farwatch: &Path, virtiofsd: &Path) -> anyhow::Result<Self> {
        let mut share = Self::directories("stock")?;
        let socket = share.dir.join("socket");
        let device = Command::new(virtiofsd)
            .arg("--socket-path")
            .arg(&socket)
            .arg("--shared-dir")
            .arg(share.src())
            .args(["--sandbox", "none", "--xattr", "--log-level", "off"])
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{}", virtiofsd.display()))?;
        share.device = Some(device);
        // The driver says at once when nobody listens yet.
        let args = ["--socket".as_ref(), socket.as_os_str()];
        for _ in 0..100 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        share.mount_at(farwatch, &args)?;
        Ok(share)
    }

    fn directories(name: &str) -> anyhow::Result<Self> {
        let dir = format!("farwatch-bench-{name}-{}", std::process::id());
        let share = Self { dir: std::env::temp_dir().join(dir), mount: None, device: None };
        std::fs::create_dir_all(share.src())?;
        std::fs::create_dir_all(share.mnt())?;
        Ok(share)
    }

    fn mount_at(&mut self, farwatch: &Path, what: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
        let mut mount = Command::new(farwatch)
            .args(["--log", "error", "mount"])
            .args(what)
            .arg(self.mnt())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout: ChildStdout = mount.stdout.take().context("a pipe")?;
        self.mount = Some(mount);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if !line.starts_with("mounted ") {
            bail!("the mount did not come up");
        }
        Ok(())
    }

    /// The shared directory.
    pub(super) fn src(&self) -> PathBuf {
        self.dir.join("src")
    }

    /// The mount.
    pub(super) fn mnt(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// The process that mounts, and its device.
    pub(super) fn processes(&self) -> anyhow::Result<(u32, u32)> {
        let mount = self.mount.as_ref().context("mounted")?.id();
        let children = std::fs::read_to_string(format!("/proc/{mount}/task/{mount}/children"))?;
        let device = children.split_whitespace().next().context("a device")?.parse()?;
        Ok((mount, device))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(mut mount) = self.mount.take() {
            let pid = i32::try_from(mount.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            drop(mount.wait());
        }
        if let Some(mut device) = self.device.take() {
            drop(device.kill());
            drop(device.wait());
        }
        drop(std::fs::remove_dir_all(&self.dir));
    }
}
