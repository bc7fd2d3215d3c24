// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch sync`: when it returns, all that was changed on the host before has been told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use e2e::Need;
use farwatch_testkit::vm::{Kernel, Vm};
use farwatch_testkit::{Mount, Place, Process, child_of, merge_allowed, render};
use rustix::process::{Signal, kill_process};

/// How often each test of what is there asks.
const ROUNDS: usize = 50;
/// The same in a virtual machine, where it takes longer.
const ROUNDS_IN_VM: usize = 30;
const KERNELS: [&str; 2] = ["6.1", "6.12"];
const BACKENDS: [&str; 2] = ["fanotify", "inotify"];

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[Need::Mount];
        every_event_is_there_when_sync_returns_on_a_mount,
        every_event_is_there_when_sync_returns_on_a_mount_with_an_agent,
        every_event_is_there_when_sync_returns_without_joined_renames,
        every_event_is_there_when_sync_returns_from_a_sandbox,
        sync_ends_while_the_host_never_pauses,
        sync_waits_for_the_difference_when_events_were_dropped,
        watch_on_a_deleted_object_has_ended_when_sync_returns,
        any_reader_of_a_file_may_sync_on_it_without_extended_attributes,
        stuck_agent_is_reported_when_the_timeout_expires,
        many_callers_wait_together_and_delay_no_other_request,
        sync_continues_with_the_next_agent,
        missing_agent_or_server_is_reported_with_what_to_do,
    ];
    trials.extend(e2e::trials![
        &[Need::Mount, Need::StockVirtiofsd];
        stock_virtiofsd_is_recognized,
    ]);
    for version in KERNELS {
        for backend in BACKENDS {
            let name = format!("every_event_is_there_when_sync_returns_on_{version}_by_{backend}");
            let needs = [Need::Mount, Need::Vm(version)];
            trials.push(e2e::trial(&name, &needs, move || in_vm(version, backend)));
        }
    }
    // Each boots a machine of its own, which fills a processor: one after the other.
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Everything of a round, with names of its own. The last is what could come too late.
const SCRIPT: &str = "echo 1 > f$N; mv f$N sub/g$N; mkdir d$N; echo 2 >> sub/g$N; ln sub/g$N h$N
    chmod 600 h$N; rm sub/g$N; rmdir d$N; mv h$N f$N; rm f$N; echo > ../unwatched$N; touch last$N";

/// Changes, waits with `sync`, and finds all of it in the queue of a program that watches: as much as
/// is there when one has waited for an event that came after.
fn every_event_is_there(place: &impl Place, rounds: usize) -> Result<()> {
    let share = place.share("share")?;
    share.run_on_host("mkdir sub")?;
    let mut recorder = place.recorder(&share)?;
    for watched in [".", "sub"] {
        recorder.watch(Path::new(watched))?;
    }
    recorder.barrier()?;
    for n in 0..rounds {
        share.run_on_host(&format!("N={n}; {SCRIPT}"))?;
        place.sync().context("sync")?;
        let told = recorder.take_events_now()?;
        recorder.barrier()?;
        let late = recorder.take_events()?;
        ensure!(late.is_empty(), "round {n}: told after sync:\n{}", render(&late));
        let told = render(&merge_allowed(&told));
        ensure!(told.contains(&format!("CREATE last{n}\n")), "round {n}:\n{told}");
        let gone = format!("DELETE f{n}\n");
        ensure!(told.contains(&gone), "round {n}: no {gone}in\n{told}");
    }
    Ok(())
}

fn on_mount(start: impl FnOnce() -> Result<Mount>) -> Result<()> {
    let mount = start()?;
    every_event_is_there(&mount, ROUNDS).map_err(|error| anyhow!("{error:#}\n{}", mount.log()))
}

fn every_event_is_there_when_sync_returns_on_a_mount() -> Result<()> {
    BACKENDS.iter().try_for_each(|backend| on_mount(|| Mount::start_with(&["--watch", backend])))
}

fn every_event_is_there_when_sync_returns_on_a_mount_with_an_agent() -> Result<()> {
    BACKENDS
        .iter()
        .try_for_each(|backend| on_mount(|| Mount::start_with_agent_and(&["--watch", backend])))
}

fn every_event_is_there_when_sync_returns_without_joined_renames() -> Result<()> {
    on_mount(|| Mount::start_with(&["--watch", "inotify", "--no-join-renames"]))
}

/// Killed at any system call that serving should not need.
fn every_event_is_there_when_sync_returns_from_a_sandbox() -> Result<()> {
    let serve = |backend: &'static str| {
        on_mount(|| {
            Mount::start_through_socket(|mount, socket| {
                let mut command = mount.farwatch()?;
                command.arg("serve").arg("--socket").arg(socket);
                command.arg("--shared-dir").arg(mount.host()).args(["--watch", backend]);
                command.args(["--sandbox", "namespace", "--seccomp", "kill"]);
                Ok(command)
            })
        })
    };
    BACKENDS.iter().try_for_each(|backend| serve(backend))
}

