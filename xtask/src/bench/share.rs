// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A shared directory and its mount, taken away again when dropped; and what it costs the processes behind it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::processor_time;

/// The longest that a mount takes to come up or to say what it has done.
const PATIENCE: Duration = Duration::from_secs(20);
/// So long nothing happens when everything has been delivered.
const QUIET: Duration = Duration::from_millis(200);
/// What the driver says at SIGUSR1.
const REQUESTS: &str = "requests: ";

/// The programs that are measured.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// `farwatch`, release build.
    pub(super) farwatch: PathBuf,
    /// virtiofsd 1.14, where there is one.
    pub(super) stock: Option<PathBuf>,
}

/// Where something is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Site {
    /// In a directory of this machine, without a mount.
    Local,
    /// `farwatch mount`, with all defaults.
    Ours,
    /// The same driver on a device of stock virtiofsd, whose default is `--cache auto` without extended attributes.
    StockAuto,
    /// The same with `--cache always`, which is wrong as soon as the host changes anything.
    StockAlways,
    /// The same with `--xattr`.
    StockXattr,
}

impl Site {
    /// For the head of a column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Ours => "ours",
            Self::StockAuto => "stock auto",
            Self::StockAlways => "stock always",
            Self::StockXattr => "stock --xattr",
        }
    }

    /// Whether it is one of stock virtiofsd's.
    pub(super) fn is_stock(self) -> bool {
        self.stock_options().is_some()
    }

    fn stock_options(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Local | Self::Ours => None,
            Self::StockAuto => Some(&["--cache", "auto"]),
            Self::StockAlways => Some(&["--cache", "always"]),
            Self::StockXattr => Some(&["--cache", "auto", "--xattr"]),
        }
    }
}

/// What the processes behind a mount have done so far, or in some time.
#[derive(Clone, Debug, Default)]
pub(super) struct Costs {
    /// FUSE requests, by kind.
    pub(super) by_kind: Vec<(String, u64)>,
    /// How often a thread of driver or device went to sleep: `voluntary_ctxt_switches`.
    pub(super) sleeps: u64,
    /// Their CPU time.
    pub(super) cpu: Duration,
}

impl Costs {
    /// FUSE requests of all kinds.
    pub(super) fn requests(&self) -> u64 {
        self.by_kind.iter().map(|(_, count)| count).sum()
    }
}

impl Sub<&Self> for Costs {
    type Output = Self;

    fn sub(mut self, before: &Self) -> Self {
        for (kind, count) in &mut self.by_kind {
            let same = before.by_kind.iter().find(|(other, _)| other == kind);
            *count -= same.map_or(0, |(_, before)| *before);
        }
        self.by_kind.retain(|(_, count)| *count > 0);
        self.sleeps = self.sleeps.saturating_sub(before.sleeps);
        self.cpu = self.cpu.saturating_sub(before.cpu);
        self
    }
}

/// A mount of a temporary directory; or the directory alone, for [`Site::Local`].
#[derive(Debug)]
pub(super) struct Share {
    site: Site,
    dir: PathBuf,
    /// Where the directory is shared from, if it is not a part of `dir`.
    shared: Option<PathBuf>,
    mount: Option<(Child, Receiver<String>)>,
    device: Option<Child>,
}

impl Share {
    /// A fresh directory at `site`.
    pub(super) fn start(programs: &Programs, site: Site) -> anyhow::Result<Self> {
        Self::of(programs, site, None)
    }

    /// The directory `shared` at `site`.
    pub(super) fn of(
        programs: &Programs,
        site: Site,
        shared: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("farwatch-bench-").tempdir()?.keep();
        let shared = shared.map(Path::to_owned);
        let mut share = Self { site, dir, shared, mount: None, device: None };
        fs::create_dir(share.dir.join("src"))?;
        fs::create_dir(share.dir.join("mnt"))?;
        match site.stock_options() {
            None if site == Site::Local => {}
            None => share.mount_at(programs, &[share.src().as_os_str()])?,
            Some(options) => share.mount_stock(programs, options)?,
        }
        Ok(share)
    }

