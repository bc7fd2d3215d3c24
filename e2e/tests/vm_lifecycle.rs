// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What else happens to a virtual machine with a share: restarts, of the machine, the agent and the
//! daemon; containers; programs with fanotify; a second machine. With each stock kernel.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use e2e::Need;
use farwatch_testkit::vm::{Guest, Kernel, Vm, mount_point};
use farwatch_testkit::{
    Event, Mount, Objects, PATIENCE, Place as _, Record, Recorder, Share, Submount, merge_allowed,
    render,
};
use libtest_mimic::Trial;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

const KERNELS: [&str; 2] = ["6.1", "6.12"];
/// The most memory that an agent may have resident, in KiB.
const RESIDENT_MAX: u64 = 8 << 10;

type Test = fn(&Kernel) -> Result<()>;

/// All of them, and what each needs besides the machine.
const TESTS: [(&str, &[Need], Test); 13] = [
    ("a_restarted_guest_gets_events_again", &[], |kernel| {
        with_agent(kernel, a_restarted_guest_gets_events_again)
    }),
    ("an_agent_ends_and_starts_again", &[], |kernel| {
        with_agent(kernel, an_agent_ends_and_starts_again)
    }),
    ("an_agent_says_that_its_daemon_has_died", &[], an_agent_says_that_its_daemon_has_died),
    ("an_agent_works_on_a_tag_mounted_or_not", &[], an_agent_works_on_a_tag_mounted_or_not),
    ("a_container_gets_the_events", &[Need::Inotifywait], |kernel| {
        with_agent(kernel, a_container_gets_the_events)
    }),
    ("change_by_a_guest_is_reported_once", &[], |kernel| {
        with_agent(kernel, change_by_a_guest_is_reported_once)
    }),
    ("two_guests_on_one_directory", &[], two_guests_on_one_directory),
    ("one_agent_serves_two_shares", &[], one_agent_serves_two_shares),
    ("a_mount_in_the_share_gets_events", &[], a_mount_in_the_share_gets_events),
    ("a_mount_comes_and_goes_beneath_a_guest", &[], a_mount_comes_and_goes_beneath_a_guest),
    ("a_tree_that_the_kernel_has_dropped_is_removed_in_order", &[], |kernel| {
        with_agent(kernel, a_tree_that_the_kernel_has_dropped_is_removed_in_order)
    }),
    ("inotifywait_prints_the_events", &[Need::Inotifywait], |kernel| {
        with_agent(kernel, inotifywait_prints_the_events)
    }),
    ("a_stock_virtiofsd_is_refused", &[Need::StockVirtiofsd], a_stock_virtiofsd_is_refused),
];

fn main() -> ExitCode {
    let trial = |version: &'static str, name: &str, needs: &[Need], run: Test| {
        let needs = [&[Need::Mount, Need::Vm(version)], needs].concat();
        e2e::trial(&format!("{name}_on_{version}"), &needs, move || run(&kernel(version)?))
    };
    let mut trials: Vec<Trial> = Vec::new();
    for version in KERNELS {
        trials.extend(TESTS.iter().map(|(name, needs, run)| trial(version, name, needs, *run)));
    }
    trials.push(trial("6.12", "a_program_with_fanotify_gets_the_rename", &[], |kernel| {
        with_agent(kernel, a_program_with_fanotify_gets_the_rename)
    }));
    // The agent is the same on either kernel.
    trials.push(trial("6.12", "an_agent_stays_small_and_quiet", &[], |kernel| {
        with_agent(kernel, an_agent_stays_small_and_quiet)
    }));
    trials.push(trial("6.1", "a_mount_cannot_be_watched_with_fanotify_handles", &[], |kernel| {
        with_agent(kernel, a_mount_cannot_be_watched_with_fanotify_handles)
    }));
    // Each boots a machine of its own, which fills a processor: one after the other.
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn kernel(version: &str) -> Result<Kernel> {
    Kernel::find(version).context("the kernel has gone")
}

/// A test in a machine with an agent. A failure is told with what all that took part has said.
fn with_agent(kernel: &Kernel, test: fn(&Vm) -> Result<()>) -> Result<()> {
    let vm = Vm::start(kernel)?;
    test(&vm).map_err(|error| anyhow!("{error:#}\n{}", vm.log()))
}

