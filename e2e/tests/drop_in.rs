// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `farwatch serve` where virtiofsd was before: started as root or as an ordinary user, in each
//! sandbox, with virtiofsd's options and under its name. What it serves is mounted and watched.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::Need;
use e2e::limited::{USER, as_user};
use e2e::started::{inherited, under_the_name};
use farwatch_testkit::{Mount, Process, Recorder, Share, Submount, children_of, render};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::process::Signal;

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[Need::Mount];
        events_come_out_of_a_namespace,
        events_come_out_of_a_chroot,
        events_come_without_a_sandbox,
        events_come_with_a_descriptor_for_each_file,
        events_come_from_a_file_system_mounted_in_the_share,
        a_read_only_share_sends_events_and_takes_no_changes,
        extended_attributes_are_mapped,
        users_are_translated,
        a_link_named_virtiofsd_takes_its_command_line,
        under_its_own_name_it_shares_extended_attributes,
        the_device_can_do_nothing_but_serve,
        a_signal_to_the_parent_ends_the_device_cleanly,
        the_device_ends_when_its_parent_is_killed,
        a_socket_in_use_is_refused_by_name,
        events_come_by_inotify_from_each_sandbox,
    ];
    trials.extend(e2e::trials![
        &[Need::Mount, Need::UserNamespaces];
        events_come_from_an_ordinary_user_in_a_namespace,
        events_come_from_an_ordinary_user_who_is_root_in_a_namespace,
        events_come_from_an_ordinary_user_without_a_sandbox,
        error_for_a_user_without_namespaces_says_what_to_do,
        events_come_by_inotify_from_an_ordinary_user,
    ]);
    trials.extend(e2e::trials![
        &[Need::Mount, Need::Python];
        every_request_is_served_under_the_filter,
    ]);
    e2e::run(trials)
}

fn events_come_out_of_a_namespace() -> Result<()> {
    both_sides_are_told(&start(&["--sandbox", "namespace"])?)
}

fn events_come_out_of_a_chroot() -> Result<()> {
    both_sides_are_told(&start(&["--sandbox", "chroot"])?)
}

fn events_come_without_a_sandbox() -> Result<()> {
    both_sides_are_told(&start(&["--sandbox", "none", "--inode-file-handles=mandatory"])?)
}

fn events_come_with_a_descriptor_for_each_file() -> Result<()> {
    both_sides_are_told(&start(&["--inode-file-handles=never", "--cache", "metadata"])?)
}

/// With `never` there are no file handles at all, as on a file system that has none.
fn events_come_by_inotify_from_each_sandbox() -> Result<()> {
    for sandbox in ["namespace", "chroot", "none"] {
        for handles in ["prefer", "never"] {
            let options = ["--sandbox", sandbox, "--inode-file-handles", handles];
            let options = [&options[..], &["--watch", "inotify"]].concat();
            both_sides_are_told(&start(&options)?).with_context(|| options.join(" "))?;
        }
    }
    Ok(())
}

fn events_come_by_inotify_from_an_ordinary_user() -> Result<()> {
    for sandbox in ["namespace", "none"] {
        let served = start_as_user(&["--sandbox", sandbox, "--watch", "inotify"])?;
        both_sides_are_told(&served).with_context(|| sandbox)?;
    }
    Ok(())
}

fn events_come_from_an_ordinary_user_in_a_namespace() -> Result<()> {
    both_sides_are_told(&start_as_user(&["--sandbox", "namespace"])?)
}

fn events_come_from_an_ordinary_user_who_is_root_in_a_namespace() -> Result<()> {
    let maps = [format!(":0:{USER}:1:"), format!(":0:{USER}:1:")];
    both_sides_are_told(&start_as_user(&["--uid-map", &maps[0], "--gid-map", &maps[1]])?)
}

fn events_come_from_an_ordinary_user_without_a_sandbox() -> Result<()> {
    both_sides_are_told(&start_as_user(&["--sandbox", "none"])?)
}

