// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client that runs, and what it is asked: does it print for a mount what it prints for a local directory?

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use farwatch_testkit::{Mount, PATIENCE, Process, Recorder, Share};
use inotify::WatchMask;

/// Something done on the host, and the lines that the client prints then, in any order. `a or b` is one of two.
pub(crate) struct Step {
    pub(crate) run: &'static str,
    pub(crate) told: Vec<&'static str>,
}

impl Step {
    pub(crate) fn new(run: &'static str, told: &[&'static str]) -> Self {
        Self { run, told: told.to_vec() }
    }
}

/// What clients that look at the file say of one that was made, and of its writing. Who looks late sees both at
/// once and says the first alone; events in a mount come a moment later than their cause.
const MADE_THEN_WRITTEN: [(&str, &str); 6] = [
    ("add", "change"),
    ("added", "modified"),
    ("create", "update"),
    ("created", "changed"),
    ("ENTRY_CREATE", "ENTRY_MODIFY"),
    ("new-file", "file"),
];

/// Where a client finds the directory it is to watch, and what it needs besides.
pub(crate) struct Room<'a> {
    pub(crate) share: &'a Share,
    /// A directory for what it writes. JavaScript programs are there, beside their packages.
    pub(crate) own: PathBuf,
}

/// What has been printed for each path, in order, without repetitions.
type Printed = BTreeMap<String, Vec<String>>;

