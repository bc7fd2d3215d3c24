// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtual machine: a stock kernel in QEMU, without acceleration, or a User-mode Linux with the patches of
//! `kernel/series`. In it are busybox, the agent and the observer.
//!
//! A [`Guest`] is a running machine. A [`Vm`] is one with a share, in which a scenario can run.

mod channel;
mod hash;
mod image;
pub(crate) mod line;
mod module;
mod place;
mod qemu;
mod uml;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

pub use self::hash::hash_of_parts;
pub(crate) use self::image::programs;
pub use self::image::{Kernel, initrd};
pub use self::module::Module;
pub(crate) use self::place::serve;
pub use self::place::{RemoteRecorder, Vm};
pub use self::qemu::Qemu;
pub use self::uml::{Series, Uml};

use self::channel::Channel;
use self::qemu::{Monitor, Sockets};
use crate::event::Event;
use crate::process::Process;

/// How long a machine may take from its start to the observer's first word. It takes three seconds
/// where nothing else runs.
const BOOT_MAX: Duration = Duration::from_secs(90);

const NO_QEMU: &str = "only QEMU moves machines";
/// Has a QEMU report how a move of its machine is going.
const REPORT_MOVES: &str = r#"{"execute": "migrate-set-capabilities",
    "arguments": {"capabilities": [{"capability": "events", "state": true}]}}"#;

/// Where the share with a tag is mounted: `/share/TAG`.
#[must_use]
pub fn mount_point(tag: &str) -> PathBuf {
    Path::new("/share").join(tag)
}

/// A running machine. Dropped, it is switched off.
#[derive(Debug)]
pub struct Guest {
    // In the order in which they go.
    process: Process,
    channel: Channel,
    /// If QEMU runs it.
    qemu: Option<Box<InQemu>>,
    dir: TempDir,
}

/// What is known of a machine that QEMU runs.
#[derive(Debug)]
struct InQemu {
    monitor: Monitor,
    program: Qemu,
    kernel: Kernel,
    initrd: PathBuf,
    /// How often it has moved.
    moves: u32,
}

/// The QEMU that a machine moves to.
struct Destination {
    process: Process,
    channel: Channel,
    monitor: Monitor,
}

/// What a command in the guest has left.
#[derive(Debug)]
pub struct Output {
    /// Its exit code, -1 for a signal.
    pub code: i32,
    /// What it wrote, as text.
    pub stdout: String,
    /// The same of the standard error.
    pub stderr: String,
}

impl Guest {
    /// Boots a machine with a virtio-fs device for each tag and socket, mounted at
    /// [`mount_point`], and waits for its observer.
    pub fn boot(kernel: &Kernel, shares: &[(&str, &Path)]) -> Result<Self> {
        Self::boot_in(&Qemu::default(), kernel, shares)
    }

    /// The same in a certain QEMU.
    pub fn boot_in(program: &Qemu, kernel: &Kernel, shares: &[(&str, &Path)]) -> Result<Self> {
        let dir = directory()?;
        let script = script(shares, "/dev/ttyS1");
        let initrd = initrd(kernel, &programs()?, &script, dir.path())?;
        let sockets = Sockets::bind(dir.path(), 0)?;
        let process = Process::start(program.machine(kernel, &initrd, &sockets, shares, false))?;
        let (port, monitor) = sockets.accept().with_context(|| process.log())?;
        let (program, kernel) = (program.clone(), kernel.clone());
        let qemu = Some(Box::new(InQemu { monitor, program, kernel, initrd, moves: 0 }));
        let mut guest = Self { process, channel: Channel::new(port), qemu, dir };
        guest.wait_for_observer()?;
        Ok(guest)
    }

    /// Boots a User-mode Linux with a virtio-fs device for each socket. The tags are those that the
    /// devices have, and must be the ones named here.
    pub fn boot_uml(kernel: &Uml, shares: &[(&str, &Path)]) -> Result<Self> {
        let dir = directory()?;
        let script = script(shares, "/dev/ttyS0");
        let root = image::root(&programs()?, &script, dir.path())?;
        let (machine, port) = kernel.machine(&root, dir.path(), shares)?;
        let process = Process::start_with_input(machine)?;
        let mut guest = Self { process, channel: Channel::new(port), qemu: None, dir };
        guest.wait_for_observer()?;
        Ok(guest)
    }