fn error_for_a_user_without_namespaces_says_what_to_do() -> Result<()> {
    let served = Mount::unmounted()?;
    // A user whom a user namespace does not map cannot have another one: user_namespaces(7).
    let command = as_user(&served, &served.socket(), &["unshare", "--user"], &[])?;
    let mut device = Process::start(command)?;
    let status = device.wait()?;
    let said = device.log().lines().skip(1).collect::<Vec<_>>().join("\n");
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.contains("--sandbox none") && said.lines().count() == 1, "{said}");
    Ok(())
}

fn events_come_from_a_file_system_mounted_in_the_share() -> Result<()> {
    let mut below = None;
    let served = Mount::start_through_socket(|served, socket| {
        let dir = served.host().join("below");
        fs::create_dir(&dir)?;
        below = Some(Submount::tmpfs(&dir)?);
        fs::create_dir(dir.join("dir"))?;
        serve(served, socket, &["--announce-submounts", "--log-level", "warn"])
    })?;
    // Unmounted before the directories are removed.
    let _below = below;
    let (_, mut recorder) = watched(&served, "share")?;
    recorder.watch(Path::new("../below/dir"))?;
    fs::create_dir(served.host().join("below/dir/made"))?;
    recorder.barrier()?;
    told(&mut recorder, "CREATE,ISDIR ../below/dir/made")?;
    ensure!(!served.log().contains("WARN"), "{}", served.log());
    Ok(())
}

fn a_read_only_share_sends_events_and_takes_no_changes() -> Result<()> {
    let served = start(&["--readonly"])?;
    let (share, mut recorder) = watched(&served, "share")?;
    fs::write(share.host().join("f"), "host")?;
    recorder.barrier()?;
    recorder.take_events();
    fs::rename(share.host().join("f"), share.host().join("g"))?;
    recorder.barrier()?;
    let events = render(recorder.events());
    ensure!(events.contains("MOVED_FROM f") && events.contains("MOVED_TO g"), "{events}");

    let inside = share.mount();
    let refused = [
        fs::write(inside.join("g"), "guest"),
        fs::write(inside.join("new"), "guest"),
        fs::create_dir(inside.join("dir")),
        fs::remove_file(inside.join("g")),
        fs::rename(inside.join("g"), inside.join("h")),
        fs::set_permissions(inside.join("g"), fs::Permissions::from_mode(0o600)),
        symlink("g", inside.join("link")),
        fs::hard_link(inside.join("g"), inside.join("link")),
    ];
    for (nth, result) in refused.into_iter().enumerate() {
        let errno = result.err().and_then(|error| error.raw_os_error());
        ensure!(errno == Some(Errno::ROFS.raw_os_error()), "change {nth}: errno {errno:?}");
    }
    ensure!(fs::read_to_string(inside.join("g"))? == "host", "not readable");
    let entries = fs::read_dir(share.host())?.count();
    ensure!(entries == 1, "{entries} entries on the host");
    Ok(())
}

fn extended_attributes_are_mapped() -> Result<()> {
    let served = start(&["--xattrmap", ":map::user.virtiofs.:"])?;
    let (share, mut recorder) = watched(&served, "share")?;
    let [on_host, inside] = [share.host(), share.mount()].map(|dir| dir.join("f"));
    fs::write(&on_host, "")?;
    recorder.barrier()?;
    rustix::fs::setxattr(&inside, "user.name", b"value", XattrFlags::empty())?;
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(&on_host, "user.virtiofs.user.name", &mut value)?;
    ensure!(value.get(..len) == Some(b"value"), "another value on the host: {value:?}");
    let plain = rustix::fs::getxattr(&on_host, "user.name", &mut value);
    ensure!(plain == Err(Errno::NODATA), "not mapped: {plain:?}");
    let len = rustix::fs::getxattr(&inside, "user.name", &mut value)?;
    ensure!(value.get(..len) == Some(b"value"), "another value in the mount: {value:?}");
    Ok(())
}

