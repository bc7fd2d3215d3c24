// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host's end: what is measured, in which turns, and what is printed of it.

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::latency::Change;
use super::machine::{Machine, Site};
use super::report::{Against, Table};
use super::tree::Tree;
use crate::vm::Uml;

/// Of the patches whose kernel is booted.
const VERSION: &str = "6.12";
const LOCAL: [Site; 2] = [Site::Tmpfs, Site::Hostfs];
const ALL: [Site; 4] = [Site::Tmpfs, Site::Hostfs, Site::Stock, Site::Native];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Turns of everything: each has all sites, so that a slow moment of the machine hits all.
    turns: usize,
    /// Changes of a turn whose latency is taken.
    changes: usize,
    /// Files of a burst, and of the tree that is walked.
    files: usize,
    /// Directories that are watched.
    dirs: usize,
}

impl Scale {
    /// What figures are taken from.
    pub const FULL: Self = Self { turns: 3, changes: 500, files: 50_000, dirs: 10_000 };
    /// A tenth, to see that it runs.
    pub const QUICK: Self = Self { turns: 2, changes: 100, files: 5000, dirs: 1000 };
}

impl Scale {
    /// Turns of everything.
    pub(super) fn turns(self) -> usize {
        self.turns
    }

    /// Changes of a turn whose latency is taken.
    pub(super) fn changes(self) -> usize {
        self.changes
    }

    /// Files of a burst, and of the tree that is walked.
    pub(super) fn files(self) -> usize {
        self.files
    }
}

/// A thing that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// From a change to its event
    Latency,
    /// Many files created at full speed
    Burst,
    /// A walk through a tree that nobody watches
    Walk,
    /// Watches set and ended
    Watch,
}

/// Boots the kernel that has been built and measures `parts`, or everything if none is named.
///
/// # Errors
/// When there is no such kernel, when an event is lost, or something does not work at all.
pub fn run(scale: Scale, parts: &[Part]) -> Result<()> {
    let kernel = Uml::find(VERSION).context("no kernel: build it with `cargo xtask kernel`")?;
    let mut machine = Machine::boot(&kernel)?;
    let is_wanted = |part| parts.is_empty() || parts.contains(&part);
    // What nobody watches, before there is an agent.
    if is_wanted(Part::Walk) {
        walk(&mut machine, scale)?;
    }
    if is_wanted(Part::Watch) {
        watch(&mut machine, scale)?;
    }
    machine.start_agent()?;
    if is_wanted(Part::Latency) {
        latency(&mut machine, scale)?;
    }
    if is_wanted(Part::Burst) {
        burst(&mut machine, scale)?;
        burst_of_host(&mut machine, scale)?;
    }
    machine.is_sound()
}

/// The sites, another one first in each turn.
fn in_turns(sites: &[Site], turns: usize) -> impl Iterator<Item = (usize, Site)> + '_ {
    (0..turns).flat_map(move |turn| {
        (0..sites.len()).map(move |nth| (turn, sites[(turn + nth) % sites.len()]))
    })
}

fn latency(machine: &mut Machine, scale: Scale) -> Result<()> {
    for change in [Change::Append, Change::Create] {
        let what = match change {
            Change::Append => "append to a file",
            Change::Create => "create a file",
        };
        let mut table = Table::new(format!(
            "latency: {what}, {} times each, from the system call to the event",
            scale.turns * scale.changes
        ));
        for (turn, site) in in_turns(&ALL, scale.turns) {
            for sample in machine.latencies(site, change, turn, scale.changes)? {
                table.add_pair(with_agent(site), sample);
            }
            settle(machine, site)?;
        }
        table.print_latencies(with_agent(Site::Hostfs));
    }
    Ok(())
}

/// An agent takes part in the first turn alone: it takes as long as all others together.
fn burst_turns(sites: &[Site], turns: usize) -> impl Iterator<Item = (usize, Site)> + '_ {
    in_turns(sites, turns).filter(|(turn, site)| *turn == 0 || *site != Site::Stock)
}

