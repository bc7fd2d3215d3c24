// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests whose kernel raises events itself, and a server in them that lies (`farwatch-hostile`): whatever it
//! does, the kernel finds no fault in itself, and everything can be taken down again.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
pub use farwatch_testkit::hostile::Way;
use farwatch_testkit::hostile::{MOUNT_POINT, Stop, argument};
use farwatch_testkit::vm::{Guest, Module};
use rustix::process::Signal;

/// Its name among the guest's programs.
const HOSTILE: &str = "hostile";
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

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

/// What such a server can leave unanswered.
fn stops_of(way: Way) -> &'static [Stop] {
    use Stop::{Attributes, Find, Hello, Lookup, Open, Read, Watch, Welcome};
    match way {
        Way::Device => &[Lookup, Attributes, Watch],
        Way::Reads => &[Find, Open, Hello, Welcome, Read, Lookup, Attributes],
    }
}

fn ends_of(way: Way) -> &'static [End] {
    match way {
        Way::Device => &[End::Killed, End::Aborted, End::Unmounted],
        Way::Reads => &[End::Killed, End::Aborted, End::Unmounted, End::Unloaded],
    }
}

/// Runs the table of what a server should not say.
pub fn cases(guest: &mut Guest, way: Way) -> Result<()> {
    run(guest, &["farwatch-hostile", "--way", &argument(&way), "cases"])?;
    is_sound(guest, way)
}

/// The same with so many messages that are made up.
pub fn random(guest: &mut Guest, way: Way, seed: u64, messages: u64) -> Result<()> {
    let (seed, messages) = (seed.to_string(), messages.to_string());
    let way_of = argument(&way);
    run(
        guest,
        &["farwatch-hostile", "--way", &way_of, "random", "--seed", &seed, "--messages", &messages],
    )?;
    is_sound(guest, way)
}

/// A server that stops to answer, wherever it does, and what can be done about it.
pub fn stops(guest: &mut Guest, way: Way) -> Result<()> {
    guest.shell(Path::new("/"), &format!("mount -t fusectl fusectl {CONNECTIONS}"))?;
    for stop in stops_of(way) {
        for end in ends_of(way) {
            stopped(guest, way, *stop, *end)
                .map_err(|error| anyhow!("{stop:?}, {end:?}: {error:#}"))?;
        }
    }
    is_sound(guest, way)
}

fn stopped(guest: &mut Guest, way: Way, stop: Stop, end: End) -> Result<()> {
    let name = format!("{stop:?}-{end:?}");
    let argv = ["farwatch-hostile", "--way", &argument(&way), "stop", &argument(&stop)];
    guest.start(&name, &argv)?;
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
            ensure!(code == 0 || stop != Stop::Read, "rmmod: {code}\n{}", guest.log(&rmmod)?);
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
    guest.is_sound()
}