fn a_restarted_guest_gets_events_again(vm: &Vm) -> Result<()> {
    gets_events(vm, "before")?;
    vm.guest().reboot()?;
    vm.start_agent()?;
    gets_events(vm, "after")
}

fn an_agent_ends_and_starts_again(vm: &Vm) -> Result<()> {
    let share = vm.share("share")?;
    share.run_on_host("echo old > same; echo old > gone; echo old > written; touch -d @0 *")?;
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("."))?;
    vm.run_in_mount(&share, "ls -l")?;
    recorder.barrier()?;

    let second = vm.guest().output(&["farwatch-agent", vm.tag()])?;
    ensure!(second.code == 1 && second.stderr.contains("another agent serves"), "{second:?}");
    // How fast it exits is measured in `agent`: time in an emulated machine says nothing.
    vm.guest().signal(vm.agent(), Signal::TERM)?;
    let code = vm.guest().exited(vm.agent())?;
    ensure!(code == 0, "exit code {code} after SIGTERM");
    vm.start_agent()?;
    recorder.barrier()?;

    vm.guest().signal(vm.agent(), Signal::KILL)?;
    vm.guest().exited(vm.agent())?;
    share.run_on_host("rm gone; echo newer > written; mkdir made")?;
    recorder.take_events()?;
    vm.start_agent()?;
    // Differences come a directory at a time; a barrier of the recorder's own may be among the first.
    vm.sync()?;
    let told = render(&recorder.take_events_now()?);
    for line in ["    DELETE gone\n", "    MODIFY written\n", "    CREATE,ISDIR made\n"] {
        ensure!(told.contains(line), "no {line}in\n{told}");
    }
    let content = vm.guest().shell(share.mount(), "cat written")?;
    ensure!(content == "newer\n", "{content}");
    gets_events(vm, "again")
}

/// The machine's mount has died with its daemon: nothing can be done there any more.
fn an_agent_says_that_its_daemon_has_died(kernel: &Kernel) -> Result<()> {
    let mut vm = Vm::start_without_agent(kernel, &[])?;
    vm.start_agent_with(&["--server-timeout", "2"])?;
    vm.host().device().signal(Signal::KILL)?;
    let said = vm.guest().wait_for_line(vm.agent(), "farwatch-agent: ")?;
    ensure!(said.contains("the server has not answered for 2 s"), "{said}");
    let code = vm.guest().exited(vm.agent())?;
    ensure!(code == 1, "exit code {code}");
    Ok(())
}

fn an_agent_works_on_a_tag_mounted_or_not(kernel: &Kernel) -> Result<()> {
    let vm = Vm::start_without_agent(kernel, &[])?;
    let mount_point = vm.mount_point();
    let start = |vm: &Vm| -> Result<()> {
        vm.guest().start(vm.agent(), &["farwatch-agent", vm.tag()])?;
        vm.guest().wait_for_line(vm.agent(), "events are delivered on ")?;
        Ok(())
    };
    start(&vm)?;
    gets_events(&vm, "mounted")?;
    vm.guest().signal(vm.agent(), Signal::TERM)?;
    vm.guest().exited(vm.agent())?;

    vm.guest().shell(Path::new("/"), &format!("umount {}", mount_point.display()))?;
    start(&vm)?;
    let mount = format!("mount -t virtiofs {} {}", vm.tag(), mount_point.display());
    vm.guest().shell(Path::new("/"), &mount)?;
    gets_events(&vm, "later")?;
    let status = vm.guest().output(&["farwatch-agent", "status"])?;
    let is_shown = status.stdout.contains(vm.tag()) && status.stdout.contains("attached    for ");
    ensure!(status.code == 0 && is_shown, "{status:?}");
    let missing = vm.guest().output(&["farwatch-agent", "no-such-tag"])?;
    ensure!(missing.code == 1 && missing.stderr.contains("no virtio-fs device"), "{missing:?}");
    Ok(())
}

