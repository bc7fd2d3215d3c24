// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that start virtiofsd, each with the command line that it uses: farwatch, started so in virtiofsd's place, gives a
//! share that works and has its events. What they ask virtiofsd before they start it is asked, too.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{Context as _, Result, ensure};
use e2e::Need;
use e2e::started::{inherited, under_the_name};
use farwatch_testkit::{Mount, Recorder, merge_allowed};

/// A program, and how it starts virtiofsd: with the arguments from its source, where `FD` stands for a listening socket that is
/// inherited, `SOCKET` for the path of one, `DIR` for the directory and `GROUP` for a group of this machine.
struct Caller {
    name: &'static str,
    /// The last part of the path under which it starts it.
    program: &'static str,
    arguments: &'static str,
    rust_log: Option<&'static str>,
    /// It starts it in the directory.
    in_dir: bool,
}

const fn caller(name: &'static str, arguments: &'static str) -> Caller {
    Caller { name, program: "virtiofsd", arguments, rust_log: None, in_dir: false }
}

const CALLERS: [Caller; 15] = [
    caller(
        "proxmox",
        "--fd=FD --shared-dir=DIR --announce-submounts --inode-file-handles=prefer --syslog",
    ),
    caller(
        "proxmox_with_all_options",
        "--fd=FD --shared-dir=DIR --xattr --posix-acl --announce-submounts --allow-direct-io --cache=always \
         --inode-file-handles=prefer --syslog",
    ),
    caller("incus", "--fd=FD --cache=never --shared-dir=DIR --posix-acl=auto"),
    caller(
        "incus_with_an_idmap",
        "--fd=FD --cache=never --shared-dir=DIR --translate-uid=map:0:0:65536 \
         --translate-uid=forbid-guest:65536:4294901759 --translate-gid=map:0:0:65536 \
         --translate-gid=forbid-guest:65536:4294901759",
    ),
    Caller {
        rust_log: Some("ERROR"),
        in_dir: true,
        ..caller(
            "podman_machine",
            "--sandbox none --socket-path SOCKET --shared-dir . --seccomp=none",
        )
    },
    Caller {
        program: "farwatch-virtiofsd",
        ..caller("lima", "--socket-path SOCKET --shared-dir DIR")
    },
    caller(
        "kata_in_go",
        "--syslog --cache=auto --shared-dir=DIR --fd=FD --thread-pool-size=1 --announce-submounts",
    ),
    caller(
        "kata_in_rust",
        "--socket-path SOCKET --shared-dir DIR --cache auto --sandbox none --seccomp none --thread-pool-size=1 \
         --announce-submounts",
    ),
    caller(
        "microvm_nix",
        "--socket-path=SOCKET --socket-group=GROUP --shared-dir=DIR --thread-pool-size 2 --posix-acl --xattr \
         --cache=auto --inode-file-handles=prefer --tag=src",
    ),
    caller(
        "virtme_ng",
        "--syslog --no-announce-submounts --socket-path SOCKET --shared-dir DIR --sandbox none",
    ),
    caller("libvirt", "--fd=FD -o source=DIR,cache=always,sandbox=namespace,xattr"),
    caller("libvirt_without_options", "--fd=FD -o source=DIR"),
    caller("libvirt_with_threads", "--fd=FD -o source=DIR --thread-pool-size=4"),
    caller(
        "libvirt_11",
        "--fd=FD --shared-dir DIR --cache always --sandbox chroot --xattr --thread-pool-size=4",
    ),
    caller("systemd_vmspawn", "--shared-dir DIR --xattr --fd FD --no-announce-submounts"),
];

fn main() -> ExitCode {
    let mut trials = e2e::trials![
        &[Need::Mount];
        virtme_ng_finds_its_options_in_the_help,
        incus_gets_the_capabilities,
        version_has_the_form_of_virtiofsd,
        file_by_which_lima_and_libvirt_find_it_names_the_program,
    ];
    trials.extend(CALLERS.iter().map(|caller| {
        let name = format!("share_works_as_started_by::{}", caller.name);
        e2e::trial(&name, &[Need::Mount], move || works(caller))
    }));
    e2e::run(trials)
}

