// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The product, mounted for a test; or a local directory in its place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use farwatch_sys::mountinfo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use crate::process::Process;
use crate::share::Share;

/// Names the `farwatch` program to test; without it, the one built beside the tests is taken.
const PROGRAM_VARIABLE: &str = "FARWATCH_BIN";
/// Inherited by every process of one fixture, so that one left behind can be found.
const MARK_VARIABLE: &str = "FARWATCH_TEST_MARK";
/// Where `farwatch` makes its status sockets, so that `farwatch status` shows one fixture alone.
const STATE_DIR_VARIABLE: &str = "FARWATCH_STATE_DIR";

/// A shared directory, its mount, and the processes between them.
///
/// Dropping it ends the product with SIGTERM and fails the test if a mount or a process is left.
#[derive(Debug)]
pub struct Mount {
    dir: TempDir,
    /// Elsewhere: processes hold files there open for writing, and `dir` may be on a file system that becomes read-only.
    state: TempDir,
    /// Device first, driver last; empty for a local directory.
    processes: Vec<Process>,
    /// A `farwatch-agent`, where the driver delivers no events itself.
    agent: Option<Process>,
    local: bool,
}

impl Mount {
    /// A directory mounted by `farwatch mount SRC MNT`.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same with options of `farwatch mount`.
    pub fn start_with(options: &[&str]) -> Result<Self> {
        Self::unmounted()?.started_with(options)
    }

    /// The same for a directory in `dir`, which says on what file system.
    pub fn start_in(dir: &Path, options: &[&str]) -> Result<Self> {
        Self::unmounted_in(dir)?.started_with(options)
    }

    /// Starts `farwatch mount` for directories that are there already.
    pub fn started_with(self, options: &[&str]) -> Result<Self> {
        let mut mount = self;
        mount.start_driver_with(options)?;
        Ok(mount)
    }

    /// The same, again after an earlier driver has ended.
    pub(crate) fn start_driver_with(&mut self, options: &[&str]) -> Result<()> {
        let mut command = self.farwatch()?;
        command.arg("mount").args(options).arg(self.host()).arg(self.mount_point());
        self.start_driver(command)
    }

    /// A directory shared by `device` and mounted by `farwatch mount --socket`.
    ///
    /// `device` turns the socket path and the directory to share into a command.
    pub fn start_through_socket(
        device: impl FnOnce(&Self, &Path) -> Result<Command>,
    ) -> Result<Self> {
        let mut mount = Self::start_device(device)?;
        mount.mount_through_socket()?;
        Ok(mount)
    }

    /// The same for directories that are there already.
    pub fn started_through_socket(
        self,
        device: impl FnOnce(&Self, &Path) -> Result<Command>,
    ) -> Result<Self> {
        let mut mount = self.served_by(device)?;
        mount.mount_through_socket()?;
        Ok(mount)
    }

    /// The same for a directory in `dir`.
    pub fn start_through_socket_in(
        dir: &Path,
        device: impl FnOnce(&Self, &Path) -> Result<Command>,
    ) -> Result<Self> {
        Self::unmounted_in(dir)?.started_through_socket(device)
    }

    /// A directory shared by `device`, and not mounted: a virtual machine may do that.
    pub fn start_device(device: impl FnOnce(&Self, &Path) -> Result<Command>) -> Result<Self> {
        Self::unmounted()?.served_by(device)
    }

    fn served_by(self, device: impl FnOnce(&Self, &Path) -> Result<Command>) -> Result<Self> {
        let mut mount = self;
        mount.serve_at_socket(device)?;
        Ok(mount)
    }

    /// Starts a device, again after an earlier one has ended.
    pub(crate) fn serve_at_socket(
        &mut self,
        device: impl FnOnce(&Self, &Path) -> Result<Command>,
    ) -> Result<()> {
        let socket = self.socket();
        let device = device(self, &socket)?;
        self.push_device(device, &socket)
    }

