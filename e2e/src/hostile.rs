// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests whose kernel raises events itself, and a server in them that lies (`farwatch-hostile`): whatever it
//! does, the kernel finds no fault in itself, and everything can be taken down again.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use farwatch_testkit::vm::{Guest, Module};
use rustix::process::Signal;

/// Its name among the guest's programs.
const HOSTILE: &str = "hostile";
/// Where it mounts itself.
const MOUNT_POINT: &str = "/tmp/hostile";
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// How a server tells that kernel of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A kernel with the patches, on `/dev/fuse`.
    Device,
    /// The module of a stock kernel, by reads of the control node.
    Reads,
}

/// What happens to a server that has stopped to answer, in a shell of the guest. Each leaves nothing mounted.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is killed.
    Killed,
    /// Somebody ends its connection.
    Aborted,
    /// It is unmounted, and then killed.
    Unmounted,
    /// The module is to go first, which it does when the server is killed.
    Unloaded,
}

impl Way {
    fn argument(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Reads => "reads",
        }
    }

    /// What such a server can leave unanswered (`Stop` of the program).
    fn stops(self) -> &'static [&'static str] {
        match self {
            Self::Device => &["lookup", "attributes", "watch"],
            Self::Reads => &["find", "open", "hello", "welcome", "read", "lookup", "attributes"],
        }
    }

    fn ends(self) -> &'static [End] {
        match self {
            Self::Device => &[End::Killed, End::Aborted, End::Unmounted],
            Self::Reads => &[End::Killed, End::Aborted, End::Unmounted, End::Unloaded],
        }
    }
}

/// Runs the table of what a server should not say.
pub fn cases(guest: &mut Guest, way: Way) -> Result<()> {
    run(guest, &["farwatch-hostile", "--way", way.argument(), "cases"])?;
    is_sound(guest, way)
}

/// The same with so many messages that are made up.
pub fn random(guest: &mut Guest, way: Way, seed: u64, messages: u64) -> Result<()> {
    let (seed, messages) = (seed.to_string(), messages.to_string());
    let way_of = way.argument();
    run(
        guest,
        &["farwatch-hostile", "--way", way_of, "random", "--seed", &seed, "--messages", &messages],
    )?;
    is_sound(guest, way)
}

/// A server that stops to answer, wherever it does, and what can be done about it.
pub fn stops(guest: &mut Guest, way: Way) -> Result<()> {
    guest.shell(Path::new("/"), &format!("mount -t fusectl fusectl {CONNECTIONS}"))?;
    for stop in way.stops() {
        for end in way.ends() {
            stopped(guest, way, stop, *end)
                .map_err(|error| anyhow!("{stop}, {end:?}: {error:#}"))?;
        }
    }
    is_sound(guest, way)
}

fn stopped(guest: &mut Guest, way: Way, stop: &str, end: End) -> Result<()> {
    let name = format!("{stop}-{end:?}");
    guest.start(&name, &["farwatch-hostile", "--way", way.argument(), "stop", stop])?;
    guest.wait_for_line(&name, "stopped")?;
    let root = Path::new("/");
    let killed = |guest: &mut Guest| {
        guest.signal(&name, Signal::KILL)?;
        guest.exited(&name)
    };
    match end {
        End::Killed => drop(killed(guest)?),
        End::Aborted => {
            guest.shell(root, &format!("echo 1 | tee {CONNECTIONS}/*/abort"))?;
            killed(guest)?;
        }
        End::Unmounted => {
            guest.shell(root, &format!("umount -l {MOUNT_POINT}"))?;
            killed(guest)?;
        }
        End::Unloaded => {
            let rmmod = format!("{name}-rmmod");
            guest.start(&rmmod, &["rmmod", Module::NAME])?;
            killed(guest)?;
            let code = guest.exited(&rmmod)?;
            // While it is being attached, the module is in use.
            ensure!(code == 0 || stop != "read", "rmmod: {code}\n{}", guest.log(&rmmod)?);
            guest.shell(
                root,
                &format!("grep -q {0} /proc/modules || insmod /lib/{0}.ko", Module::NAME),
            )?;
        }
    }
    guest
        .shell(root, &format!("! grep -q {MOUNT_POINT} /proc/mounts || umount -l {MOUNT_POINT}"))?;
    // Nothing keeps the superblock.
    guest.shell(root, &format!("while ls {CONNECTIONS} | grep -q .; do usleep 10000; done"))?;
    Ok(())
}

/// Runs it to its end, which it says.
fn run(guest: &mut Guest, argv: &[&str]) -> Result<()> {
    guest.start(HOSTILE, argv)?;
    // Each line comes in time, not all of them.
    loop {
        match guest.wait_for_line(HOSTILE, "") {
            Ok(line) if line == "done" => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                let said =
                    guest.output(&["dmesg"]).map_or_else(|_| String::new(), |dmesg| dmesg.stdout);
                return Err(anyhow!("{error:#}\nthe guest's kernel:\n{said}"));
            }
        }
    }
}

/// The kernel has found no fault, and the module can go.
fn is_sound(guest: &mut Guest, way: Way) -> Result<()> {
    if way == Way::Reads {
        let name = Module::NAME;
        guest.shell(Path::new("/"), &format!("rmmod {name} && insmod /lib/{name}.ko"))?;
    }
    let complaints = guest.complaints()?;
    ensure!(complaints.is_empty(), "the guest's kernel: {complaints:#?}\n{}", guest.console());
    Ok(())
}