/// The same for a client that prints what libuv's `uv_fs_event` tells it.
pub(crate) fn libuv_reports_the_same_as_locally(
    start: impl Fn(&Room<'_>) -> Result<Process>,
) -> Result<()> {
    let steps = [
        Step::new("echo two > a", &["change a"]),
        Step::new("echo one > b", &["rename b", "change b"]),
        Step::new("mv b c", &["rename b", "rename c"]),
        Step::new("mv c a", &["rename c", "rename a"]),
        Step::new("mkdir d", &["rename d"]),
        Step::new("rm a", &["rename a"]),
        Step::new("touch end", &["rename end", "change end"]),
    ];
    same_as_locally("echo one > a", start, &steps)
}

/// Runs a client on a local directory and on a mount. Both must be told of each step, and nothing else may
/// differ.
///
/// `setup` runs on the host before the client starts. What a line is about is its second word.
pub(crate) fn same_as_locally(
    setup: &str,
    start: impl Fn(&Room<'_>) -> Result<Process>,
    steps: &[Step],
) -> Result<()> {
    let mount = mount()?;
    let local = run(&mount.local_twin("day")?, &mount, setup, &start, steps)
        .context("on a local directory")?;
    let mounted = run(&mount.share("day")?, &mount, setup, &start, steps)
        .map_err(|error| anyhow!("on the mount: {error:#}\n{}", mount.log()))?;
    ensure!(local == mounted, "local:\n{}mounted:\n{}", shown(&local), shown(&mounted));
    Ok(())
}

/// The same where the order of what is printed, or how much of it is made one, is a matter of time: only
/// the steps are asked for.
pub(crate) fn told_as_locally(
    setup: &str,
    start: impl Fn(&Room<'_>) -> Result<Process>,
    steps: &[Step],
) -> Result<()> {
    let mount = mount()?;
    run(&mount.local_twin("day")?, &mount, setup, &start, steps).context("on a local directory")?;
    run(&mount.share("day")?, &mount, setup, &start, steps)
        .map_err(|error| anyhow!("on the mount: {error:#}\n{}", mount.log()))?;
    Ok(())
}

/// With this set, no events are delivered, and each of these tests must fail: for the author of a new one.
const WITHOUT_EVENTS_VARIABLE: &str = "FARWATCH_CLIENTS_WITHOUT_EVENTS";

fn has_events() -> bool {
    std::env::var_os(WITHOUT_EVENTS_VARIABLE).is_none()
}

fn mount() -> Result<Mount> {
    if has_events() { Mount::start() } else { Mount::start_with(&["--no-agent"]) }
}

fn run(
    share: &Share,
    mount: &Mount,
    setup: &str,
    start: &impl Fn(&Room<'_>) -> Result<Process>,
    steps: &[Step],
) -> Result<Printed> {
    share.run_on_host(setup)?;
    settle(share)?;
    let own = room(mount, share)?;
    let mut client = start(&Room { share, own })?;
    let mut printed = Printed::new();
    let top = format!("{}/", share.mount().display());
    for step in steps {
        share.run_on_host(step.run)?;
        let mut left: Vec<&str> = step.told.clone();
        let deadline = Instant::now() + PATIENCE;
        while !left.is_empty() {
            let line = client.next_line().with_context(|| missing(step, &left))?;
            // What a client says without end is not what it is asked for.
            ensure!(Instant::now() < deadline, "{}:\n{}", missing(step, &left), client.log());
            let line = line.ok_or_else(|| {
                anyhow!("{}: it has ended:\n{}", missing(step, &left), client.log())
            })?;
            let line = line.replace(&top, "");
            note(&mut printed, &line);
            left.retain(|wanted| !wanted.split(" or ").any(|wanted| wanted == line));
        }
    }
    Ok(printed)
}

/// A watch is told of what was done just before it was set, if that is still on its way: waits until it is not.
pub(crate) fn settle(share: &Share) -> Result<()> {
    if has_events() {
        Recorder::new(share, WatchMask::CREATE)?.barrier()?;
    }
    Ok(())
}

fn missing(step: &Step, left: &[&str]) -> String {
    format!("{}\nno line {}", step.run, left.join(", no line "))
}

fn note(printed: &mut Printed, line: &str) {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let about = rest.split(' ').next().unwrap_or_default().to_owned();
    let lines = printed.entry(about).or_default();
    let last = lines.last().map(String::as_str).unwrap_or_default();
    let is_its_writing = MADE_THEN_WRITTEN
        .iter()
        .any(|(made, written)| *written == verb && last.split(' ').next() == Some(made));
    if last != line && !is_its_writing {
        lines.push(line.to_owned());
    }
}

fn shown(printed: &Printed) -> String {
    printed.values().flatten().map(|line| format!("  {line}\n")).collect()
}

/// A directory for the client's own files, outside the share, in which JavaScript finds its packages.
fn room(mount: &Mount, share: &Share) -> Result<PathBuf> {
    let name = share.mount().file_name().context("a share has a name")?;
    let own = mount.outside().join(Path::new(name).with_extension("client"));
    fs::create_dir(&own)?;
    if let Some(clients) = e2e::clients() {
        symlink(clients.join("node_modules"), own.join("node_modules"))?;
    }
    Ok(own)
}

/// The source of a client.
pub(crate) fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/programs").join(name)
}

/// Starts a command, and waits until it says that it watches.
pub(crate) fn start(command: Command, is_ready: impl Fn(&str) -> bool) -> Result<Process> {
    let mut process = Process::start(command)?;
    process.wait_for_line(is_ready)?;
    Ok(process)
}

/// Starts a command that does not say when it watches, and waits until it has so many inotify watches.
pub(crate) fn start_silent(command: Command, watches: usize) -> Result<Process> {
    wait_for_watches(Process::start(command)?, watches)
}

/// Waits until a program has so many inotify watches.
pub(crate) fn wait_for_watches(process: Process, watches: usize) -> Result<Process> {
    let deadline = Instant::now() + PATIENCE;
    while watches_of(&process)? < watches {
        ensure!(Instant::now() < deadline, "it watches too little:\n{}", process.log());
        std::thread::yield_now();
    }
    Ok(process)
}

/// How many inotify watches a process has (`proc(5)`, fdinfo).
pub(crate) fn watches_of(process: &Process) -> Result<usize> {
    let mut watches = 0;
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", process.id()))? {
        // A descriptor may be closed meanwhile.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        watches += info.lines().filter(|line| line.starts_with("inotify wd:")).count();
    }
    Ok(watches)
}