    fn push_device(&mut self, device: Command, socket: &Path) -> Result<()> {
        let listening = SocketDir::watch(self.dir.path())?;
        self.processes.push(Process::start(device)?);
        listening.wait_for(socket).with_context(|| self.log())
    }

    /// Another `farwatch serve` of the same directory with these options, for a second virtual machine. Returns
    /// its socket.
    pub fn serve_again(&mut self, options: &[&str]) -> Result<PathBuf> {
        let socket = self.dir.path().join(format!("socket-{}", self.processes.len()));
        let mut command = self.farwatch()?;
        command.arg("serve").arg("--socket").arg(&socket).arg("--shared-dir").arg(self.host());
        command.args(options);
        self.push_device(command, &socket)?;
        Ok(socket)
    }

    /// Mounts the device of [`start_through_socket`](Self::start_through_socket), again if an
    /// earlier driver has ended.
    pub fn mount_through_socket(&mut self) -> Result<()> {
        let mut command = self.farwatch()?;
        command.arg("mount").arg("--socket").arg(self.socket()).arg(self.mount_point());
        self.start_driver(command)
    }

    /// The same, without events: an agent is to deliver them.
    pub fn mount_through_socket_without_agent(&mut self) -> Result<()> {
        let mut command = self.farwatch()?;
        command
            .args(["mount", "--no-agent", "--socket"])
            .arg(self.socket())
            .arg(self.mount_point());
        self.start_driver(command)
    }

    /// A directory mounted by `farwatch mount`, whose events are delivered by a `farwatch-agent`.
    pub fn start_with_agent() -> Result<Self> {
        Self::start_with_agent_and(&[])
    }

    /// The same, with more options for `farwatch mount`.
    pub fn start_with_agent_and(options: &[&str]) -> Result<Self> {
        let mut mount = Self::start_with(&[&["--no-agent"], options].concat())?;
        mount.start_agent(&[])?;
        Ok(mount)
    }

    /// Starts the agent, which must become welcome. One before it is killed.
    pub fn start_agent(&mut self, options: &[&str]) -> Result<()> {
        let mut command = self.farwatch_agent()?;
        command.args(options).arg(self.mount_point());
        self.agent = None;
        let agent = self.agent.insert(Process::start(command)?);
        agent.wait_for_line(|line| line.starts_with("events are delivered on "))?;
        Ok(())
    }

    /// The directories alone, for a test that starts the product itself.
    pub fn unmounted() -> Result<Self> {
        Self::unmounted_in(&std::env::temp_dir())
    }