fn works(caller: &Caller) -> Result<()> {
    let served = Mount::start_through_socket(|served, socket| start(caller, served, socket))?;
    let share = served.share("share")?;
    fs::set_permissions(share.host(), Permissions::from_mode(0o777))?;
    let mut recorder = Recorder::new(&share, Recorder::CHANGES)?;
    recorder.watch(Path::new("."))?;
    recorder.barrier()?;
    recorder.take_events();
    share.run_on_host("echo host > f; mv f g")?;
    recorder.barrier()?;
    let told: Vec<_> =
        merge_allowed(&recorder.take_events()).iter().map(ToString::to_string).collect();
    let wanted = ["CREATE f", "MODIFY f", "CLOSE_WRITE f", "MOVED_FROM f c1", "MOVED_TO g c1"];
    ensure!(told == wanted, "{told:?}\n{}", served.log());
    share.run_in_mount(
        "test \"$(cat g)\" = host && echo mount > h && mkdir d && mv h d/h && rm g",
    )?;
    share.run_on_host("test \"$(cat d/h)\" = mount && test ! -e g")?;
    // This machine need not have a syslog.
    let is_warning =
        |line: &&str| line.contains("WARN") && !line.contains("cannot connect to syslog");
    ensure!(!served.log().lines().any(|line| is_warning(&line)), "{}", served.log());
    Ok(())
}

fn start(caller: &Caller, served: &Mount, socket: &Path) -> Result<Command> {
    let mut command = under_the_name(caller.program, served)?;
    let dir = served.host();
    let mut fd = String::new();
    if caller.arguments.contains("FD") {
        fd = inherited(socket)?.to_string();
    }
    let places = [
        ("FD", fd),
        ("SOCKET", socket.display().to_string()),
        ("DIR", dir.display().to_string()),
        ("GROUP", group()?),
    ];
    for argument in caller.arguments.split_whitespace() {
        let filled = places
            .iter()
            .fold(argument.to_owned(), |text, (place, value)| text.replace(place, value));
        command.arg(filled);
    }
    command.env_remove("FARWATCH_LOG");
    if let Some(level) = caller.rust_log {
        command.env("RUST_LOG", level);
    }
    if caller.in_dir {
        command.current_dir(dir);
    }
    Ok(command)
}

/// It looks at the help first, and takes another way to share without these.
fn virtme_ng_finds_its_options_in_the_help() -> Result<()> {
    let help = asked("virtiofsd", "--help")?;
    for option in ["--readonly", "--no-announce-submounts", "--syslog", "--sandbox"] {
        ensure!(help.contains(option), "{option} is not in\n{help}");
    }
    Ok(())
}

fn incus_gets_the_capabilities() -> Result<()> {
    let said = asked("virtiofsd", "--print-capabilities")?;
    let said: String = said.split_whitespace().collect();
    ensure!(said.starts_with('{') && said.contains(r#""type":"fs""#), "{said}");
    Ok(())
}

fn version_has_the_form_of_virtiofsd() -> Result<()> {
    let said = asked("virtiofsd", "--version")?;
    let number = said.split_whitespace().nth(1).context("one word")?;
    ensure!(number.split('.').count() == 3, "{said}");
    Ok(())
}

/// In the user's own directory for Lima.
fn file_by_which_lima_and_libvirt_find_it_names_the_program() -> Result<()> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/50-farwatch.json");
    let text: String = fs::read_to_string(found)?.split_whitespace().collect();
    ensure!(text.contains(r#""type":"fs""#), "{text}");
    let (_, rest) = text.split_once(r#""binary":""#).context("no program")?;
    let program = PathBuf::from(rest.split('"').next().unwrap_or_default());
    let lima = CALLERS.iter().find(|caller| caller.name == "lima").context("a caller")?;
    ensure!(program.file_name() == Some(lima.program.as_ref()), "{}", program.display());
    Ok(())
}

/// What the program says under this name.
fn asked(name: &str, question: &str) -> Result<String> {
    let served = Mount::unmounted()?;
    let Output { status, stdout, stderr } =
        under_the_name(name, &served)?.arg(question).output()?;
    let said = String::from_utf8_lossy(&stderr);
    ensure!(status.success() && said.is_empty(), "{status}: {said}");
    Ok(String::from_utf8(stdout)?)
}

/// One that this machine has.
fn group() -> Result<String> {
    let groups = fs::read_to_string("/etc/group").context("/etc/group")?;
    let name = groups.lines().find_map(|line| line.split(':').next()).context("no group")?;
    Ok(name.to_owned())
}