fn in_vm(version: &str, backend: &str) -> Result<()> {
    let kernel = Kernel::find(version).context("the kernel has gone")?;
    let vm = Vm::start_without_agent(&kernel, &["--watch", backend])?;
    vm.start_agent()?;
    every_event_is_there(&vm, ROUNDS_IN_VM).map_err(|error| anyhow!("{error:#}\n{}", vm.log()))
}

/// Signals the part of the agent that replays.
fn signal_agent(mount: &mut Mount, signal: Signal) -> Result<()> {
    let worker = child_of(mount.agent().id())?;
    kill_process(worker, signal).context("kill")
}

fn sync_ends_while_the_host_never_pauses() -> Result<()> {
    for backend in BACKENDS {
        let mount = Mount::start_with(&["--watch", backend])?;
        let share = mount.share("busy")?;
        let mut recorder = mount.recorder(&share)?;
        recorder.watch(Path::new("."))?;
        let file = fs::File::create(share.host().join("written"))?;
        mount.sync()?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| -> Result<u64> {
                let mut written = 0;
                while !over.load(Ordering::Relaxed) {
                    rustix::io::pwrite(&file, b"x", 0)?;
                    written += 1;
                }
                Ok(written)
            });
            let synced = (0..10).try_for_each(|n| {
                fs::write(share.host().join(format!("before{n}")), "")?;
                mount.sync().with_context(|| format!("round {n} by {backend}"))?;
                let told = render(&recorder.take_events_now()?);
                ensure!(told.contains(&format!("CREATE before{n}\n")), "round {n}:\n{told}");
                Ok(())
            });
            over.store(true, Ordering::Relaxed);
            let written = writer.join().map_err(|_| anyhow!("the writer has panicked"))??;
            ensure!(written > 1000, "{written} writes are not without a pause");
            synced
        })?;
    }
    Ok(())
}

fn sync_waits_for_the_difference_when_events_were_dropped() -> Result<()> {
    let mut mount = Mount::start_with_agent_and(&["--backlog-events-max", "8"])?;
    let share = mount.share("lost")?;
    for dir in ["a", "b"] {
        fs::create_dir(share.host().join(dir))?;
    }
    let mut recorder = mount.recorder(&share)?;
    for watched in ["a", "b"] {
        recorder.watch(Path::new(watched))?;
    }
    mount.sync()?;
    for round in 0..4 {
        recorder.take_events_now()?;
        signal_agent(&mut mount, Signal::STOP)?;
        for n in 0..100 {
            for dir in ["a", "b"] {
                fs::write(share.host().join(format!("{dir}/{round}-{n}")), "")?;
            }
        }
        signal_agent(&mut mount, Signal::CONT)?;
        mount.sync()?;
        let told = render(&recorder.take_events_now()?);
        for n in 0..100 {
            for dir in ["a", "b"] {
                let created = format!("CREATE {dir}/{round}-{n}\n");
                ensure!(told.contains(&created), "no {created}in\n{told}");
            }
        }
    }
    Ok(())
}

/// The host replaces a file, and before that is replayed a program in the mount moves away what is there now: no
/// replay takes a name from the file that is gone.
fn watch_on_a_deleted_object_has_ended_when_sync_returns() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    let share = mount.share("gone")?;
    for name in ["a", "b"] {
        fs::write(share.host().join(name), name)?;
    }
    let mut recorder = mount.recorder(&share)?;
    for watched in [".", "a"] {
        recorder.watch(Path::new(watched))?;
    }
    mount.sync()?;
    recorder.take_events_now()?;
    signal_agent(&mut mount, Signal::STOP)?;
    let replaced = fs::rename(share.host().join("b"), share.host().join("a"));
    let moved = fs::rename(share.mount().join("a"), share.mount().join("c"));
    signal_agent(&mut mount, Signal::CONT)?;
    replaced.and(moved)?;
    mount.sync()?;
    let told = render(&recorder.take_events_now()?);
    ensure!(told.contains("DELETE_SELF [a]\n"), "{told}");
    let there = fs::read_to_string(share.mount().join("c"))?;
    ensure!(there == "b", "c has {there:?}");
    Ok(())
}

fn sync(mount: &Mount, arguments: &[&str], path: &Path) -> Result<Output> {
    Ok(mount.farwatch()?.arg("sync").args(arguments).arg(path).output()?)
}

/// What it said, which must be one line, with its exit code.
fn failed(output: &Output, code: i32) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(code), "{}: {said}", output.status);
    ensure!(said.lines().count() == 1, "not one line: {said}");
    Ok(said)
}

