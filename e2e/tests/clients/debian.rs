// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients that Debian has, and watchexec.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::{Mount, PATIENCE, Process, Recorder, Share};
use inotify::WatchMask;
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::client::{
    Room, Step, libuv_reports_the_same_as_locally, program, same_as_locally, settle, start,
    start_silent, told_as_locally, wait_for_watches, watches_of,
};
use crate::recursive::{self, IN_ONE_GO, day};

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |program: &'static str, name: &str, run: fn() -> Result<()>| {
        e2e::trial(name, &[Need::Mount, Need::Program(program)], run)
    };
    vec![
        trial(
            "inotifywatch",
            "inotifywatch_counts_what_it_counts_locally",
            inotifywatch_counts_what_it_counts_locally,
        ),
        trial("tail", "tail_follows_a_log_and_polls", tail_follows_a_log_and_polls),
        trial("fatrace", "fatrace_cannot_watch_a_mount", fatrace_cannot_watch_a_mount),
        trial("entr", "entr_runs_again", entr_runs_again),
        trial("reflex", "reflex_runs_for_each_change", reflex_runs_for_each_change),
        trial(
            "watchman",
            "watchman_reports_the_same_as_locally",
            watchman_reports_the_same_as_locally,
        ),
        trial(
            "fsnotifywait",
            "fsnotifywait_reports_the_same_as_locally",
            fsnotifywait_reports_the_same_as_locally,
        ),
        trial(
            "gio",
            "gio_monitor_reports_the_same_as_locally",
            gio_monitor_reports_the_same_as_locally,
        ),
        trial("nvim", "neovim_reports_the_same_as_locally", neovim_reports_the_same_as_locally),
        e2e::trial(
            "path_units_of_systemd_run_their_services",
            &[Need::Mount, Need::Python, Need::Program("/usr/lib/systemd/systemd")],
            path_units_of_systemd_run_their_services,
        ),
        e2e::trial(
            "watchexec_reports_the_same_as_locally",
            &[Need::Mount, Need::Client("bin/watchexec")],
            watchexec_reports_the_same_as_locally,
        ),
    ]
}

/// It counts, and prints a table when it is ended.
fn inotifywatch_counts_what_it_counts_locally() -> Result<()> {
    let mount = Mount::start()?;
    let local = counted(&mount.local_twin("day")?)?;
    let mounted = counted(&mount.share("day")?)?;
    ensure!(local.len() == 3, "not a head and two directories: {local:?}");
    ensure!(local == mounted, "local:\n{}\nmounted:\n{}", local.join("\n"), mounted.join("\n"));
    Ok(())
}

fn counted(share: &Share) -> Result<Vec<String>> {
    share.run_on_host("mkdir in out; touch in/a in/b in/c")?;
    settle(share)?;
    let mut command = Command::new("inotifywatch");
    command.args(["-r", "."]).current_dir(share.mount());
    for event in ["create", "delete", "moved_from", "moved_to", "attrib"] {
        command.args(["-e", event]);
    }
    let mut client =
        start(command, |line| line == "Finished establishing watches, now collecting statistics.")?;
    let mut recorder = Recorder::new(share, WatchMask::CREATE)?;
    for step in ["mv in/a out/a; mv in/b out/b", "rm out/b in/c; chmod 600 out/a", "ln out/a in/n"]
    {
        share.run_on_host(step)?;
    }
    // What the recorder is told in another directory comes last. A program that then waits has read what came
    // before.
    recorder.barrier()?;
    wait_until_it_waits(&client)?;
    client.signal(Signal::INT)?;
    let mut lines = Vec::new();
    while let Some(line) = client.next_line()? {
        lines.push(line);
    }
    lines.sort_unstable();
    Ok(lines)
}

fn wait_until_it_waits(process: &Process) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let stat = format!("/proc/{}/stat", process.id());
    while !std::fs::read_to_string(&stat)?.contains(") S ") {
        ensure!(Instant::now() < deadline, "it is always busy:\n{}", process.log());
        std::thread::yield_now();
    }
    Ok(())
}

