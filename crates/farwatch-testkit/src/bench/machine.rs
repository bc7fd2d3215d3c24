// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Machine`]: a User-mode Linux with two shares, one whose events its kernel raises and one for which it is like a
//! stock kernel, and with local directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::burst::burst;
use super::latency::Change;
use super::tree::fill;
use super::{DONE, PROGRESS, READY};
use crate::mount::Mount;
use crate::vm::{Guest, Uml, mount_point, programs, serve};

const NATIVE: &str = "native";
const STOCK: &str = "stock";
const AGENT: &str = "agent";
/// For what the guest caches of trees and bursts.
const MEMORY: &str = "1G";
/// Enough for a burst, and for the watches on a tree.
const LIMIT: usize = 1 << 20;
/// Where the guest has the programs for guests.
const PROGRAMS: &str = "/bench";
/// Says whether the guest's kernel raises the events of what is mounted from then on.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_fsnotify";
/// The server says who its client is. What was looked up once is cached for as long as events keep it true: else a
/// walk that takes longer than a second would be the same requests again.
const OPTIONS: [&str; 4] = ["--log", "info", "--cache", "always"];
/// `farwatch-agent sync` has waited long enough.
const TIMED_OUT: i32 = 3;
/// How often it is called until it waits no more.
const SYNCS_MAX: u32 = 15;
/// What the server logs when the guest's kernel is its client.
const RAISES: &str = "the guest's kernel raises events itself";

/// Where a directory is changed and watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Site {
    /// Both in a file system of the guest, in memory.
    Tmpfs,
    /// Both in a directory of the host that is not shared: the guest's hostfs.
    Hostfs,
    /// The share whose events the guest's kernel raises.
    Native,
    /// The share for which the guest's kernel is like a stock one, with or without an agent.
    Stock,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Machine {
    // In the order in which they go: the machine before its devices.
    guest: Guest,
    native: Mount,
    stock: Mount,
    /// How often the program was run in the guest: each time under another name.
    runs: u32,
}

impl Machine {
    /// Boots a kernel.
    pub(super) fn boot(kernel: &Uml) -> Result<Self> {
        let (native, stock) = (serve(NATIVE, &OPTIONS)?, serve(STOCK, &OPTIONS)?);
        let shares = [(NATIVE, native.socket()), (STOCK, stock.socket())];
        let shares = shares.each_ref().map(|(tag, socket)| (*tag, socket.as_path()));
        let guest = Guest::boot_uml(&kernel.clone().with_memory(MEMORY), &shares)?;
        let mut machine = Self { guest, native, stock, runs: 0 };
        machine.set_up()?;
        Ok(machine)
    }

    fn set_up(&mut self) -> Result<()> {
        let stock = mount_point(STOCK);
        let stock = stock.display();
        let tmpfs = Site::Tmpfs.changed();
        let tmpfs = tmpfs.display();
        self.shell(&format!(
            "mkdir {tmpfs} && mount -t tmpfs -o nr_inodes=0 bench {tmpfs}
             umount {stock}; echo N >{PARAMETER}; mount -t virtiofs {STOCK} {stock}; echo Y >{PARAMETER}\n\
             for limit in max_queued_events max_user_watches; do echo {LIMIT} >/proc/sys/fs/inotify/$limit; done"
        ))?;
        self.guest.mount_host(&programs()?, Path::new(PROGRAMS))?;
        for site in [Site::Hostfs, Site::Native, Site::Stock] {
            let host = self.on_host(site).context("a directory of the host")?;
            self.guest.mount_host(&host, &site.changed())?;
        }
        // Both are mounted when the machine boots.
        for share in [&self.native, &self.stock] {
            let raises = share.log().matches(RAISES).count();
            ensure!(raises == 1, "the kernel is the client of {raises} mounts:\n{}", share.log());
        }
        Ok(())
    }

    /// Has an agent deliver the events of [`Site::Stock`].
    pub(super) fn start_agent(&mut self) -> Result<()> {
        let mount_point = mount_point(STOCK);
        self.guest.start(AGENT, &["farwatch-agent".as_ref(), mount_point.as_os_str()])?;
        self.guest.wait_for_line(AGENT, "events are delivered on ").map(drop)
    }

    /// Makes a directory at a site.
    pub(super) fn make_dir(&mut self, site: Site, name: &str) -> Result<()> {
        self.shell(&format!("mkdir -p {}", site.changed().join(name).display())).map(drop)
    }

    /// A directory of the host, if the site has one.
    pub(super) fn on_host(&self, site: Site) -> Option<PathBuf> {
        match site {
            Site::Tmpfs => None,
            Site::Hostfs => Some(self.native.outside()),
            Site::Native => Some(self.native.host()),
            Site::Stock => Some(self.stock.host()),
        }
    }

    /// How long each of `count` changes of a directory took, and how long its event.
    pub(super) fn latencies(
        &mut self,
        site: Site,
        change: Change,
        turn: usize,
        count: usize,
    ) -> Result<Vec<[Duration; 2]>> {
        let name = match change {
            Change::Append => "append",
            Change::Create => "create",
        };
        self.make_dir(site, name)?;
        let arguments = [
            "latency".into(),
            name.into(),
            turn.to_string(),
            count.to_string(),
            site.changed().join(name).display().to_string(),
            site.watched().join(name).display().to_string(),
        ];
        let durations = self.bench(&arguments)?;
        let (samples, rest) = durations.as_chunks();
        ensure!(samples.len() == count && rest.is_empty(), "{} latencies", samples.len());
        Ok(samples.to_vec())
    }