    /// The same in `dir`, and so on its file system.
    pub fn unmounted_in(dir: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("farwatch-test-").tempdir_in(dir)?;
        let state = tempfile::Builder::new().prefix("farwatch-test-state-").tempdir()?;
        // A server of another user makes its own directory in it.
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o1777))?;
        let mount = Self { dir, state, processes: Vec::new(), agent: None, local: false };
        for dir in [mount.host(), mount.mount_point(), mount.outside()] {
            fs::create_dir(dir)?;
        }
        Ok(mount)
    }

    /// A local directory: what is "mounted" is the shared directory itself.
    pub fn local() -> Result<Self> {
        Self::local_in(&std::env::temp_dir())
    }

    /// The same in `dir`.
    pub fn local_in(dir: &Path) -> Result<Self> {
        let mut mount = Self::unmounted_in(dir)?;
        mount.local = true;
        Ok(mount)
    }

    /// The shared directory.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.dir.path().join("src")
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount_point(&self) -> PathBuf {
        if self.local { self.host() } else { self.dir.path().join("mnt") }
    }

    /// A fresh directory below the shared one. `name` must be new and have no dot.
    pub fn share(&self, name: &str) -> Result<Share> {
        Share::create(&self.host(), &self.mount_point(), &self.outside(), name)
    }

    /// A fresh local directory beside the share, for the oracle's run of the same commands.
    pub fn local_twin(&self, name: &str) -> Result<Share> {
        let twin = self.dir.path().join("twin");
        fs::create_dir_all(&twin)?;
        Share::create(&twin, &twin, &self.outside(), &format!("{name}-twin"))
    }

    /// The product's command, marked so that its processes can be found again.
    pub fn farwatch(&self) -> Result<Command> {
        let mut command = farwatch()?;
        command.env(MARK_VARIABLE, self.dir.path());
        command.env(STATE_DIR_VARIABLE, self.state_dir());
        Ok(command)
    }

    /// The directory of the status sockets of this fixture's processes.
    pub fn state_dir(&self) -> PathBuf {
        self.state.path().join("state")
    }

    /// The agent's command, marked likewise.
    pub fn farwatch_agent(&self) -> Result<Command> {
        let mut command = farwatch_agent()?;
        command.env(MARK_VARIABLE, self.dir.path());
        command.env(STATE_DIR_VARIABLE, self.state_dir());
        Ok(command)
    }

    /// What `farwatch status --json` says of the share.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn status(&self) -> Result<String> {
        let output = self.farwatch()?.arg("status").arg("--json").arg(self.host()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits with `farwatch sync` until all that was changed in the shared directory before this call
    /// has been told in the mount.
    pub fn sync(&self) -> Result<()> {
        let output = self.farwatch()?.arg("sync").arg(self.mount_point()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", output.status);
        Ok(())
    }

    /// The agent of [`start_agent`](Self::start_agent).
    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("an agent has been started")
    }

    /// The process that the mount depends on last: the driver, or the device when it is alone.
    pub fn driver(&mut self) -> &mut Process {
        self.processes.last_mut().expect("a started mount has a process")
    }

    /// The first process: the device, or driver and device in one.
    pub fn device(&mut self) -> &mut Process {
        self.processes.first_mut().expect("a started mount has a process")
    }

    /// Kills the driver, which leaves a dead mount behind.
    pub fn kill_driver(&mut self) -> Result<()> {
        self.driver().signal(Signal::KILL)?;
        self.driver().wait()?;
        self.processes.pop();
        Ok(())
    }

    /// Waits for the driver's end and checks that it left nothing: no mount, and nothing running
    /// but a device that was started on its own.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        let status = self.driver().wait()?;
        let log = self.driver().log();
        ensure!(!is_mount_point(&self.mount_point())?, "still mounted after {status}:\n{log}");
        self.processes.pop();
        if self.processes.is_empty() {
            let left = self.processes_left()?;
            ensure!(left.is_empty(), "processes left behind: {left:?}\n{log}");
        }
        Ok(status)
    }

    /// Waits until no process of the product is left: for those that were not started here.
    pub fn wait_for_processes(&self) -> Result<()> {
        while let Some((pid, name)) = self.processes_left()?.pop() {
            // ESRCH: it has ended in the meantime.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let patience = Timespec::try_from(crate::PATIENCE)?;
            let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience))?;
            ensure!(ended > 0, "{name} goes on");
        }
        Ok(())
    }

    /// What all processes have said.
    #[must_use]
    pub fn log(&self) -> String {
        let processes = self.processes.iter().chain(&self.agent);
        processes.map(Process::log).collect::<Vec<_>>().join("\n")
    }

    /// Kills all processes and removes the mount, whatever state they are in.
    pub(crate) fn abandon(&mut self) {
        self.agent = None;
        self.processes.clear();
        for (process, _) in self.processes_left().unwrap_or_default() {
            let _may_have_ended = kill_process(process, Signal::KILL);
        }
        let _nothing_mounted = unmount(self.mount_point(), UnmountFlags::DETACH);
    }

    fn start_driver(&mut self, command: Command) -> Result<()> {
        self.processes.push(Process::start(command)?);
        self.driver().wait_for_line(|line| line.starts_with("mounted "))?;
        let mounted = is_mount_point(&self.mount_point())?;
        ensure!(mounted, "not mounted, although it said so:\n{}", self.driver().log());
        Ok(())
    }

    /// The socket of the device.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// A directory of the same file system that is not shared.
    pub fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn end_all(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            // An error means that it has ended already.
            drop(agent.signal(Signal::TERM));
            agent.wait()?;
        }
        while !self.processes.is_empty() {
            // An error means that it has ended already, which `ended` looks into.
            drop(self.driver().signal(Signal::TERM));
            self.ended()?;
        }
        ensure!(self.local || !is_mount_point(&self.mount_point())?, "still mounted");
        Ok(())
    }

    fn processes_left(&self) -> Result<Vec<(Pid, String)>> {
        let mark = format!("{MARK_VARIABLE}={}", self.dir.path().display());
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let process = entry?.path();
            // A process may end while we look, and what is not a process has no environment.
            let Ok(environment) = fs::read(process.join("environ")) else { continue };
            if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok());
                let pid = pid.and_then(Pid::from_raw).context("a process has a number")?;
                left.push((pid, fs::read_to_string(process.join("comm")).unwrap_or_default()));
            }
        }
        Ok(left)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let ended = self.end_all();
        if ended.is_err() {
            // Leave the machine clean whatever failed; each may have nothing to do.
            self.abandon();
        }
        if let Err(error) = ended
            && !thread::panicking()
        {
            panic!("the mount did not end cleanly: {error:?}");
        }
    }
}