/// It knows FUSE by its number among those file systems that have no events, and looks again and again: a test
/// that it does not need them.
fn tail_follows_a_log_and_polls() -> Result<()> {
    let steps = [
        Step::new("echo two >> log", &["two"]),
        Step::new("mv log log.1; echo three > log", &["three"]),
        Step::new("echo four >> log", &["four"]),
    ];
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut tail = Command::new("tail");
        tail.args(["-s", "0.1", "-F", "log"]).current_dir(room.share.mount());
        let tail = start(tail, |line| line == "one")?;
        let is_local = room.share.mount() == room.share.host();
        if is_local {
            return wait_for_watches(tail, 1);
        }
        ensure!(watches_of(&tail)? == 0, "tail has learnt of events on FUSE: say so in CLIENTS.md");
        Ok(tail)
    };
    told_as_locally("echo one > log", client, &steps)
}

/// It marks the file system, for which fanotify wants one with an id of its own.
fn fatrace_cannot_watch_a_mount() -> Result<()> {
    let mount = Mount::start()?;
    let mut fatrace = Command::new("fatrace");
    fatrace.arg("--current-mount").current_dir(mount.mount_point());
    start(fatrace, |line| line == "fatrace: Failed to add watch for .: No such device").map(drop)
}

fn entr_runs_again() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut sh = Command::new("sh");
        // All that happens while the command runs counts too (-a), and it runs for changes alone (-p).
        let script = "echo a > \"$LIST\"; exec entr -n -a -p cat a < \"$LIST\"";
        sh.args(["-c", script]).env("LIST", room.own.join("list"));
        sh.current_dir(room.share.mount());
        start_silent(sh, 1)
    };
    told_as_locally(
        "echo one > a",
        client,
        &[
            Step::new("echo two > a", &["two"]),
            Step::new("echo three > new; mv new a", &["three"]),
            Step::new("mv a a~; echo four > a; rm a~", &["four"]),
            Step::new("echo five > a", &["five"]),
        ],
    )
}

/// It watches with Go's fsnotify, and says nothing of what has gone.
fn reflex_runs_for_each_change() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut reflex = Command::new("reflex");
        reflex.args(["--all", "--decoration=none", "--", "echo", "ran", "{}"]);
        reflex.current_dir(room.share.mount());
        start_silent(reflex, 2)
    };
    told_as_locally(
        recursive::SETUP,
        client,
        &day([
            &["ran a"],
            &["ran b"],
            &["ran c"],
            &["ran a.tmp"],
            &["ran a"],
            &["ran d/"],
            &["ran a"],
            &["ran d/e"],
            &["ran lib/"],
            &[],
            &["ran lib/deep"],
            &["ran d/e"],
            &[],
            &[],
            &["ran end"],
        ]),
    )
}

fn watchman_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut python = Command::new("python3");
        python.arg(program("watchman_client.py")).arg(room.share.mount()).arg(&room.own);
        start(python, |line| line == "ready")
    };
    let mut steps = day([
        &["file a"],
        &["new-file b"],
        &["gone b", "new-file c"],
        &["new-file a.tmp"],
        &["gone a.tmp", "file a"],
        &["new-directory d"],
        &["file a"],
        &["new-file d/e"],
        &["gone sub", "gone sub/deep", "new-directory lib", "new-file lib/deep"],
        &["gone c"],
        &["file lib/deep"],
        &["file d/e"],
        &["gone d/e"],
        &["gone d"],
        &["new-file end"],
    ]);
    steps.push(Step::new(IN_ONE_GO, &["new-directory f", "new-directory f/g", "new-file f/g/h"]));
    same_as_locally(recursive::SETUP, client, &steps)
}

/// With fanotify. After the rename of a directory it says nothing more, locally too.
fn fsnotifywait_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut fsnotifywait = Command::new("fsnotifywait");
        fsnotifywait.args(["--fanotify", "-m", "-r", "--format", "%e %f"]);
        for event in ["create", "close_write", "delete", "moved_from", "moved_to"] {
            fsnotifywait.args(["-e", event]);
        }
        fsnotifywait.arg(".").current_dir(room.share.mount());
        start(fsnotifywait, |line| line == "Watches established.")
    };
    told_as_locally(
        recursive::SETUP,
        client,
        &[
            Step::new("echo two > a", &["CLOSE_WRITE,CLOSE a"]),
            Step::new("echo two > sub/deep", &["CLOSE_WRITE,CLOSE deep"]),
            Step::new("mkfifo b", &["CREATE b"]),
            Step::new("mv b c", &["MOVED_FROM b", "MOVED_TO c"]),
            Step::new("mv c sub/c", &["MOVED_FROM c", "MOVED_TO c"]),
            Step::new("rm sub/c", &["DELETE c"]),
            Step::new("mkdir d", &["CREATE,ISDIR d"]),
            Step::new("rmdir d", &["DELETE,ISDIR d"]),
            Step::new("rm a", &["DELETE a"]),
        ],
    )
}