fn any_reader_of_a_file_may_sync_on_it_without_extended_attributes() -> Result<()> {
    let mount = Mount::start_with(&["--no-xattr"])?;
    let share = mount.share("open")?;
    fs::write(share.host().join("file"), "")?;
    // Where anybody may start it.
    let program = mount.mount_point().with_file_name("farwatch-agent");
    fs::copy(mount.farwatch_agent()?.get_program(), &program)?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(program.parent().unwrap_or(&program), open)?;
    for path in [mount.mount_point(), share.mount().to_owned(), share.mount().join("file")] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        let output = command.arg(&program).arg("sync").arg(&path).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", path.display());
    }
    Ok(())
}

fn stuck_agent_is_reported_when_the_timeout_expires() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    signal_agent(&mut mount, Signal::STOP)?;
    let before = Instant::now();
    let output = sync(&mount, &["--timeout", "1"], &mount.mount_point());
    let took = before.elapsed();
    signal_agent(&mut mount, Signal::CONT)?;
    let said = failed(&output?, 3)?;
    ensure!(said.contains("timed out after 1 s: the agent"), "{said}");
    ensure!(took >= Duration::from_secs(1), "it took {took:?}");
    mount.sync()
}

fn many_callers_wait_together_and_delay_no_other_request() -> Result<()> {
    const MANY: usize = 40;
    let mut mount = Mount::start_with_agent()?;
    let share = mount.share("many")?;
    signal_agent(&mut mount, Signal::STOP)?;
    let asked = (0..MANY).map(|_| {
        let mut command = mount.farwatch()?;
        command.args(["sync", "--timeout", "60"]).arg(mount.mount_point());
        Process::start(command)
    });
    let asked = asked.collect::<Result<Vec<_>>>();
    // More requests than a queue has room for, each served.
    let served = (0..100).try_for_each(|n| {
        let file = share.mount().join(format!("f{n}"));
        fs::write(&file, "content")?;
        fs::remove_file(&file)
    });
    signal_agent(&mut mount, Signal::CONT)?;
    served?;
    for mut process in asked? {
        let status = process.wait()?;
        ensure!(status.success(), "{status}: {}", process.log());
    }
    Ok(())
}

fn sync_continues_with_the_next_agent() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    let share = mount.share("after")?;
    let mut recorder = mount.recorder(&share)?;
    recorder.watch(Path::new("."))?;
    mount.sync()?;
    signal_agent(&mut mount, Signal::STOP)?;
    fs::write(share.host().join("new"), "")?;
    let mut command = mount.farwatch()?;
    command.args(["sync", "--timeout", "60"]).arg(mount.mount_point());
    let mut waiting = Process::start(command)?;
    // Another worker takes its place.
    signal_agent(&mut mount, Signal::KILL)?;
    mount.agent().wait_for_line(|line| line.starts_with("events are delivered on "))?;
    let status = waiting.wait()?;
    // It may have found the moment without an agent.
    if status.success() {
        let told = render(&recorder.take_events_now()?);
        ensure!(told.contains("CREATE new\n"), "{told}");
    } else {
        ensure!(waiting.log().contains("start `farwatch-agent` there"), "{}", waiting.log());
    }
    mount.sync()
}

fn missing_agent_or_server_is_reported_with_what_to_do() -> Result<()> {
    let mount = Mount::start_with(&["--no-agent"])?;
    let said = failed(&sync(&mount, &[], &mount.mount_point())?, 1)?;
    ensure!(
        said.contains("no agent delivers events") && said.contains("start `farwatch-agent`"),
        "{said}"
    );
    let said = failed(&sync(&mount, &[], &mount.host())?, 1)?;
    ensure!(said.contains("is not on a farwatch mount"), "{said}");
    let said = failed(&sync(&mount, &[], &mount.mount_point().join("missing"))?, 1)?;
    ensure!(said.contains("name a directory of the mount that you may read"), "{said}");
    let output = sync(&mount, &["--timeout", "0"], &mount.mount_point())?;
    ensure!(output.status.code() == Some(2), "{}", output.status);
    Ok(())
}

fn stock_virtiofsd_is_recognized() -> Result<()> {
    let mount = Mount::start_through_socket(|mount, socket| {
        let virtiofsd = e2e::stock_virtiofsd().context("virtiofsd has gone")?;
        let mut command = Command::new(virtiofsd);
        command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(mount.host());
        command.args(["--sandbox", "none"]);
        Ok(command)
    })?;
    let said = failed(&sync(&mount, &[], &mount.mount_point())?, 1)?;
    ensure!(said.contains("`farwatch serve` serves in place of virtiofsd"), "{said}");
    Ok(())
}