fn users_are_translated() -> Result<()> {
    let map = "map:0:5000:100";
    let served = start(&["--translate-uid", map, "--translate-gid", map])?;
    let (share, mut recorder) = watched(&served, "share")?;
    chown(share.host(), Some(5000), Some(5000))?;
    fs::write(share.host().join("f"), "")?;
    chown(share.host().join("f"), Some(5007), Some(5008))?;
    recorder.barrier()?;
    let events = render(&recorder.take_events());
    ensure!(events.contains("CREATE f"), "{events}");
    let seen = fs::metadata(share.mount().join("f"))?;
    ensure!((seen.uid(), seen.gid()) == (7, 8), "{}:{}", seen.uid(), seen.gid());
    chown(share.mount().join("f"), Some(9), Some(10))?;
    let became = fs::metadata(share.host().join("f"))?;
    ensure!((became.uid(), became.gid()) == (5009, 5010), "{}:{}", became.uid(), became.gid());
    Ok(())
}

/// libvirt's: no subcommand, the options in one string, a listening socket inherited.
fn a_link_named_virtiofsd_takes_its_command_line() -> Result<()> {
    let mut served = Mount::start_through_socket(|served, socket| {
        let (mut command, fd) = (under_the_name("virtiofsd", served)?, inherited(socket)?);
        let source = format!("source={},cache=auto,sandbox=namespace", served.host().display());
        command.arg(format!("--fd={fd}")).arg("-o").arg(source);
        Ok(command)
    })?;
    both_sides_are_told(&served)?;
    let attribute = setxattr(&served);
    ensure!(attribute == Err(Errno::OPNOTSUPP), "without `xattr` there are none: {attribute:?}");
    served.driver().signal(Signal::TERM)?;
    ensure!(served.ended()?.success(), "the mount did not end cleanly");
    // It does not wait for another client.
    let device = served.ended()?;
    ensure!(device.success(), "{device}");
    Ok(())
}

fn under_its_own_name_it_shares_extended_attributes() -> Result<()> {
    let asked = Mount::start_through_socket(|served, socket| {
        let mut command = under_the_name("farwatch-virtiofsd", served)?;
        let fd = inherited(socket)?;
        command.arg(format!("--fd={fd}")).arg("--shared-dir").arg(served.host()).arg("--xattr");
        Ok(command)
    })?;
    for served in [start(&[])?, asked] {
        setxattr(&served)?;
    }
    let served = start(&["--no-xattr"])?;
    ensure!(setxattr(&served) == Err(Errno::OPNOTSUPP), "--no-xattr shares them");
    Ok(())
}

fn the_device_can_do_nothing_but_serve() -> Result<()> {
    /// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, MKNOD, SETFCAP.
    const NEEDED: &str = "00000000880000df";
    let served = start(&[])?;
    both_sides_are_told(&served)?;
    let children = children_of(parent(&served)?)?;
    let [device] = &children[..] else { bail!("not one child: {children:?}") };
    let device = device.to_string();
    let status = fs::read_to_string(format!("/proc/{device}/status"))?;
    for (field, wanted) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapPrm", NEEDED),
        ("CapEff", NEEDED),
        ("CapInh", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
    ] {
        let line = format!("{field}:\t{wanted}");
        ensure!(status.lines().any(|found| found == line), "not `{line}` in\n{status}");
    }
    for namespace in ["pid", "mnt", "net"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        ensure!(of(&device)? != of("self")?, "it shares the {namespace} namespace");
    }
    let root = fs::metadata(format!("/proc/{device}/root"))?;
    let shared = fs::metadata(served.host())?;
    ensure!((root.dev(), root.ino()) == (shared.dev(), shared.ino()), "another root");
    Ok(())
}

