// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What delivering an event must not do, on each path: change anything on the host, or raise an event
//! of which there was no change.
//!
//! The path is stopped while the host changes files. How they are then is compared with how they are
//! when all has been delivered.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::Need;
use farwatch_testkit::vm::{Kernel, Vm};
use farwatch_testkit::{Mount, Place, Share, render};
use rustix::process::Signal;

/// Something of each kind of change, before and after which nothing is cached.
const CHANGES: &str = "
    echo new > made; mkdir dir/made; mkfifo fifo; ln -s made link; ln written second; mknod null c 1 3
    echo more >> written; truncate -s 2 cut; echo same > replaced.new; mv replaced.new replaced
    chmod 640 mode; chown 1:1 owner; chmod 750 dir; touch -d @1 times; touch -m -d @2 modified
    setfattr -n user.note -v two noted; touch -h -d @3 symlink
    mv moved dir/moved; mv moving-dir moved-dir; mv out $OUT/out; mv $OUT/in in; rm gone; rmdir gone-dir
";

const SETUP: &str = "
    mkdir dir moving-dir gone-dir
    for f in written cut replaced mode owner times modified noted moved out gone $OUT/in moving-dir/f
    do echo old > $f; done
    setfattr -n user.note -v one noted; ln -s nowhere symlink; chmod 4755 mode
";

/// All that stat(2) and listxattr(2) tell, of everything in the share. To look at it is to read directories and
/// symlinks, which have got their new atime when it is done for the second time (`relatime` of mount(8)).
const STATE: &str = "
    find . -printf %l > $OUT/STATE
    find . -printf '%p %y %i %m %U %G %n %s atime %A@ mtime %T@ ctime %C@ %l\\n' | sort > $OUT/STATE
    getfattr -R -P -h -d -m - . | sort >> $OUT/STATE
";

fn main() -> ExitCode {
    let name = "delivering_events_changes_nothing_on_the_host_and_raises_no_more";
    let needs = ["setfattr", "getfattr"].map(Need::Program);
    let here = [&[Need::Mount], &needs[..]].concat();
    let mut trials = Vec::new();
    for watch in ["fanotify", "inotify"] {
        trials.push(e2e::trial(&format!("{name}::mounted_by_{watch}"), &here, move || {
            let mount = Mount::start_with(&["--watch", watch])?;
            no_surprise(mount, |mount, signal| mount.driver().signal(signal))
        }));
    }
    trials.push(e2e::trial(&format!("{name}::through_agent"), &here, || {
        no_surprise(Mount::start_with_agent()?, |mount, signal| mount.agent().signal(signal))
    }));
    for version in ["6.1", "6.12"] {
        let needs = [&here[..], &[Need::Vm(version)]].concat();
        trials.push(e2e::trial(&format!("{name}::in_a_guest_{version}"), &needs, move || {
            let vm = Vm::start(&Kernel::find(version).context("the kernel has gone")?)?;
            no_surprise(vm, |vm, signal| {
                let kill = format!("kill -{} $(pidof farwatch-agent)", signal.as_raw());
                vm.guest().shell(Path::new("/"), &kill).map(drop)
            })
        }));
    }
    // A machine fills a processor: one after the other.
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn no_surprise<P: Place>(mut place: P, signal: fn(&mut P, Signal) -> Result<()>) -> Result<()> {
    let share = place.share("share")?;
    told_and_unchanged(&mut place, &share, signal)
        .map_err(|error| anyhow!("{error:#}\n{}", place.log()))
}

fn told_and_unchanged<P: Place>(
    place: &mut P,
    share: &Share,
    signal: fn(&mut P, Signal) -> Result<()>,
) -> Result<()> {
    share.run_on_host(SETUP)?;
    let mut recorder = place.recorder(share)?;
    recorder.watch_recursively(Path::new("."))?;
    for file in ["written", "cut", "replaced", "mode", "owner", "times", "noted", "gone"] {
        recorder.watch(Path::new(file))?;
    }
    recorder.barrier()?;
    recorder.take_events()?;

    signal(place, Signal::STOP)?;
    let changed = share.run_on_host(CHANGES).and_then(|()| state(share));
    signal(place, Signal::CONT)?;
    let changed = changed?;
    recorder.barrier()?;
    let told = render(&recorder.take_events()?);
    for what in
        ["CREATE made", "MODIFY written", "ATTRIB noted", "MOVED_TO dir/moved", "DELETE gone"]
    {
        ensure!(told.contains(what), "no {what} in\n{told}");
    }
    let delivered = state(share)?;
    ensure!(changed == delivered, "before:\n{changed}after:\n{delivered}");

    // Nothing was changed since, and looking changes nothing.
    recorder.barrier()?;
    place.run_in_mount(
        share,
        "ls -lR . > /dev/null; cat made mode times > /dev/null; readlink link",
    )?;
    recorder.barrier()?;
    let told = recorder.take_events()?;
    ensure!(told.is_empty(), "without a change:\n{}", render(&told));
    Ok(())
}

fn state(share: &Share) -> Result<String> {
    share.run_on_host(STATE)?;
    Ok(std::fs::read_to_string(share.outside().join("STATE"))?)
}
