// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients in Rust, Python and Java.

use std::process::Command;

use anyhow::{Context as _, Result};
use e2e::Need;
use farwatch_testkit::Process;
use libtest_mimic::Trial;

use crate::client::{Room, Step, program, same_as_locally, start};
use crate::recursive::{self, IN_ONE_GO, day};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = e2e::trials![
        &[Need::Mount];
        notify_reports_the_same_as_locally,
        debouncer_of_notify_reports_the_same_as_locally,
    ];
    trials.extend(e2e::trials![
        &[Need::Mount, Need::Python, Need::Client("python")];
        watchdog_reports_the_same_as_locally,
        watchfiles_reports_the_same_as_locally,
        pyinotify_reports_the_same_as_locally,
    ]);
    trials.extend(e2e::trials![
        &[Need::Mount, Need::Program("java")];
        watch_service_of_java_reports_the_same_as_locally,
    ]);
    trials
}

fn notify(options: &[&str], room: &Room<'_>) -> Result<Process> {
    let mut notify = Command::new(env!("CARGO_BIN_EXE_notify-client"));
    notify.args(options).arg(room.share.mount());
    start(notify, |line| line == "ready")
}

fn notify_reports_the_same_as_locally() -> Result<()> {
    let mut steps = day([
        &["modify a", "close-write a"],
        &["create-file b", "close-write b"],
        &["rename-from b", "rename-to c", "rename b c"],
        &["create-file a.tmp", "close-write a.tmp"],
        &["rename-from a.tmp", "rename-to a", "rename a.tmp a"],
        &["create-folder d"],
        &["modify a", "close-write a"],
        &["create-file d/e", "close-write d/e"],
        &["rename-from sub", "rename-to lib", "rename sub lib"],
        &["remove-file c"],
        &["modify lib/deep", "close-write lib/deep"],
        &["modify d/e", "close-write d/e"],
        &["remove-file d/e"],
        &["remove-folder d"],
        &["create-file end", "close-write end"],
    ]);
    steps.push(Step::new(IN_ONE_GO, &["create-folder f"]));
    same_as_locally(recursive::SETUP, |room| notify(&[], room), &steps)
}

fn debouncer_of_notify_reports_the_same_as_locally() -> Result<()> {
    same_as_locally(
        recursive::SETUP,
        |room| notify(&["--debounced"], room),
        &day([
            &["modify a", "close-write a"],
            &["create-file b", "close-write b"],
            &["rename b c"],
            &["create-file a.tmp", "close-write a.tmp"],
            &["rename a.tmp a"],
            &["create-folder d"],
            &["modify a", "close-write a"],
            &["create-file d/e", "close-write d/e"],
            &["rename sub lib"],
            &["remove-file c"],
            &["modify lib/deep", "close-write lib/deep"],
            &["modify d/e", "close-write d/e"],
            &["remove-file d/e"],
            &["remove-folder d"],
            &["create-file end", "close-write end"],
        ]),
    )
}

/// The Python that `./test` has installed the packages for.
fn python(room: &Room<'_>, name: &str) -> Result<Process> {
    let mut python = Command::new("python3");
    let clients = e2e::clients().context("the clients have gone")?;
    python.env("PYTHONPATH", clients.join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    python.arg(program(name)).arg(room.share.mount());
    start(python, |line| line == "ready")
}

fn watchdog_reports_the_same_as_locally() -> Result<()> {
    same_as_locally(
        recursive::SETUP,
        |room| python(room, "watchdog_client.py"),
        &day([
            &["modified-file a", "closed-file a"],
            &["created-file b", "closed-file b"],
            &["moved-file b c"],
            &["created-file a.tmp", "closed-file a.tmp"],
            &["moved-file a.tmp a"],
            &["created-directory d"],
            &["modified-file a", "closed-file a"],
            &["created-file d/e", "closed-file d/e"],
            &["moved-directory sub lib", "moved-file sub/deep lib/deep"],
            &["deleted-file c"],
            &["modified-file lib/deep", "closed-file lib/deep"],
            &["modified-file d/e", "closed-file d/e"],
            &["deleted-file d/e"],
            &["deleted-directory d"],
            &["created-file end", "closed-file end"],
        ]),
    )
}

fn watchfiles_reports_the_same_as_locally() -> Result<()> {
    same_as_locally(
        recursive::SETUP,
        |room| python(room, "watchfiles_client.py"),
        &day([
            &["modified a"],
            &["added b"],
            &["deleted b", "added c"],
            &["added a.tmp"],
            &["deleted a.tmp", "added a"],
            &["added d"],
            &["modified a"],
            &["added d/e"],
            &["deleted sub", "added lib"],
            &["deleted c"],
            &["modified lib/deep"],
            &["modified d/e"],
            &["deleted d/e"],
            &["deleted d"],
            &["added end"],
        ]),
    )
}

fn pyinotify_reports_the_same_as_locally() -> Result<()> {
    same_as_locally(
        recursive::SETUP,
        |room| python(room, "pyinotify_client.py"),
        &day([
            &["IN_MODIFY a", "IN_CLOSE_WRITE a"],
            &["IN_CREATE b", "IN_CLOSE_WRITE b"],
            &["IN_MOVED_FROM b", "IN_MOVED_TO c from b"],
            &["IN_CREATE a.tmp", "IN_CLOSE_WRITE a.tmp"],
            &["IN_MOVED_FROM a.tmp", "IN_MOVED_TO a from a.tmp"],
            &["IN_CREATE|IN_ISDIR d"],
            &["IN_MODIFY a", "IN_CLOSE_WRITE a"],
            &["IN_CREATE d/e", "IN_CLOSE_WRITE d/e"],
            &["IN_MOVED_FROM|IN_ISDIR sub", "IN_MOVED_TO|IN_ISDIR lib from sub"],
            &["IN_DELETE c"],
            // It goes on to use the name from before.
            &["IN_MODIFY sub/deep", "IN_CLOSE_WRITE sub/deep"],
            &["IN_MODIFY d/e", "IN_CLOSE_WRITE d/e"],
            &["IN_DELETE d/e"],
            &["IN_DELETE|IN_ISDIR d"],
            &["IN_CREATE end", "IN_ATTRIB end", "IN_CLOSE_WRITE end"],
        ]),
    )
}

fn watch_service_of_java_reports_the_same_as_locally() -> Result<()> {
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut java = Command::new("java");
        // It starts in half the time when it does not compile for speed.
        java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg(program("WatchTree.java"))
            .arg(room.share.mount());
        start(java, |line| line == "ready")
    };
    same_as_locally(
        recursive::SETUP,
        client,
        &day([
            &["ENTRY_MODIFY a"],
            &["ENTRY_CREATE b"],
            &["ENTRY_DELETE b", "ENTRY_CREATE c"],
            &["ENTRY_CREATE a.tmp"],
            &["ENTRY_DELETE a.tmp", "ENTRY_CREATE a"],
            &["ENTRY_CREATE d"],
            &["ENTRY_MODIFY a"],
            &["ENTRY_CREATE d/e"],
            &["ENTRY_DELETE sub", "ENTRY_CREATE lib"],
            &["ENTRY_DELETE c"],
            &["ENTRY_MODIFY lib/deep"],
            &["ENTRY_MODIFY d/e"],
            &["ENTRY_DELETE d/e"],
            &["ENTRY_DELETE d"],
            &["ENTRY_CREATE end"],
        ]),
    )
}
