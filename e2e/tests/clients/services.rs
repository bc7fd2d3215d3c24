// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services that must miss nothing under load: a log shipper, and a reader of a Kubernetes volume.

use std::process::Command;

use anyhow::{Context as _, Result};
use e2e::Need;
use farwatch_testkit::Process;
use libtest_mimic::Trial;

use crate::client::{Room, Step, program, start, told_as_locally, wait_for_watches};

/// Unpacked there, as are its libraries and modules.
const RSYSLOGD: &str = "debian/usr/sbin/rsyslogd";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        e2e::trial(
            "rsyslog_loses_no_line_around_rotations",
            &[Need::Mount, Need::Client(RSYSLOGD)],
            rsyslog_loses_no_line_around_rotations,
        ),
        e2e::trial(
            "reader_of_a_kubernetes_volume_sees_whole_generations_under_load",
            &[Need::Mount, Need::Python, Need::Client("python")],
            reader_of_a_kubernetes_volume_sees_whole_generations_under_load,
        ),
    ]
}

/// How often the log is rotated.
const ROTATIONS: u32 = 6;
/// How many lines are written before and after each rotation, as fast as a shell can.
const LINES: u32 = 30;

/// The log is renamed and made anew while it is written to. A second rotation follows when all lines of the first are
/// read: a log that is replaced twice before imfile looks is lost locally too.
fn rsyslog_loses_no_line_around_rotations() -> Result<()> {
    let steps: Vec<Step> = (1..=ROTATIONS).map(rotation).collect();
    let client = |room: &Room<'_>| -> Result<Process> {
        let own = room.own.display();
        let log = room.share.mount().join("log");
        let config = format!(
            r#"global(workDirectory="{own}")
            module(load="imfile" mode="inotify")
            input(type="imfile" file="{}" tag="log" freshStartTail="off")
            template(name="line" type="string" string="%msg%\n")
            action(type="omfile" file="/dev/stdout" template="line")
            "#,
            log.display()
        );
        let file = room.own.join("config");
        std::fs::write(&file, config)?;
        let clients = e2e::clients().context("the clients have gone")?;
        let libraries = clients.join("debian/usr/lib/x86_64-linux-gnu");
        let mut rsyslogd = Command::new(clients.join(RSYSLOGD));
        rsyslogd.env("LD_LIBRARY_PATH", &libraries).arg("-M").arg(libraries.join("rsyslog"));
        rsyslogd.arg("-n").arg("-f").arg(file).arg("-i").arg(room.own.join("pid"));
        // The directory and the file.
        wait_for_watches(start(rsyslogd, |line| line == "begin")?, 2)
    };
    told_as_locally("echo begin > log", client, &steps)
}

fn rotation(number: u32) -> Step {
    let before = format!("for i in $(seq {LINES}); do echo {number}-before-$i >> log; done");
    let after = format!("for i in $(seq {LINES}); do echo {number}-after-$i >> log; done");
    let lines = ["before", "after"]
        .into_iter()
        .flat_map(|part| (1..=LINES).map(move |line| format!("{number}-{part}-{line}")));
    Step {
        run: format!("{before}; mv log log.{number}; {after}").leak(),
        told: lines.map(|line| &*line.leak()).collect(),
    }
}

/// How many times the volume is replaced in a step.
const GENERATIONS: u32 = 30;

/// A `ConfigMap` is replaced again and again as a kubelet does it, while a reader reads in the mount all the time. It ends
/// when what it reads is of two generations or older than before, and says when an event has led it to the newest.
fn reader_of_a_kubernetes_volume_sees_whole_generations_under_load() -> Result<()> {
    let writer = program("atomic_writer.py");
    let write = |first: u32, last: u32| {
        format!("PYTHONDONTWRITEBYTECODE=1 python3 {} volume {first} {last}", writer.display())
    };
    let steps: Vec<Step> = (1..4)
        .map(|step| Step {
            run: write((step - 1) * GENERATIONS + 1, step * GENERATIONS).leak(),
            told: vec![format!("event {}", step * GENERATIONS).leak()],
        })
        .collect();
    let client = |room: &Room<'_>| -> Result<Process> {
        let mut python = Command::new("python3");
        let clients = e2e::clients().context("the clients have gone")?;
        python.env("PYTHONPATH", clients.join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
        python.arg(program("atomic_reader.py"));
        python.arg(room.share.mount().join("volume")).arg(GENERATIONS.to_string());
        start(python, |line| line == "ready")
    };
    told_as_locally(&format!("mkdir volume; {}", write(0, 0)), client, &steps)
}
