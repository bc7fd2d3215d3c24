// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch status`, `farwatch watch` and the metrics, of processes that really run.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use farwatch_testkit::{Mount, Process};
use rustix::process::Signal;

fn main() -> ExitCode {
    e2e::run(e2e::trials![
        &[Need::Mount];
        mount_is_shown_with_its_device_its_agent_and_its_events,
        device_in_its_sandbox_is_shown_with_the_mount_on_its_socket,
        share_that_a_path_is_in_is_shown_alone,
        mount_without_an_agent_has_a_problem_and_another_exit_code,
        socket_of_a_killed_process_is_removed_by_the_next_query,
        other_user_sees_that_there_is_something_and_not_what,
        watch_prints_the_report_and_the_delivery_of_a_change,
        watch_says_that_a_directory_is_not_known,
        metrics_of_a_mount_are_served_by_its_device,
        mount_without_a_place_for_its_socket_works_and_says_so,
        clients_that_stall_do_not_keep_events_from_being_delivered,
        agent_reports_its_shares_and_leaves_no_socket,
        log_of_a_mount_and_its_device_is_json_where_that_was_asked_for,
    ])
}

/// Exit codes of `farwatch status`.
const HEALTHY: i32 = 0;
const WRONG: i32 = 3;
const NOTHING: i32 = 4;

/// What `farwatch status` says, and its exit code.
fn status(mount: &Mount, args: &[&Path]) -> Result<(String, Option<i32>)> {
    output(mount.farwatch()?.arg("status").args(args))
}

fn output(command: &mut Command) -> Result<(String, Option<i32>)> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors.is_empty(), "{errors}");
    Ok((String::from_utf8(output.stdout)?, output.status.code()))
}

fn serve(mount: &Mount, socket: &Path, options: &[&str]) -> Result<Command> {
    let mut command = mount.farwatch()?;
    command.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
    command.args(options);
    Ok(command)
}

fn contains(text: &str, parts: &[&str]) -> Result<()> {
    let missing: Vec<_> = parts.iter().filter(|part| !text.contains(**part)).collect();
    ensure!(missing.is_empty(), "{missing:?} is not in\n{text}");
    Ok(())
}

/// A change on the host that has one report and one event, which is delivered.
fn deliver(mount: &Mount) -> Result<()> {
    symlink("nowhere", mount.host().join("link"))?;
    mount.sync()
}

fn mount_is_shown_with_its_device_its_agent_and_its_events() -> Result<()> {
    let mut mount = Mount::start()?;
    deliver(&mount)?;
    let (text, code) = status(&mount, &[])?;
    let title = format!("{} on {}\n", mount.host().display(), mount.mount_point().display());
    let process = format!("as process {}, its device ", mount.driver().id());
    contains(
        &text,
        &[
            &title,
            &process,
            "watched by  inotify; known: 1 directory, ",
            "events by   the mount's own agent (queue), attached for",
            "1 reported by the host",
            "1 sent",
            "1 replayed",
            "0 in the backlog, 0 in replay",
            "from reported to replayed (1 events of the last minute)",
        ],
    )?;
    ensure!(!text.contains("PROBLEM") && code == Some(HEALTHY), "{code:?}: {text}");
    let (json, _) = output(mount.farwatch()?.args(["status", "--json"]))?;
    contains(&json, &["\"version\": 1", "\"kind\": \"agent\"", "\"findings\": []"])
}

fn device_in_its_sandbox_is_shown_with_the_mount_on_its_socket() -> Result<()> {
    let mount = Mount::start_through_socket(|mount, socket| {
        serve(mount, socket, &["--sandbox", "namespace", "--seccomp", "kill"])
    })?;
    deliver(&mount)?;
    let (text, code) = status(&mount, &[])?;
    let title = format!("{} on {}\n", mount.host().display(), mount.mount_point().display());
    contains(&text, &[&title, "1 sent", "1 replayed"])?;
    ensure!(text.matches("running ").count() == 1, "one share is shown twice:\n{text}");
    ensure!(code == Some(HEALTHY), "{code:?}");
    Ok(())
}