fn burst(machine: &mut Machine, scale: Scale) -> Result<()> {
    let mut table = Table::new(format!(
        "burst: {} files created by a program in the guest, by way of hostfs or in tmpfs",
        scale.files
    ));
    for (turn, site) in burst_turns(&ALL, scale.turns) {
        let (created, read) = machine.burst(site, &format!("burst-{turn}"), scale.files)?;
        table.add_pair(with_agent(site), [created, read]);
        settle(machine, site)?;
    }
    table.print_pairs(["created", "last event"], Against::First);
    Ok(())
}

fn burst_of_host(machine: &mut Machine, scale: Scale) -> Result<()> {
    let mut table =
        Table::new(format!("burst: {} files created by a process on the host", scale.files));
    for (turn, site) in burst_turns(&[Site::Stock, Site::Native, Site::Hostfs], scale.turns) {
        let dir = format!("burst-of-host-{turn}");
        if site == Site::Hostfs {
            table.add_pair("nobody watches", [machine.fill_unwatched(&dir, scale.files)?; 2]);
            let (created, read) = machine.burst_on_host(&dir, scale.files)?;
            table.add_pair("local: on the host", [created, read]);
            continue;
        }
        let (created, read) = machine.burst_of_host(site, &dir, scale.files)?;
        table.add_pair(with_agent(site), [created, read]);
        settle(machine, site)?;
    }
    table.print_pairs(["created", "last event"], Against::First);
    table.print_pairs(["created", "last event"], Against::Row("nobody watches"));
    Ok(())
}

fn walk(machine: &mut Machine, scale: Scale) -> Result<()> {
    let tree = Tree::of_files(scale.files);
    let sites = [Site::Stock, Site::Native];
    for site in sites {
        tree.make(&machine.on_host(site).context("a share")?.join("walked"))?;
    }
    let mut cold =
        Table::new(format!("walk: lstat(2) of {} files of which nothing is cached", scale.files));
    let mut warm = Table::new(format!("walk: lstat(2) of {} files, again", scale.files));
    for (_, site) in in_turns(&sites, scale.turns) {
        let at = site.watched().join("walked").display().to_string();
        let walk = ["walk".into(), scale.files.to_string(), at];
        machine.drop_caches()?;
        cold.add(unwatched(site), machine.bench(&walk)?);
        warm.add(unwatched(site), machine.bench(&walk)?);
    }
    cold.print_totals(unwatched(Site::Stock));
    warm.print_totals(unwatched(Site::Stock));
    Ok(())
}

fn watch(machine: &mut Machine, scale: Scale) -> Result<()> {
    let tree = Tree::of_dirs(scale.dirs);
    for site in ALL {
        match machine.on_host(site) {
            Some(dir) => tree.make(&dir.join("watched"))?,
            None => {
                let at = site.changed().join("watched").display().to_string();
                machine.bench(&["make".into(), scale.dirs.to_string(), at]).map(drop)?;
            }
        }
    }
    let mut table = Table::new(format!("watches: on {} directories, set and ended", scale.dirs));
    for (turn, site) in in_turns(&ALL, scale.turns + 1) {
        let at = site.watched().join("watched").display().to_string();
        let took = machine.bench(&["watch".into(), scale.dirs.to_string(), at])?;
        // The first time the guest learns of the directories.
        if turn > 0 {
            table.add_pair(unwatched(site), took.try_into().ok().context("two durations")?);
        }
    }
    table.print_pairs(["set", "ended"], Against::Row(unwatched(Site::Stock)));
    Ok(())
}

/// What was changed has been delivered, and is not in the way of what comes next.
fn settle(machine: &mut Machine, site: Site) -> Result<()> {
    if LOCAL.contains(&site) { Ok(()) } else { machine.sync(site) }
}

/// A site's name where events are delivered.
fn with_agent(site: Site) -> &'static str {
    match site {
        Site::Stock => "agent",
        Site::Tmpfs | Site::Hostfs | Site::Native => unwatched(site),
    }
}

/// A site's name where no agent runs.
fn unwatched(site: Site) -> &'static str {
    match site {
        Site::Tmpfs => "local: tmpfs",
        Site::Hostfs => "local: hostfs",
        Site::Stock => "share, feature off",
        Site::Native => "share, native",
    }
}