/// A bind mount of a subdirectory, in mount and pid namespaces of its own, and no rights.
fn a_container_gets_the_events(vm: &Vm) -> Result<()> {
    let share = vm.share("share")?;
    share.run_on_host("mkdir sub; chmod 755 . sub; touch sub/seen")?;
    let inside = format!(
        "mount --bind {}/sub /run && mount -t proc proc /proc && umount -l /share/{} && \
         exec su nobody -c 'id -u; inotifywait -m -e create,moved_to,modify,delete /run'",
        share.mount().display(),
        vm.tag()
    );
    let mut guest = vm.guest();
    guest.start("container", &["unshare", "-m", "-p", "-f", "sh", "-c", &inside])?;
    guest.wait_for_line("container", "65534")?;
    guest.wait_for_line("container", "Watches established.")?;
    share
        .run_on_host("mkdir sub/new; echo more > sub/seen; mv sub/seen sub/moved; rmdir sub/new")?;
    for line in [
        "/run/ CREATE,ISDIR new",
        "/run/ MODIFY seen",
        "/run/ MOVED_TO moved",
        "/run/ DELETE,ISDIR new",
    ] {
        guest.wait_for_line("container", line)?;
    }
    Ok(())
}

/// All of it in one go: an echo comes too late to be merged with the event that it repeats.
fn change_by_a_guest_is_reported_once(vm: &Vm) -> Result<()> {
    const SCRIPT: &str = "echo one > d/f; echo two >> d/f; chmod 600 d/f; ln d/f g; mv d/f f; \
                          mkdir x; mv x d/x; mv d e; rm f g; rmdir e/x; rmdir e; echo 3 > f";
    let record = |recorder: &mut dyn Record, run: &dyn Fn(&str) -> Result<()>| {
        run("mkdir d")?;
        recorder.barrier()?;
        recorder.watch(Path::new("."))?;
        recorder.watch(Path::new("d"))?;
        run(SCRIPT)?;
        recorder.barrier()?;
        Ok::<_, anyhow::Error>(render(&recorder.take_events()?))
    };
    let share = vm.share("own")?;
    let told = record(&mut vm.remote_recorder(&share)?, &|script| vm.run_in_mount(&share, script))?;
    let twin = vm.local_twin("own")?;
    let mut recorder = Recorder::new(&twin, Recorder::CHANGES)?;
    let wanted = record(&mut recorder, &|script| twin.run_on_host(script))?;
    ensure!(told == wanted, "in the guest:\n{told}locally:\n{wanted}");
    Ok(())
}

fn two_guests_on_one_directory(kernel: &Kernel) -> Result<()> {
    let mut host = Mount::start_device(serve)?;
    let second_socket = host.serve_again(&[])?;
    let first = Vm::boot(kernel, host)?;
    first.start_agent()?;
    let mut second = Guest::boot(kernel, &[("twin", &second_socket)])?;
    second.start("agent", &["farwatch-agent", "twin"])?;
    second.wait_for_line("agent", "events are delivered on ")?;

    let share = first.share("both")?;
    let seen_by_second = mount_point("twin").join("both");
    let mut recorder = first.remote_recorder(&share)?;
    recorder.watch(Path::new("."))?;
    second.recorder("r", &seen_by_second)?;
    second.watch("r", Path::new("."))?;
    recorder.barrier()?;
    recorder.take_events()?;

    // What one does, both are told, and each of them once. In one go: an echo comes too late to be
    // merged with the event that it repeats.
    let script = "mkdir d; echo x > f; mv f d/f; rm d/f; rmdir d";
    let wanted =
        "CREATE,ISDIR d|CREATE f|MODIFY f|CLOSE_WRITE f|MOVED_FROM f c1|DELETE,ISDIR d".split('|');
    let wanted = wanted.map(Event::parse).collect::<Result<Vec<_>>>()?;
    for doer in ["first", "second"] {
        match doer {
            "first" => first.guest().shell(share.mount(), script)?,
            _ => second.shell(&seen_by_second, script)?,
        };
        share.run_on_host(&format!("> ../both.barrier/{doer}"))?;
        recorder.wait_for_sentinel(doer)?;
        second.wait_for_sentinel("r", doer)?;
        for (who, told) in [("first", recorder.take_events()?), ("second", second.events("r")?)] {
            let [told, wanted] = match who == doer {
                true => [&told, &wanted].map(|events| line(events)),
                false => [&told, &wanted].map(|events| line(&merge_allowed(events))),
            };
            ensure!(told == wanted, "{doer} did it, {who} was told {told}");
        }
    }
    Ok(())
}