/// One event that counts for each step, but for the last of a unit: it watches nothing while its service runs, and
/// would miss a second one or not, locally too. A truncation by path has no closing.
fn path_units_of_systemd_run_their_services() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut sh = Command::new("sh");
        sh.arg(program("systemd.sh")).arg(room.share.mount());
        start(sh, |line| line == "ready")
    };
    same_as_locally(
        "printf '1\\n2\\n3\\n' | tee log > page; mkdir spool",
        client,
        &[
            Step::new("python3 -c 'import os; os.truncate(\"log\", 4)'", &["ran modified 2"]),
            Step::new("python3 -c 'import os; os.truncate(\"log\", 2)'", &["ran modified 1"]),
            // It wants the file closed.
            Step::new("python3 -c 'import os; os.truncate(\"page\", 4)'", &[]),
            Step::new("echo 4 >> page", &["ran changed 4"]),
            Step::new("echo 5 >> page", &["ran changed 5"]),
            Step::new("touch flag", &["ran exists"]),
            Step::new("touch flag", &["ran exists"]),
            Step::new("touch spool/a", &["ran not-empty"]),
            Step::new("touch spool/a", &["ran not-empty"]),
            Step::new("echo 6 > new; mv new log", &["ran modified 6"]),
            Step::new("echo 7 > new; mv new page", &["ran changed 7"]),
        ],
    )
}

fn watchexec_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let watchexec = e2e::clients().context("the clients have gone")?.join("bin/watchexec");
        let mut watchexec = Command::new(watchexec);
        watchexec.args(["--only-emit-events", "--emit-events-to=stdio", "--no-vcs-ignore"]);
        watchexec.current_dir(room.share.mount());
        start_silent(watchexec, 2)
    };
    told_as_locally(
        recursive::SETUP,
        client,
        &day([
            &["modify:a"],
            &["create:b"],
            &["modify:b", "modify:c"],
            &["create:a.tmp"],
            &["modify:a.tmp", "modify:a"],
            &["create:d"],
            &["modify:a"],
            &["create:d/e"],
            &["modify:sub", "modify:lib"],
            &["remove:c"],
            &["modify:lib/deep"],
            &["modify:d/e"],
            &["remove:d/e"],
            &["remove:d"],
            &["create:end"],
        ]),
    )
}

/// GLib's monitor, which the programs of GNOME use.
fn gio_monitor_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut gio = Command::new("gio");
        gio.args(["monitor", "-d", "."]).current_dir(room.share.mount());
        start_silent(gio, 1)
    };
    same_as_locally(
        "echo one > a",
        client,
        &[
            Step::new("echo two > a", &[".: a: changed", ".: a: changes done"]),
            Step::new("echo one > b", &[".: b: created", ".: b: changes done"]),
            Step::new("mv b c", &[".: b: renamed to c"]),
            Step::new("mv c a", &[".: c: renamed to a"]),
            Step::new("chmod 600 a", &[".: a: attributes changed"]),
            Step::new("mkdir d", &[".: d: created"]),
            Step::new("rm a", &[".: a: deleted"]),
            Step::new("mkfifo end", &[".: end: created"]),
        ],
    )
}

fn neovim_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut nvim = Command::new("nvim");
        nvim.args(["--headless", "-n", "-u", "NONE", "-i", "NONE", "-c"]);
        nvim.arg(format!("luafile {}", program("neovim.lua").display()));
        nvim.current_dir(room.share.mount());
        start(nvim, |line| line == "ready")
    };
    libuv_reports_the_same_as_locally(client)
}