fn a_signal_to_the_parent_ends_the_device_cleanly() -> Result<()> {
    let mut served = start(&[])?;
    served.driver().signal(Signal::TERM)?;
    ensure!(served.ended()?.success(), "the mount did not end cleanly");
    served.device().signal(Signal::TERM)?;
    let status = served.ended()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn the_device_ends_when_its_parent_is_killed() -> Result<()> {
    let mut served = start(&[])?;
    served.driver().signal(Signal::TERM)?;
    ensure!(served.ended()?.success(), "the mount did not end cleanly");
    served.device().signal(Signal::KILL)?;
    // It waits for the child too, whose output ends then, and fails if it is left.
    served.ended()?;
    Ok(())
}

fn a_socket_in_use_is_refused_by_name() -> Result<()> {
    let served = start(&[])?;
    let mut second = Process::start(serve(&served, &served.socket(), &[])?)?;
    let status = second.wait()?;
    ensure!(status.code() == Some(1), "{status}");
    let said = second.log().lines().skip(1).collect::<Vec<_>>().join("\n");
    let pid_file = format!("{}.pid is locked", served.socket().display());
    ensure!(said.contains(&pid_file) && said.lines().count() == 1, "{said}");
    both_sides_are_told(&served)
}

fn every_request_is_served_under_the_filter() -> Result<()> {
    const SCRIPT: &str = include_str!("drop_in/every_request.py");
    for (cache, watch) in [("auto", "fanotify"), ("never", "fanotify"), ("auto", "inotify")] {
        let options = ["--allow-mmap", "--allow-direct-io", "--cache", cache, "--watch", watch];
        let mut served = start(&options)?;
        let (share, mut recorder) = watched(&served, "share")?;
        let output = Command::new("python3").args(["-c", SCRIPT]).arg(share.mount()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}\n{}", served.log());
        recorder.barrier()?;
        served.driver().signal(Signal::TERM)?;
        ensure!(served.ended()?.success(), "the mount did not end cleanly");
    }
    Ok(())
}

/// `farwatch serve` with `options`, as the user of this process.
fn serve(served: &Mount, socket: &Path, options: &[&str]) -> Result<Command> {
    let mut command = served.farwatch()?;
    command.arg("serve").arg("--socket-path").arg(socket).arg("--shared-dir").arg(served.host());
    command.args(options);
    Ok(command)
}

/// What it serves, mounted.
fn start(options: &[&str]) -> Result<Mount> {
    Mount::start_through_socket(|served, socket| serve(served, socket, options))
}

/// The same, served by an ordinary user.
fn start_as_user(options: &[&str]) -> Result<Mount> {
    Mount::start_through_socket(|served, socket| as_user(served, socket, &[], options))
}

fn watched(served: &Mount, name: &str) -> Result<(Share, Recorder)> {
    let share = served.share(name)?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    Ok((share, recorder))
}

/// What has happened since, and nothing else.
fn told(recorder: &mut Recorder, wanted: &str) -> Result<()> {
    let told = render(&recorder.take_events());
    ensure!(told.trim() == wanted, "{wanted} was expected, not\n{told}");
    Ok(())
}

/// The host's changes are told in the mount, and the mount's own once, not again by the host.
fn both_sides_are_told(served: &Mount) -> Result<()> {
    let (share, mut recorder) = watched(served, "told")?;
    for (dir, name) in [(share.host(), "on-host"), (share.mount(), "in-mount")] {
        fs::set_permissions(share.host(), fs::Permissions::from_mode(0o777))?;
        recorder.barrier()?;
        recorder.take_events();
        fs::create_dir(dir.join(name))?;
        recorder.barrier()?;
        told(&mut recorder, &format!("CREATE,ISDIR {name}"))?;
        fs::rename(dir.join(name), dir.join("moved"))?;
        recorder.barrier()?;
        let events = render(&recorder.take_events());
        let moved = [format!("MOVED_FROM,ISDIR {name}"), "MOVED_TO,ISDIR moved".to_owned()];
        let each_once = moved.iter().all(|event| events.matches(event.as_str()).count() == 1);
        ensure!(each_once && events.lines().count() == 2, "one move was expected:\n{events}");
        fs::remove_dir(dir.join("moved"))?;
    }
    Ok(())
}

fn setxattr(served: &Mount) -> Result<(), Errno> {
    let file = served.mount_point().join("with-attribute");
    fs::write(&file, "").map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::setxattr(file, "user.name", b"value", XattrFlags::empty())
}

/// The process that was started, by its pid file.
fn parent(served: &Mount) -> Result<u32> {
    let mut path = served.socket().into_os_string();
    path.push(".pid");
    Ok(fs::read_to_string(path)?.trim().parse()?)
}