/// Unless it was asked to be a mount in the guest too, of which the agent cannot know.
fn a_mount_in_the_share_gets_events(kernel: &Kernel) -> Result<()> {
    let mut below = None;
    let host = Mount::start_device(|host, socket| {
        let dir = host.host().join("below");
        fs::create_dir(&dir)?;
        below = Some(Submount::tmpfs(&dir)?);
        fs::create_dir(dir.join("dir"))?;
        serve(host, socket)
    })?;
    let vm = Vm::boot(kernel, host)?;
    // Unmounted when the device has ended and before the directories are removed.
    let _below = below;
    vm.start_agent()?;
    let share = vm.share("share")?;
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("."))?;
    recorder.watch(Path::new("../below/dir"))?;
    recorder.barrier()?;
    recorder.take_events()?;
    share.run_on_host("mkdir ../below/dir/made; mv ../below/dir/made ../below/dir/moved")?;
    recorder.barrier()?;
    let told = line(&recorder.take_events()?);
    let wanted = "CREATE,ISDIR ../below/dir/made|MOVED_FROM,ISDIR ../below/dir/made c|\
                  MOVED_TO,ISDIR ../below/dir/moved c";
    ensure!(told == wanted, "{told}");
    Ok(())
}

/// The guest's kernel keeps no name, so the next look at one finds what is mounted there; and it forgets
/// at once what nobody uses.
fn a_mount_comes_and_goes_beneath_a_guest(kernel: &Kernel) -> Result<()> {
    let host = Mount::start_device(|host, socket| {
        let mut command = serve(host, socket)?;
        // Which does not depend on what of this machine's mounts propagates.
        command.args(["--cache", "never", "--sandbox", "none"]);
        Ok(command)
    })?;
    let vm = Vm::boot(kernel, host)?;
    vm.start_agent()?;
    let share = vm.share("share")?;
    let below = share.host().join("below");
    fs::create_dir(&below)?;
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("."))?;
    recorder.watch(Path::new("below"))?;
    let mut told = |step: &str, wanted: &str| {
        recorder.barrier()?;
        let told = line(&recorder.take_events()?);
        ensure!(told == wanted, "{step}: {told}");
        anyhow::Ok(())
    };
    told("before", "")?;
    let mounted = Submount::tmpfs(&below)?;
    vm.run_in_mount(&share, "test -z \"$(ls below)\"")?;
    fs::create_dir(below.join("dir"))?;
    told("nobody watches it", "")?;
    vm.run_in_mount(&share, "cd below/dir")?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = unmount(&below, UnmountFlags::empty()) {
        ensure!(error == Errno::BUSY && Instant::now() < deadline, "umount: {error}");
    }
    drop(mounted);
    fs::create_dir(below.join("beneath"))?;
    told("it has gone", "CREATE,ISDIR below/beneath")
}

/// Their dentries are gone, and each replay looks for its directory; on the host there is none any more.
fn a_tree_that_the_kernel_has_dropped_is_removed_in_order(vm: &Vm) -> Result<()> {
    let share = vm.share("dropped")?;
    share.run_on_host("mkdir -p a/b; touch a/f a/g a/b/h")?;
    let mut recorder = vm.remote_recorder(&share)?;
    for dir in [".", "a", "a/b"] {
        recorder.watch(Path::new(dir))?;
    }
    recorder.barrier()?;
    recorder.take_events()?;
    vm.run_in_mount(&share, "echo 2 > /proc/sys/vm/drop_caches")?;
    vm.guest().signal(vm.agent(), Signal::STOP)?;
    share.run_on_host("rm a/f a/g a/b/h; rmdir a/b a")?;
    vm.guest().signal(vm.agent(), Signal::CONT)?;
    recorder.barrier()?;
    let told = line(&recorder.take_events()?);
    let wanted = "DELETE a/f|DELETE a/g|DELETE a/b/h|DELETE_SELF [a/b]|IGNORED [a/b]|\
                  DELETE,ISDIR a/b|DELETE_SELF [a]|IGNORED [a]|DELETE,ISDIR a";
    ensure!(told == wanted, "{told}");
    Ok(())
}

