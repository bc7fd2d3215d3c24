// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients that Debian has, and watchexec.

use std::process::Command;

use anyhow::{Context as _, Result};
use e2e::Need;
use farwatch_testkit::Process;
use libtest_mimic::Trial;

use crate::client::{Room, Step, program, same_as_locally, start, start_silent, told_as_locally};
use crate::recursive::{self, IN_ONE_GO, day};

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |program: &'static str, name: &str, run: fn() -> Result<()>| {
        e2e::trial(name, &[Need::Mount, Need::Program(program)], run)
    };
    vec![
        trial("entr", "entr_runs_again", entr_runs_again),
        trial("reflex", "reflex_runs_for_each_change", reflex_runs_for_each_change),
        trial(
            "watchman",
            "watchman_tells_what_it_tells_locally",
            watchman_tells_what_it_tells_locally,
        ),
        trial(
            "fsnotifywait",
            "fsnotifywait_tells_what_it_tells_locally",
            fsnotifywait_tells_what_it_tells_locally,
        ),
        e2e::trial(
            "watchexec_tells_what_it_tells_locally",
            &[Need::Mount, Need::Client("bin/watchexec")],
            watchexec_tells_what_it_tells_locally,
        ),
    ]
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

fn watchman_tells_what_it_tells_locally() -> Result<()> {
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
fn fsnotifywait_tells_what_it_tells_locally() -> Result<()> {
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

fn watchexec_tells_what_it_tells_locally() -> Result<()> {
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
