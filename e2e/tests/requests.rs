// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many FUSE requests the replay of an event takes: the table of docs/PROTOCOL.md, section 6.7, is kept. The
//! requests are counted where the device reads them, so they are what this machine's kernel makes of an agent's calls.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::{Mount, PATIENCE, child_of};
use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, kill_process};

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");
/// The fsuid of an agent.
const AGENT: &str = "uid=4294967293";

/// Opcodes of `include/uapi/linux/fuse.h` that a replay waits for. RELEASE it does not.
const OPCODES: [(u32, &str); 11] = [
    (1, "LOOKUP"),
    (3, "GETATTR"),
    (4, "SETATTR"),
    (8, "MKNOD"),
    (9, "MKDIR"),
    (10, "UNLINK"),
    (11, "RMDIR"),
    (12, "RENAME"),
    (14, "OPEN"),
    (25, "FLUSH"),
    (35, "CREATE"),
];

/// How often a row is tried, on a machine that is busy.
const TRIES_MAX: u32 = 5;

/// A change on the host, and the event that its replay ends with. What it leaves open stays so until then.
struct Change {
    name: &'static str,
    last: EventMask,
    make: fn(&Path) -> io::Result<Option<File>>,
}

const CHANGES: [Change; 12] = [
    Change {
        name: "CREATE",
        last: EventMask::CREATE,
        make: |dir| File::create(dir.join("new")).map(Some),
    },
    Change {
        name: "CREATE, ISDIR",
        last: EventMask::CREATE,
        make: |dir| fs::create_dir(dir.join("new")).map(|()| None),
    },
    Change {
        name: "CREATE, CLOSE_WRITE",
        last: EventMask::CLOSE_WRITE,
        make: |dir| File::create(dir.join("new")).map(|_| None),
    },
    Change {
        name: "CREATE, MODIFY, CLOSE_WRITE",
        last: EventMask::CLOSE_WRITE,
        make: |dir| fs::write(dir.join("new"), "content").map(|()| None),
    },
    Change {
        name: "MODIFY",
        last: EventMask::MODIFY,
        make: |dir| {
            let mut file = File::options().append(true).open(dir.join("file"))?;
            file.write_all(b"more").map(|()| Some(file))
        },
    },
    Change {
        name: "MODIFY, CLOSE_WRITE",
        last: EventMask::CLOSE_WRITE,
        make: |dir| {
            File::options().append(true).open(dir.join("file"))?.write_all(b"more").map(|()| None)
        },
    },
    Change {
        name: "CLOSE_WRITE",
        last: EventMask::CLOSE_WRITE,
        make: |dir| File::options().append(true).open(dir.join("file")).map(|_| None),
    },
    Change {
        name: "ATTRIB",
        last: EventMask::ATTRIB,
        make: |dir| {
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(dir.join("file"), mode).map(|()| None)
        },
    },
    Change {
        name: "DELETE",
        last: EventMask::DELETE,
        make: |dir| fs::remove_file(dir.join("file")).map(|()| None),
    },
    Change {
        name: "DELETE, ISDIR",
        last: EventMask::DELETE,
        make: |dir| fs::remove_dir(dir.join("sub")).map(|()| None),
    },
    Change {
        name: "a rename",
        last: EventMask::MOVED_TO,
        make: |dir| fs::rename(dir.join("file"), dir.join("new")).map(|()| None),
    },
    Change {
        name: "a rename that replaces",
        last: EventMask::MOVED_TO,
        make: |dir| fs::rename(dir.join("file"), dir.join("other")).map(|()| None),
    },
];

fn main() -> ExitCode {
    let trials = [("never", 1), ("always", 2)].map(|(cache, column)| {
        let name = format!("replay_of_each_event_makes_the_requests_of_the_table::cache_{cache}");
        e2e::trial(&name, &[Need::Mount], move || as_in_the_table(cache, column))
    });
    e2e::run(trials.into())
}