    /// Moves the machine to another QEMU, where its shares have these sockets, while it runs.
    pub fn migrate(&mut self, shares: &[(&str, &Path)]) -> Result<()> {
        let mut there = self.destination(shares)?;
        let uri = format!(r#"{{"uri": "unix:{}"}}"#, self.dir.path().join("moving").display());
        let qemu = self.qemu.as_mut().context(NO_QEMU)?;
        let moved = there.receive(&uri).and_then(|()| move_out(&mut qemu.monitor, &uri));
        moved.map_err(|error| {
            let (source, destination) = (self.process.log(), there.process.log());
            anyhow!("{error:#}\nthe source:\n{source}\nthe destination:\n{destination}")
        })?;
        self.continue_in(there)
    }

    /// Saves the machine in a file and ends its QEMU. After `away`, another QEMU restores it, where its shares have these
    /// sockets.
    pub(crate) fn restore_after(
        &mut self,
        shares: &[(&str, &Path)],
        away: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let uri = format!(r#"{{"uri": "file:{}"}}"#, self.dir.path().join("saved").display());
        move_out(&mut self.qemu.as_mut().context(NO_QEMU)?.monitor, &uri)?;
        self.process.wait()?;
        away()?;
        let mut there = self.destination(shares)?;
        let restored = there.receive(&uri).and_then(|()| wait_until_moved(&mut there.monitor));
        restored.map_err(|error| anyhow!("{error:#}\n{}", there.process.log()))?;
        self.continue_in(there)
    }

    /// Another QEMU, which waits for the machine.
    fn destination(&mut self, shares: &[(&str, &Path)]) -> Result<Destination> {
        let qemu = self.qemu.as_mut().context(NO_QEMU)?;
        qemu.moves += 1;
        let sockets = Sockets::bind(self.dir.path(), qemu.moves)?;
        let machine = qemu.program.machine(&qemu.kernel, &qemu.initrd, &sockets, shares, true);
        let process = Process::start(machine)?;
        let (port, monitor) = sockets.accept().with_context(|| process.log())?;
        Ok(Destination { process, channel: Channel::new(port), monitor })
    }

    fn continue_in(&mut self, there: Destination) -> Result<()> {
        self.qemu.as_mut().context(NO_QEMU)?.monitor = there.monitor;
        self.process = there.process;
        self.channel = there.channel;
        Ok(())
    }

    /// Has QEMU stop the machine until `run` returns.
    pub(crate) fn stopped_while(&mut self, run: impl FnOnce() -> Result<()>) -> Result<()> {
        let monitor = &mut self.qemu.as_mut().context("only QEMU stops machines")?.monitor;
        monitor.execute(r#"{"execute": "stop"}"#)?;
        let done = run();
        monitor.execute(r#"{"execute": "cont"}"#)?;
        done
    }

    fn wait_for_observer(&mut self) -> Result<()> {
        let process = &self.process;
        // The kernel restarts the machine when it panics: without a look at what it says, that would
        // go round until the patience is over.
        let is_hopeless = || process.log().contains("Kernel panic");
        self.channel.wait_for_hello(BOOT_MAX, is_hopeless).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n{}", self.console())
    }

    /// One request to the observer and its answer's lines.
    pub(crate) fn ask<W: AsRef<OsStr>>(
        &mut self,
        words: &[W],
    ) -> Result<Vec<Vec<std::ffi::OsString>>> {
        let answer = self.channel.ask(words).map_err(|error| self.explain(&error))?;
        answer.map_err(|error| anyhow!("in the guest: {error}"))
    }

    /// Runs a program in the guest to its end.
    pub fn output<W: AsRef<OsStr>>(&mut self, argv: &[W]) -> Result<Output> {
        let mut words = vec![OsStr::new("run")];
        words.extend(argv.iter().map(AsRef::as_ref));
        Output::of(&self.ask(&words)?)
    }

    /// Runs a shell script in a directory of the guest; it must succeed. Returns what it wrote.
    pub fn shell(&mut self, dir: &Path, script: &str) -> Result<String> {
        let words = [OsStr::new("shell"), dir.as_os_str(), OsStr::new(script)];
        let Output { code, stdout, stderr } = Output::of(&self.ask(&words)?)?;
        ensure!(code == 0, "exit code {code} from\n{script}\n{stdout}{stderr}");
        Ok(stdout)
    }

    /// Mounts a directory of this machine in the guest, a User-mode Linux.
    pub fn mount_host(&mut self, dir: &Path, at: &Path) -> Result<()> {
        let (dir, at) = (dir.display(), at.display());
        let script = format!("mkdir -p {at} && mount -t hostfs -o {dir} host {at}");
        self.shell(Path::new("/"), &script).map(drop)
    }

    /// Starts a program that goes on, under a name of the test's.
    pub fn start<W: AsRef<OsStr>>(&mut self, name: &str, argv: &[W]) -> Result<()> {
        let mut words = vec![OsStr::new("start"), OsStr::new(name)];
        words.extend(argv.iter().map(AsRef::as_ref));
        self.ask(&words).map(drop)
    }

    /// Waits until that program writes a line that begins with `start`.
    pub fn wait_for_line(&mut self, name: &str, start: &str) -> Result<String> {
        let lines = self.ask(&["line", name, start])?;
        let line = lines.into_iter().flatten().next().context("no line")?;
        Ok(line.to_string_lossy().into_owned())
    }

    /// Sends that program a signal.
    pub fn signal(&mut self, name: &str, signal: Signal) -> Result<()> {
        self.ask(&["signal", name, &signal.as_raw().to_string()]).map(drop)
    }

    /// Waits for that program's end: its exit code, or 128 and the number of the signal.
    pub fn exited(&mut self, name: &str) -> Result<i32> {
        let lines = self.ask(&["exited", name])?;
        let code = lines.into_iter().flatten().next().context("no code")?;
        Ok(code.to_string_lossy().parse()?)
    }

    /// What that program has written so far.
    pub fn log(&mut self, name: &str) -> Result<String> {
        let lines = self.ask(&["log", name])?;
        Ok(lines.into_iter().flatten().map(|line| line.to_string_lossy().into_owned()).collect())
    }

    /// A recorder in the guest that watches nothing yet. `share` is seen from inside.
    pub fn recorder(&mut self, name: &str, share: &Path) -> Result<()> {
        self.ask(&[OsStr::new("recorder"), OsStr::new(name), share.as_os_str()]).map(drop)
    }

    /// The same, which is told of reads too.
    pub fn recorder_of_all(&mut self, name: &str, share: &Path) -> Result<()> {
        self.ask(&[OsStr::new("recorder-of-all"), OsStr::new(name), share.as_os_str()]).map(drop)
    }

    /// That recorder watches a file or directory, relative to its share.
    pub fn watch(&mut self, name: &str, path: &Path) -> Result<()> {
        self.ask(&[OsStr::new("watch"), OsStr::new(name), path.as_os_str()]).map(drop)
    }

    /// That recorder waits for a sentinel in its share's barrier directory.
    pub fn wait_for_sentinel(&mut self, name: &str, sentinel: &str) -> Result<()> {
        self.ask(&["sentinel", name, sentinel]).map(drop)
    }

    /// That recorder hands out what it has read, and starts over.
    pub fn events(&mut self, name: &str) -> Result<Vec<Event>> {
        let lines = self.ask(&["events", name])?;
        lines.iter().flatten().map(|line| Event::parse(&line.to_string_lossy())).collect()
    }

    /// Has a program in the guest watch directories for renames with fanotify.
    pub fn watch_for_renames<P: AsRef<OsStr>>(&mut self, dirs: &[P]) -> Result<()> {
        let mut words = vec![OsStr::new("renames")];
        words.extend(dirs.iter().map(AsRef::as_ref));
        self.ask(&words).map(drop)
    }

    /// What [`Renames::next`](crate::Renames::next) says there.
    pub fn next_rename(&mut self) -> Result<String> {
        let lines = self.ask(&["rename"])?;
        Ok(lines.into_iter().flatten().map(|line| line.to_string_lossy().into_owned()).collect())
    }

    /// Has a program in the guest watch a directory with fanotify, for the objects of events.
    pub fn watch_for_objects(&mut self, dir: &Path) -> Result<()> {
        self.ask(&[OsStr::new("objects"), dir.as_os_str()]).map(drop)
    }

    /// What [`Objects::told`](crate::Objects::told) says there.
    pub fn object(&mut self, mask: u64, name: &str) -> Result<usize> {
        let lines = self.ask(&["object", &mask.to_string(), name])?;
        let line = lines.into_iter().flatten().next().context("an object has a number")?;
        Ok(line.to_string_lossy().parse()?)
    }

    /// Restarts the machine, as its reset button does, and waits for its observer.
    pub fn reboot(&mut self) -> Result<()> {
        self.channel.send(&["run", "reboot", "-f"])?;
        self.wait_for_observer()
    }

    /// Switches it off from inside, and waits until it is.
    pub fn power_off(mut self) -> Result<()> {
        self.channel.send(&["run", "poweroff", "-f"])?;
        let status = self.process.exited()?;
        ensure!(status.success(), "{status}\n{}", self.console());
        Ok(())
    }

    /// Whether the kernel has said nothing that a sound one does not say.
    pub fn is_sound(&mut self) -> Result<()> {
        let complaints = self.complaints()?;
        ensure!(complaints.is_empty(), "the guest's kernel: {complaints:#?}\n{}", self.console());
        Ok(())
    }

    fn complaints(&mut self) -> Result<Vec<String>> {
        const SIGNS: [&str; 10] = [
            "WARNING:",
            "BUG:",
            "Oops",
            "INFO: ",
            "Kernel panic",
            "general protection",
            "Call Trace",
            "refcount_t",
            "unreferenced object",
            "Busy inodes",
        ];
        let said = self.output(&["dmesg"])?.stdout;
        let is_bad = |line: &&str| SIGNS.iter().any(|sign| line.contains(sign));
        Ok(said.lines().filter(is_bad).map(str::to_owned).collect())
    }

    /// What the machine has written to its console so far.
    #[must_use]
    pub fn console(&self) -> String {
        format!("the machine's console:\n{}", self.process.log())
    }
}

impl Output {
    fn of(lines: &[Vec<std::ffi::OsString>]) -> Result<Self> {
        let [line] = lines else { bail!("not one line: {lines:?}") };
        let [code, stdout, stderr] = &line[..] else { bail!("not an output: {line:?}") };
        let text = |text: &std::ffi::OsString| text.to_string_lossy().into_owned();
        Ok(Self { code: text(code).parse()?, stdout: text(stdout), stderr: text(stderr) })
    }
}

fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("farwatch-vm-").tempdir()?)
}

/// What the first process does when the modules are loaded.
fn script(shares: &[(&str, &Path)], port: &str) -> String {
    let mounts = shares.iter().map(|(tag, _)| {
        let at = mount_point(tag);
        format!("mkdir -p {0} && mount -t virtiofs {tag} {0}\n", at.display())
    });
    mounts.collect::<String>()
        + &format!("farwatch-observer {port}\necho the observer has ended\npoweroff -f\n")
}

impl Destination {
    /// Takes the machine from where it is sent to. Returns at once.
    fn receive(&mut self, uri: &str) -> Result<()> {
        self.monitor.execute(REPORT_MOVES)?;
        let incoming = format!(r#"{{"execute": "migrate-incoming", "arguments": {uri}}}"#);
        self.monitor.execute(&incoming)
    }
}

/// Has a QEMU send its machine to where another one listens, or into a file, and end.
fn move_out(monitor: &mut Monitor, uri: &str) -> Result<()> {
    monitor.execute(REPORT_MOVES)?;
    monitor.execute(&format!(r#"{{"execute": "migrate", "arguments": {uri}}}"#))?;
    wait_until_moved(monitor)?;
    monitor.execute(r#"{"execute": "quit"}"#)
}

/// Waits until a QEMU has sent or received its machine.
fn wait_until_moved(monitor: &mut Monitor) -> Result<()> {
    let [completed, failed] = ["completed", "failed"].map(|is| format!(r#""status": "{is}""#));
    let outcome = monitor.wait_for(&[&completed, &failed])?;
    ensure!(outcome.contains(&completed), "the machine has not moved: {outcome}");
    Ok(())
}