    /// How long this process takes to create files in a new directory that nobody watches.
    pub(super) fn fill_unwatched(&self, dir: &str, files: usize) -> Result<Duration> {
        let at = self.native.outside().join(dir).with_extension("unwatched");
        fs::create_dir(&at)?;
        let start = Instant::now();
        fill(&at, files)?;
        Ok(start.elapsed())
    }

    /// How long this process takes to create files in a new directory that it watches, and to read their events.
    pub(super) fn burst_on_host(&self, dir: &str, files: usize) -> Result<(Duration, Duration)> {
        let at = self.native.outside().join(dir).with_extension("watched");
        fs::create_dir(&at)?;
        burst(&at, &at, files, |_| {})
    }

    /// How long it took to create files in a new directory, in the guest by way of [`Site::changed`], and until the
    /// last event was read.
    pub(super) fn burst(
        &mut self,
        site: Site,
        dir: &str,
        files: usize,
    ) -> Result<(Duration, Duration)> {
        self.make_dir(site, dir)?;
        let changed = site.changed().join(dir).display().to_string();
        let watched = site.watched().join(dir).display().to_string();
        match self.bench(&["burst".into(), files.to_string(), watched, changed])?[..] {
            [created, read] => Ok((created, read)),
            _ => bail!("no burst"),
        }
    }

    /// The same for files that this process creates, on the host.
    pub(super) fn burst_of_host(
        &mut self,
        site: Site,
        dir: &str,
        files: usize,
    ) -> Result<(Duration, Duration)> {
        let at = self.on_host(site).context("a directory of the host")?.join(dir);
        fs::create_dir(&at)?;
        let watched = site.watched().join(dir).display().to_string();
        let name = self.start(&["burst".into(), files.to_string(), watched])?;
        self.wait_for_line(&name, READY)?;
        let start = Instant::now();
        fill(&at, files)?;
        let created = start.elapsed();
        self.wait_for_line(&name, DONE)?;
        Ok((created, start.elapsed()))
    }

    /// Runs the program in the guest, and returns the durations that it prints.
    pub(super) fn bench(&mut self, arguments: &[String]) -> Result<Vec<Duration>> {
        let name = self.start(arguments)?;
        durations(&self.wait_for_line(&name, DONE)?)
    }

    /// Starts the program in the guest, and returns the name under which the observer knows it.
    fn start(&mut self, arguments: &[String]) -> Result<String> {
        self.runs += 1;
        let name = format!("bench-{}", self.runs);
        let mut argv = vec![format!("{PROGRAMS}/farwatch-bench")];
        argv.extend_from_slice(arguments);
        self.guest.start(&name, &argv)?;
        Ok(name)
    }

    fn wait_for_line(&mut self, name: &str, start: &str) -> Result<String> {
        wait_for_line(&mut self.guest, name, start)
    }

    /// Waits until all that was changed on the host has been delivered at a site.
    pub(super) fn sync(&mut self, site: Site) -> Result<()> {
        let at = site.watched().display().to_string();
        // The observer answers in time whatever it takes.
        for _ in 0..SYNCS_MAX {
            let argv = ["farwatch-agent", "sync", "--timeout", "20", &at];
            let output = self.guest.output(&argv)?;
            match output.code {
                0 => return Ok(()),
                TIMED_OUT => {}
                _ => bail!("{argv:?}: {}", output.stderr),
            }
        }
        bail!("{at} is not in step after {SYNCS_MAX} times 20 s")
    }

    /// Has the guest's kernel forget what no program uses.
    pub(super) fn drop_caches(&mut self) -> Result<()> {
        self.shell("echo 2 >/proc/sys/vm/drop_caches").map(drop)
    }

    /// Whether the guest's kernel has found no fault in itself.
    pub(super) fn is_sound(&mut self) -> Result<()> {
        self.guest.is_sound()
    }

    fn shell(&mut self, script: &str) -> Result<String> {
        self.guest.shell(Path::new("/"), script)
    }
}

/// The next line of a program in a guest that begins so and is no progress: one request to the observer waits for one
/// line.
pub(super) fn wait_for_line(guest: &mut Guest, name: &str, start: &str) -> Result<String> {
    loop {
        let line = guest.wait_for_line(name, "")?;
        if line.starts_with(start) {
            return Ok(line);
        }
        ensure!(line.starts_with(PROGRESS), "{line}\n{}", guest.log(name)?);
    }
}

/// The durations in the last line of the program.
pub(super) fn durations(done: &str) -> Result<Vec<Duration>> {
    let words = done.split_whitespace().skip(1);
    words
        .map(|word| Ok(Duration::from_nanos(word.parse().with_context(|| done.to_owned())?)))
        .collect()
}

impl Site {
    /// Where the guest changes it, as a process on the host would.
    pub(super) fn changed(self) -> PathBuf {
        match self {
            Self::Tmpfs => "/tmp/bench".into(),
            Self::Hostfs => "/host/local".into(),
            Self::Native => "/host/native".into(),
            Self::Stock => "/host/stock".into(),
        }
    }

    /// Where the guest watches it.
    pub(super) fn watched(self) -> PathBuf {
        match self {
            Self::Tmpfs | Self::Hostfs => self.changed(),
            Self::Native => mount_point(NATIVE),
            Self::Stock => mount_point(STOCK),
        }
    }
}