fn share_that_a_path_is_in_is_shown_alone() -> Result<()> {
    let mut mount = Mount::start_device(|mount, socket| serve(mount, socket, &[]))?;
    let socket = mount.serve_again(&[])?;
    mount.mount_through_socket()?;
    let (all, _) = status(&mount, &[])?;
    contains(&all, &[&format!("for a virtual machine, at {}", socket.display())])?;
    ensure!(all.matches("running ").count() == 2, "{all}");
    let (one, code) = status(&mount, &[&mount.mount_point()])?;
    ensure!(one.matches("running ").count() == 1 && code == Some(HEALTHY), "{one}");
    contains(&one, &[&format!(" on {}\n", mount.mount_point().display())])?;
    let (none, code) = status(&mount, &[Path::new("/")])?;
    ensure!(code == Some(NOTHING), "{none}");
    Ok(())
}

fn mount_without_an_agent_has_a_problem_and_another_exit_code() -> Result<()> {
    let mut mount = Mount::start_with(&["--no-agent"])?;
    let (text, code) = status(&mount, &[])?;
    let remedy = format!("start `farwatch-agent {}`", mount.mount_point().display());
    contains(&text, &["PROBLEM     no agent is attached: no events", &remedy])?;
    ensure!(code == Some(WRONG), "{code:?}");
    mount.start_agent(&[])?;
    let (text, code) = status(&mount, &[])?;
    contains(&text, &["events by   an agent (reads), attached for"])?;
    ensure!(code == Some(HEALTHY), "{text}");
    Ok(())
}

fn socket_of_a_killed_process_is_removed_by_the_next_query() -> Result<()> {
    let mut mount =
        Mount::start_device(|mount, socket| serve(mount, socket, &["--sandbox", "none"]))?;
    let sockets = |mount: &Mount| Ok::<_, anyhow::Error>(fs::read_dir(mount.state_dir())?.count());
    ensure!(sockets(&mount)? == 1, "it has a status socket");
    mount.driver().signal(Signal::KILL)?;
    mount.ended()?;
    ensure!(sockets(&mount)? == 1, "nothing could remove it");
    let (text, code) = status(&mount, &[])?;
    ensure!(code == Some(NOTHING), "{text}");
    ensure!(sockets(&mount)? == 0, "it is still there");
    Ok(())
}

fn other_user_sees_that_there_is_something_and_not_what() -> Result<()> {
    const NOBODY: u32 = 65_534;
    let mount = Mount::start()?;
    let as_nobody = |mount: &Mount| {
        let mut command = mount.farwatch()?;
        output(command.arg("status").uid(NOBODY).gid(NOBODY))
    };
    // The fixture's directory is root's alone.
    fs::set_permissions(mount.outside().join(".."), fs::Permissions::from_mode(0o755))?;
    let (text, code) = as_nobody(&mount)?;
    ensure!(code == Some(NOTHING), "{text}");
    contains(&text, &["1 of other users: run this as root to see them"])?;
    // As in /run/farwatch, whose names anybody may see.
    fs::set_permissions(mount.state_dir(), fs::Permissions::from_mode(0o755))?;
    let (text, code) = as_nobody(&mount)?;
    ensure!(code == Some(NOTHING), "{text}");
    contains(&text, &["2 of other users"])
}

fn watch_prints_the_report_and_the_delivery_of_a_change() -> Result<()> {
    let mount = Mount::start()?;
    fs::create_dir(mount.host().join("d"))?;
    fs::read_dir(mount.mount_point().join("d"))?.for_each(drop);
    let mut command = mount.farwatch()?;
    command.arg("watch").arg(mount.mount_point().join("d"));
    let mut watch = Process::start(command)?;
    watch.wait_for_line(|line| line == "# watching d; Ctrl-C ends")?;
    fs::write(mount.host().join("elsewhere"), "")?;
    fs::write(mount.host().join("d/f"), "content")?;
    watch.wait_for_line(|line| line.contains("  reported  ") && line.ends_with("  d/f"))?;
    let delivered = watch.wait_for_line(|line| line.contains("  delivered  "))?;
    contains(&delivered, &["after ", "CREATE", "  d/f"])?;
    ensure!(!watch.log().contains("elsewhere"), "{}", watch.log());
    watch.signal(Signal::INT)?;
    watch.wait()?;
    Ok(())
}

fn watch_says_that_a_directory_is_not_known() -> Result<()> {
    let mount = Mount::unmounted()?;
    fs::create_dir(mount.host().join("d"))?;
    let mount = mount.started_with(&[])?;
    let mut command = mount.farwatch()?;
    command.arg("watch").arg(mount.host().join("d"));
    let mut watch = Process::start(command)?;
    watch.wait_for_line(|line| {
        line.starts_with("# no program on the other side has looked into d,")
    })?;
    watch.signal(Signal::INT)?;
    watch.wait()?;
    Ok(())
}