fn one_agent_serves_two_shares(kernel: &Kernel) -> Result<()> {
    let hosts = [Mount::start_device(serve)?, Mount::start_device(serve)?];
    let tags = ["one", "two"];
    let sockets = hosts.each_ref().map(Mount::socket);
    let mut guest = Guest::boot(kernel, &[(tags[0], &sockets[0]), (tags[1], &sockets[1])])?;
    guest.start("agent", &["farwatch-agent", tags[0], tags[1]])?;
    for _ in tags {
        guest.wait_for_line("agent", "events are delivered on ")?;
    }
    for (host, tag) in hosts.iter().zip(tags) {
        let share = host.share("share")?;
        guest.recorder(tag, &mount_point(tag).join("share"))?;
        guest.watch(tag, Path::new("."))?;
        share.run_on_host(&format!("mkdir {tag}; > ../share.barrier/done"))?;
        guest.wait_for_sentinel(tag, "done")?;
    }
    for tag in tags {
        let told = line(&guest.events(tag)?);
        ensure!(told == format!("CREATE,ISDIR {tag}"), "{tag}: {told}");
    }
    Ok(())
}

/// Events in a line, without the numbers of cookies.
fn line(events: &[Event]) -> String {
    let text = |event: &Event| event.to_string().trim_end_matches(char::is_numeric).to_owned();
    events.iter().map(text).collect::<Vec<_>>().join("|")
}

/// With as many events in flight as a checkout makes: it is stopped while they happen.
fn an_agent_stays_small_and_quiet(vm: &Vm) -> Result<()> {
    const FILES: usize = 10_000;
    let share = vm.share("many")?;
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("."))?;
    recorder.barrier()?;
    recorder.take_events()?;
    let signal = |signal: &str| {
        vm.guest().shell(Path::new("/"), &format!("kill -{signal} $(pidof farwatch-agent)"))
    };
    signal("STOP")?;
    let marks = (0..FILES).step_by(FILES / 10).map(|n| format!("after{n}")).collect::<Vec<_>>();
    for n in 0..FILES {
        fs::create_dir(share.host().join(n.to_string()))?;
        if let Some(mark) = marks.iter().find(|mark| **mark == format!("after{n}")) {
            share.run_on_host(&format!("> ../many.barrier/{mark}"))?;
        }
    }
    let early = recorder.take_events_now()?.len();
    ensure!(early == 0, "{early} events from an agent that is stopped");
    signal("CONT")?;
    // Each is patience for a tenth of them.
    for mark in &marks {
        recorder.wait_for_sentinel(mark)?;
    }
    recorder.barrier()?;
    let events = recorder.take_events()?;
    let created = events.iter().filter(|event| event.to_string().starts_with("CREATE")).count();
    ensure!(created == FILES, "{created} of {FILES} were told");
    let resident = vm.guest().shell(
        Path::new("/"),
        "for p in $(pidof farwatch-agent); do grep VmHWM /proc/$p/status; done",
    )?;
    let resident: Vec<u64> =
        resident.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let sum: u64 = resident.iter().sum();
    ensure!(resident.len() == 2 && sum <= RESIDENT_MAX, "resident: {resident:?} KiB");
    idle_agent_wakes_up_with_its_reads_alone(vm)
}

/// A read that nothing comes for takes half a second. Meanwhile no thread of the agent runs, and none
/// counts as load.
fn idle_agent_wakes_up_with_its_reads_alone(vm: &Vm) -> Result<()> {
    const WAKE_UPS: u32 = 10;
    const TIME_MIN: f64 = 4.0;
    let script = format!(
        "status=$(for p in $(pidof farwatch-agent); do echo /proc/$p/task/*/status; done)
        count() {{ cat $status | awk '/^voluntary/ {{ sum += $2 }} END {{ print sum }}'; }}
        grep -h ^State $status >&2
        cut -d' ' -f1 /proc/uptime
        from=$(count)
        while test $(($(count) - from)) -lt {WAKE_UPS}; do :; done
        cut -d' ' -f1 /proc/uptime"
    );
    let output = vm.guest().output(&["sh", "-ec", &script])?;
    let times =
        output.stdout.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let [from, to] = times[..] else { bail!("{output:?}") };
    ensure!(to - from >= TIME_MIN, "{WAKE_UPS} wake-ups in {} s", to - from);
    let (states, idle) = (&output.stderr, "S (sleeping)");
    ensure!(states.contains(idle), "no thread waits:\n{states}");
    ensure!(!states.contains("D (disk sleep)"), "a thread that waits counts as load:\n{states}");
    Ok(())
}

