// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients that are small enough for a virtual machine, with each stock kernel: changes on the host, told in the
//! guest. One machine for all of them. `docs/CLIENTS.md` has the versions.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use e2e::Need;
use farwatch_testkit::vm::{Kernel, Vm};
use farwatch_testkit::{Place as _, Share};

const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// What every guest runs.
const CLIENTS: [fn(&Vm) -> Result<()>; 6] = [
    inotifywait_in_a_guest,
    entr_in_a_guest,
    tail_in_a_guest,
    reflex_in_a_guest,
    notify_in_a_guest,
    path_units_of_systemd_in_a_guest,
];

fn main() -> ExitCode {
    let trial = |version: &'static str, with_fanotify: bool| {
        let programs =
            ["inotifywait", "fsnotifywait", "entr", "tail", "reflex", SYSTEMD].map(Need::Program);
        let needs = [&[Need::Mount, Need::Python, Need::Vm(version)], &programs[..]].concat();
        let name = format!("clients_in_a_guest_report_what_the_host_does_on_{version}");
        e2e::trial(&name, &needs, move || {
            let vm = Vm::start(&Kernel::find(version).context("the kernel has gone")?)?;
            let clients =
                CLIENTS.iter().chain(with_fanotify.then_some(&(fsnotifywait_in_a_guest as _)));
            clients
                .into_iter()
                .try_for_each(|client: &fn(&Vm) -> Result<()>| client(&vm))
                .map_err(|error| anyhow!("{error:#}\n{}", vm.log()))
        })
    };
    // From 6.8 on, FUSE file systems can be watched with fanotify's inode marks.
    let trials = vec![trial("6.1", false), trial("6.12", true)];
    // A machine fills a processor: one after the other.
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A client in the guest, by its name among the guest's programs.
struct Client<'a> {
    vm: &'a Vm,
    name: &'static str,
    share: Share,
    pid: String,
}

impl<'a> Client<'a> {
    /// Starts it in a directory of its own, where `setup` has been run on the host.
    fn start(vm: &'a Vm, name: &'static str, setup: &str, command: &str) -> Result<Self> {
        let share = vm.share(name)?;
        share.run_on_host(setup)?;
        let script = format!("cd {} && echo pid $$ && exec {command}", share.mount().display());
        vm.guest().start(name, &["sh", "-c", &script])?;
        let pid = vm.guest().wait_for_line(name, "pid ")?;
        Ok(Self { vm, name, share, pid: pid.trim_start_matches("pid ").to_owned() })
    }

    /// Waits for a line that begins so.
    fn told(&self, start: &str) -> Result<()> {
        let line = self.vm.guest().wait_for_line(self.name, start);
        line.map(drop).with_context(|| format!("{} on {start}", self.name))
    }

    /// Waits until it has an inotify watch, for those that do not say so. Fails when it has ended.
    fn watches(&self) -> Result<()> {
        let proc = format!("/proc/{}", self.pid);
        let until = format!("until grep -qs ^inotify {proc}/fdinfo/*; do test -d {proc}; done");
        self.vm.guest().shell(self.share.mount(), &until).map(drop)
    }

    /// Changes something on the host, and waits for the lines, in this order.
    fn step(&self, run: &str, told: &[&str]) -> Result<()> {
        self.share.run_on_host(run)?;
        told.iter().try_for_each(|line| self.told(line))
    }
}

fn inotifywait_in_a_guest(vm: &Vm) -> Result<()> {
    let client =
        Client::start(vm, "inotifywait", "echo one > a", "inotifywait -m -r --format '%e %w%f' .")?;
    client.told("Watches established.")?;
    client.step("echo two > a", &["MODIFY ./a", "CLOSE_WRITE,CLOSE ./a"])?;
    client.step("mv a b", &["MOVED_FROM ./a", "MOVED_TO ./b"])?;
    client.step("chmod 600 b", &["ATTRIB ./b"])?;
    client.step("mkdir d", &["CREATE,ISDIR ./d"])?;
    client.step("rm b", &["DELETE ./b"])?;
    client.step("echo one > d/e", &["CREATE ./d/e", "MODIFY ./d/e", "CLOSE_WRITE,CLOSE ./d/e"])
}