fn metrics_of_a_mount_are_served_by_its_device() -> Result<()> {
    let mount = Mount::unmounted()?;
    let socket = mount.outside().join("metrics");
    let metrics = format!("--metrics=unix:{}", socket.display());
    let mount = mount.started_with(&[&metrics])?;
    deliver(&mount)?;
    let mut scraper = UnixStream::connect(&socket).context("the socket of the metrics")?;
    scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")?;
    let mut response = String::new();
    scraper.read_to_string(&mut response)?;
    let label = format!("{{shared_dir=\"{}\"}}", mount.host().display());
    contains(
        &response,
        &[
            "HTTP/1.1 200 OK\r\n",
            &format!("\nfarwatch_events_replayed_total{label} 1\n"),
            &format!("\nfarwatch_client_attached{label} 1\n"),
            &format!("\nfarwatch_event_latency_seconds_count{label} 1\n"),
        ],
    )
}

fn log_of_a_mount_and_its_device_is_json_where_that_was_asked_for() -> Result<()> {
    let mut mount = Mount::start_with(&["--log", "info", "--log-format", "json"])?;
    mount.driver().signal(Signal::TERM)?;
    mount.driver().wait()?;
    let log = mount.driver().log();
    let is_json = |line: &&str| line.starts_with("{\"timestamp\":\"") && line.ends_with('}');
    let lines: Vec<_> = log.lines().filter(is_json).collect();
    let others = log.lines().filter(|line| !is_json(line)).count();
    ensure!(others == 2, "the command, and the line on standard output:\n{log}");
    contains(
        &lines.join("\n"),
        &["\"target\":\"farwatch::serve\"", "\"target\":\"farwatch::signals\""],
    )
}

fn agent_reports_its_shares_and_leaves_no_socket() -> Result<()> {
    let mut mount = Mount::start_with_agent()?;
    deliver(&mount)?;
    let status = |mount: &Mount| output(mount.farwatch_agent()?.arg("status"));
    let (text, code) = status(&mount)?;
    let target = format!("{}\n", mount.mount_point().display());
    contains(&text, &[&target, "attached    for ", "1 calls, 0 failed", "server      answered "])?;
    ensure!(code == Some(HEALTHY), "{code:?}: {text}");
    mount.agent().signal(Signal::TERM)?;
    mount.agent().wait()?;
    let left =
        fs::read_dir(mount.state_dir())?.filter_map(Result::ok).map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("agent-")).collect();
    ensure!(left.is_empty(), "{left:?}");
    let (text, code) = status(&mount)?;
    ensure!(code == Some(NOTHING) && text == "no farwatch-agent runs\n", "{code:?}: {text}");
    Ok(())
}

fn clients_that_stall_do_not_keep_events_from_being_delivered() -> Result<()> {
    let mount = Mount::start()?;
    let mut sockets: Vec<_> = fs::read_dir(mount.state_dir())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    sockets.retain(|path| path.extension().is_some_and(|it| it == "status"));
    ensure!(sockets.len() == 2, "{sockets:?}");
    let mut stalled = Vec::new();
    for socket in sockets.iter().flat_map(|socket| [socket; 8]) {
        let mut client = UnixStream::connect(socket)?;
        client.set_nonblocking(true)?;
        // Until neither side has room.
        while client.write(&b"{\"version\":1,\"ask\":\"status\"}\n".repeat(50)).is_ok() {}
        stalled.push(client);
    }
    deliver(&mount)?;
    let (text, code) = status(&mount, &[])?;
    contains(&text, &["1 sent", "1 replayed"])?;
    ensure!(code == Some(HEALTHY), "{code:?}");
    drop(stalled);
    Ok(())
}

fn mount_without_a_place_for_its_socket_works_and_says_so() -> Result<()> {
    let mount = Mount::unmounted()?;
    fs::write(mount.state_dir(), "no directory")?;
    let mut mount = mount.started_with(&[])?;
    deliver(&mount)?;
    mount.driver().signal(Signal::TERM)?;
    mount.driver().wait()?;
    let log = mount.driver().log();
    let said = log.matches("`farwatch status` will not show this process: ").count();
    ensure!(said == 2, "the mount and its device say it:\n{log}");
    contains(&log, &["state is no directory that this user alone may write to"])
}