fn inotifywait_prints_the_events(vm: &Vm) -> Result<()> {
    let share = vm.share("share")?;
    let mut guest = vm.guest();
    let dir = share.mount().display().to_string();
    guest.start("inotifywait", &["inotifywait", "-m", "-r", "-e", "create,move,delete", &dir])?;
    guest.wait_for_line("inotifywait", "Watches established.")?;
    share.run_on_host("echo x > f; mv f g; rm g")?;
    for line in ["CREATE f", "MOVED_FROM f", "MOVED_TO g", "DELETE g"] {
        guest.wait_for_line("inotifywait", &format!("{dir}/ {line}"))?;
    }
    Ok(())
}

fn a_stock_virtiofsd_is_refused(kernel: &Kernel) -> Result<()> {
    let host = Mount::start_device(|mount, socket| {
        let Some(program) = e2e::stock_virtiofsd() else { bail!("no virtiofsd") };
        let mut command = Command::new(program);
        command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(mount.host());
        command.args(["--sandbox", "none", "--seccomp", "none"]);
        Ok(command)
    })?;
    let vm = Vm::boot(kernel, host)?;
    let refused = vm.guest().output(&["farwatch-agent", vm.tag()])?;
    let why = "no farwatch server behind this mount";
    ensure!(refused.code == 1 && refused.stderr.contains(why), "{refused:?}");
    Ok(())
}

/// From 6.8 on, FUSE file systems can be watched with fanotify's inode marks.
fn a_program_with_fanotify_gets_the_rename(vm: &Vm) -> Result<()> {
    let share = vm.share("share")?;
    share.run_on_host("mkdir a b; touch a/old")?;
    let dirs = ["a", "b"].map(|dir| share.mount().join(dir));
    vm.guest().watch_for_renames(&dirs)?;
    share.run_on_host("mv a/old b/new")?;
    let rename = vm.guest().next_rename()?;
    ensure!(rename == "0/old 1/new", "{rename}");
    share.run_on_host("mkdir objects; echo x > objects/f")?;
    vm.guest().watch_for_objects(&share.mount().join("objects"))?;
    for (run, mask, name, object) in Objects::DAY {
        share.run_on_host(&format!("cd objects; {run}"))?;
        let told = vm.guest().object(mask, name)?;
        ensure!(told == object, "{run}: object {told}");
    }
    Ok(())
}

/// There, a FUSE file system has no id, and fanotify_mark(2) wants one (ENODEV).
fn a_mount_cannot_be_watched_with_fanotify_handles(vm: &Vm) -> Result<()> {
    let share = vm.share("share")?;
    let refused = vm.guest().watch_for_objects(share.mount()).err().context("it can")?;
    let why = format!("{refused:#}");
    ensure!(why.contains("fanotify_mark(") && why.contains("(os error 19)"), "{why}");
    Ok(())
}

fn gets_events(vm: &Vm, name: &str) -> Result<()> {
    let share: Share = vm.share(name)?;
    let mut recorder = vm.remote_recorder(&share)?;
    recorder.watch(Path::new("."))?;
    recorder.barrier()?;
    share.run_on_host("echo x > f; mv f g")?;
    recorder.barrier()?;
    let told = line(&merge_allowed(&recorder.take_events()?));
    let wanted = "CREATE f|MODIFY f|CLOSE_WRITE f|MOVED_FROM f c|MOVED_TO g c";
    ensure!(told == wanted, "{told}");
    Ok(())
}

fn serve(mount: &Mount, socket: &Path) -> Result<Command> {
    let mut command = mount.farwatch()?;
    command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
    Ok(command)
}