/// Compares all rows, so that a change of the table can be copied from one failure.
fn as_in_the_table(cache: &str, column: usize) -> Result<()> {
    let table = table();
    let mut differences = Vec::new();
    for change in CHANGES {
        let documented = table.get(change.name).and_then(|row| row.get(column - 1));
        let documented = documented.with_context(|| format!("no row {:?}", change.name))?;
        // A kernel that is kept from going on for a tick asks for attributes again.
        let mut found = String::new();
        for _ in 0..TRIES_MAX {
            found = requests(cache, &change)
                .with_context(|| format!("{} with --cache {cache}", change.name))?;
            if found == *documented {
                break;
            }
        }
        if found != *documented {
            differences.push(format!("{}: {found}, not {documented}", change.name));
        }
    }
    ensure!(differences.is_empty(), "--cache {cache}\n{}", differences.join("\n"));
    Ok(())
}

/// The rows of the table, by the events of the message.
fn table() -> BTreeMap<&'static str, Vec<&'static str>> {
    let section = DOCUMENT.split("\n### ").find(|section| section.starts_with("6.7 "));
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim);
    section
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| line.starts_with('|'))
        .map(|line| (cells(line).next().unwrap_or_default(), cells(line).skip(1).collect()))
        .collect()
}

/// The requests that the replay of a change makes in a mount of its own.
fn requests(cache: &str, change: &Change) -> Result<String> {
    let mount = Mount::unmounted()?;
    let dir = mount.host().join("dir");
    fs::create_dir_all(dir.join("sub"))?;
    for name in ["file", "other"] {
        fs::write(dir.join(name), "old")?;
    }
    let log = ["--log", "farwatch::device::direct=trace", "--cache", cache];
    let mut mount = mount.started_with(&log)?;
    let watched = mount.mount_point().join("dir");
    for name in ["file", "other", "sub"] {
        fs::metadata(watched.join(name))?;
    }
    let mut inotify = Inotify::init()?;
    inotify.watches().add(&watched, WatchMask::ALL_EVENTS)?;
    let device = child_of(mount.driver().id())?;
    // What is read in one piece is told in as few messages as possible.
    kill_process(device, Signal::STOP)?;
    let made = (change.make)(&dir);
    kill_process(device, Signal::CONT)?;
    let still_open = made?;
    let told = events_until(&mut inotify, change.last)?;
    ensure!(
        told.is_sorted_by_key(|event| order(*event)),
        "not in the order of a program: {told:?}"
    );
    mount.driver().signal(Signal::TERM)?;
    mount.driver().wait()?;
    drop(still_open);
    let log = mount.driver().log();
    Ok(log.lines().filter_map(request).collect::<Vec<_>>().join(", "))
}

fn events_until(inotify: &mut Inotify, last: EventMask) -> Result<Vec<EventMask>> {
    let mut told = Vec::new();
    loop {
        let patience = Timespec::try_from(PATIENCE)?;
        let ready = poll(&mut [PollFd::new(&*inotify, PollFlags::IN)], Some(&patience))?;
        ensure!(ready > 0, "no event {last:?}");
        told.extend(inotify.read_events(&mut [0; 4096])?.map(|event| event.mask));
        if told.last().is_some_and(|event| event.contains(last)) {
            return Ok(told);
        }
    }
}

/// The place of an event in the life of a file.
fn order(event: EventMask) -> Option<usize> {
    let order = [EventMask::CREATE, EventMask::OPEN, EventMask::MODIFY, EventMask::CLOSE_WRITE];
    order.iter().position(|bit| event.contains(*bit))
}

/// The name of a request of a replay in a line of the log. What has the number 0 is no replay's: the agent has
/// it while it says hello.
fn request(line: &str) -> Option<&'static str> {
    let opcode = line.split_once("opcode=")?.1.split(' ').next()?.parse().ok()?;
    let (_, name) = OPCODES.iter().find(|(known, _)| *known == opcode)?;
    (line.contains(AGENT) && !line.contains(" gid=0 ")).then_some(*name)
}