fn entr_in_a_guest(vm: &Vm) -> Result<()> {
    let client =
        Client::start(vm, "entr", "echo one > a; echo a > list", "entr -n -a cat a < list")?;
    client.told("one")?;
    client.step("echo two > a", &["two"])?;
    client.step("echo three > new; mv new a", &["three"])?;
    client.step("echo four > a", &["four"])
}

/// It looks again and again, as on every FUSE file system.
fn tail_in_a_guest(vm: &Vm) -> Result<()> {
    let client = Client::start(vm, "tail", "echo one > log", "/usr/bin/tail -s 0.1 -F log")?;
    client.told("one")?;
    client.step("echo two >> log", &["two"])?;
    client.step("mv log log.1; echo three > log", &["three"])
}

/// It watches with Go's fsnotify.
fn reflex_in_a_guest(vm: &Vm) -> Result<()> {
    let command = "reflex --all --decoration=none -- echo ran {}";
    let client = Client::start(vm, "reflex", "echo one > a", command)?;
    client.watches()?;
    client.step("echo two > a", &["ran a"])?;
    client.step("echo one > b; mv b c", &["ran c"])?;
    client.step("mkdir d", &["ran d/"])
}

fn notify_in_a_guest(vm: &Vm) -> Result<()> {
    let client = Client::start(vm, "notify", "echo one > a; mkdir sub", "notify-client \"$PWD\"")?;
    client.told("ready")?;
    client.step("echo two > a", &["modify a", "close-write a"])?;
    client.step("mv a b", &["rename-from a", "rename-to b", "rename a b"])?;
    client.step("echo one > sub/deep", &["create-file sub/deep", "close-write sub/deep"])?;
    client.step("mkdir d", &["create-folder d"])?;
    client.step("rm b", &["remove-file b"])
}

/// A user's manager. It comes with its libraries through the share, and wants control groups. One event
/// that counts for each step but the last of a unit, which watches nothing while its service runs.
fn path_units_of_systemd_in_a_guest(vm: &Vm) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/programs/systemd.sh");
    let setup = format!(
        r"mkdir -p day/spool root; printf '1\n2\n3\n' | tee day/log > day/page; cp {} .
        programs='{SYSTEMD} /usr/bin/systemctl'
        cp --parents -L $programs $(ldd $programs | grep -o '/[^ :]*' | sort -u) root",
        script.display()
    );
    let command = "unshare -m sh -c 'tar c -C root . | tar x -C / \
        && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec sh systemd.sh \"$PWD/day\" guest'";
    let client = Client::start(vm, "systemd", &setup, command)?;
    client.told("ready")?;
    let truncate = r#"python3 -c 'import os; os.truncate("day/log", 4)'"#;
    client.step(truncate, &["ran modified 2"])?;
    client.step("echo 4 >> day/page", &["ran changed 4"])?;
    client.step("touch day/flag", &["ran exists"])?;
    client.step("touch day/spool/a", &["ran not-empty"])?;
    client.step("echo 5 > new; mv new day/log", &["ran modified 5"])?;
    client.step("echo 5 > new; mv new day/page", &["ran changed 5"])
}

fn fsnotifywait_in_a_guest(vm: &Vm) -> Result<()> {
    let client = Client::start(
        vm,
        "fsnotifywait",
        "echo one > a",
        "fsnotifywait --fanotify -m -r -e create,close_write,delete,move --format '%e %f' .",
    )?;
    client.told("Watches established.")?;
    client.step("echo two > a", &["CLOSE_WRITE,CLOSE a"])?;
    client.step("mkfifo b", &["CREATE b"])?;
    client.step("mv b c", &["MOVED_FROM b", "MOVED_TO c"])?;
    client.step("rm c", &["DELETE c"])
}