/// The `farwatch` program under test.
pub fn farwatch() -> Result<Command> {
    program("farwatch")
}

/// The `farwatch-agent` program under test, from the same place.
pub fn farwatch_agent() -> Result<Command> {
    program("farwatch-agent")
}

fn program(name: &str) -> Result<Command> {
    match std::env::var_os(PROGRAM_VARIABLE) {
        Some(farwatch) => existing(PathBuf::from(farwatch).with_file_name(name)),
        None => own_program(name),
    }
}

/// A program that is built with the tests, whatever product they test.
pub(crate) fn own_program(name: &str) -> Result<Command> {
    // Test programs lie in target/<profile>/deps, others beside the product.
    let own = std::env::current_exe()?;
    let dir = own.parent().context("a program lies in a directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    existing(dir.join(name))
}

fn existing(program: PathBuf) -> Result<Command> {
    ensure!(
        program.is_file(),
        "{} is missing: build it with `cargo build --bins`, or set {PROGRAM_VARIABLE}",
        program.display()
    );
    Ok(Command::new(program))
}

/// Whether something is mounted at `path`, by the mount table: asking the file system could block when
/// its server is dead.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let table = mountinfo::read()?;
    Ok(mountinfo::mounts(&table).any(|mount| mount.mount_point == path))
}

/// The mount points of all mounts of that type, the last one first.
pub fn mount_points(fs_type: &str) -> Result<Vec<PathBuf>> {
    let table = mountinfo::read()?;
    let mounts = mountinfo::mounts(&table).filter(|mount| mount.fs_type == fs_type);
    let mut points: Vec<PathBuf> = mounts.map(|mount| mount.mount_point).collect();
    points.reverse();
    Ok(points)
}

/// Waits for a socket to appear in a directory.
pub(crate) struct SocketDir(inotify::Inotify);

impl SocketDir {
    pub(crate) fn watch(dir: &Path) -> Result<Self> {
        let inotify = inotify::Inotify::init()?;
        inotify.watches().add(dir, inotify::WatchMask::CREATE)?;
        Ok(Self(inotify))
    }

    pub(crate) fn wait_for(mut self, socket: &Path) -> Result<()> {
        while !socket.exists() {
            let patience = Timespec::try_from(crate::PATIENCE)?;
            let ready = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience))?;
            ensure!(ready > 0, "no socket appeared at {}", socket.display());
            self.0.read_events(&mut [0; 4096])?.for_each(drop);
        }
        Ok(())
    }
}