    /// Makes a directory, and returns its path in the mount.
    pub(super) fn make_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.mnt().join(name);
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    fn mount_stock(&mut self, programs: &Programs, options: &[&str]) -> anyhow::Result<()> {
        let virtiofsd = programs.stock.as_ref().context("FARWATCH_STOCK_VIRTIOFSD is not set")?;
        let socket = self.dir.join("socket");
        let device = Command::new(virtiofsd)
            .arg("--socket-path")
            .arg(&socket)
            .arg("--shared-dir")
            .arg(self.src())
            .args(["--sandbox", "none", "--log-level", "off"])
            .args(options)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{}", virtiofsd.display()))?;
        self.device = Some(device);
        // The driver says at once when nobody listens yet.
        for _ in 0..100 {
            if socket.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.mount_at(programs, &["--socket".as_ref(), socket.as_os_str()])
    }

    fn mount_at(&mut self, programs: &Programs, what: &[&OsStr]) -> anyhow::Result<()> {
        let mut mount = Command::new(&programs.farwatch)
            .args(["--log", "info", "mount"])
            .args(what)
            .arg(self.mnt())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdout = BufReader::new(mount.stdout.take().context("a pipe")?);
        let stderr = BufReader::new(mount.stderr.take().context("a pipe")?);
        let (line, lines) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|l| line.send(l)));
        let (mount, lines) = self.mount.insert((mount, lines));
        let mut mounted = String::new();
        stdout.read_line(&mut mounted)?;
        if !mounted.starts_with("mounted ") {
            drop(mount.wait());
            bail!("the mount did not come up:\n{}", lines.iter().collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    }

    /// Where it is.
    pub(super) fn site(&self) -> Site {
        self.site
    }

    /// The shared directory.
    pub(super) fn src(&self) -> PathBuf {
        self.shared.clone().unwrap_or_else(|| self.dir.join("src"))
    }

    /// The mount; the shared directory itself for [`Site::Local`].
    pub(super) fn mnt(&self) -> PathBuf {
        if self.site == Site::Local { self.src() } else { self.dir.join("mnt") }
    }

    /// The process that mounts, and its device.
    pub(super) fn processes(&self) -> anyhow::Result<(u32, u32)> {
        let mount = self.mount.as_ref().context("mounted")?.0.id();
        if let Some(device) = &self.device {
            return Ok((mount, device.id()));
        }
        let children = fs::read_to_string(format!("/proc/{mount}/task/{mount}/children"))?;
        let device = children.split_whitespace().next().context("a device")?.parse()?;
        Ok((mount, device))
    }

    /// Waits until no more requests are made for what has been changed so far.
    pub(super) fn settle(&self) -> anyhow::Result<()> {
        let mut before = self.costs()?.requests();
        loop {
            thread::sleep(QUIET);
            let now = self.costs()?.requests();
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }

    /// What both have done since they were started. Nothing where there are none.
    pub(super) fn costs(&self) -> anyhow::Result<Costs> {
        let Some((mount, lines)) = &self.mount else { return Ok(Costs::default()) };
        let (driver, device) = self.processes()?;
        let sleeps = sleeps(driver)? + sleeps(device)?;
        let cpu = processor_time::of(driver)? + processor_time::of(device)?;
        let pid = i32::try_from(mount.id()).ok().and_then(Pid::from_raw).context("a pid")?;
        kill_process(pid, Signal::USR1)?;
        let requests = loop {
            let line = lines.recv_timeout(PATIENCE).context("the driver counts no requests")?;
            if let Some((_, requests)) = line.split_once(REQUESTS) {
                break requests.to_owned();
            }
        };
        let by_kind = requests
            .split_whitespace()
            .map(|kind| {
                let (kind, count) = kind.split_once('=').context("KIND=COUNT")?;
                Ok((kind.to_owned(), count.parse()?))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Costs { by_kind, sleeps, cpu })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some((mut mount, _)) = self.mount.take() {
            let pid = i32::try_from(mount.id()).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::TERM);
            }
            drop(mount.wait());
        }
        if let Some(mut device) = self.device.take() {
            drop(device.kill());
            drop(device.wait());
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// How often the threads of a process went to sleep.
fn sleeps(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("voluntary_ctxt_switches")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}
