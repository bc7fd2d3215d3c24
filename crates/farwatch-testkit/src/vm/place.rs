// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Vm`]: a share of this machine in a virtual machine, where an agent or the kernel delivers its events.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Guest, Kernel, Module, Qemu, Uml, mount_point};
use crate::event::Event;
use crate::mount::Mount;
use crate::place::{Place, Record};
use crate::share::Share;

const TAG: &str = "share";
const AGENT: &str = "agent";
/// Says how much the product's programs log.
const LOG_VARIABLE: &str = "FARWATCH_LOG";

/// See the module's documentation. The host's side is a [`Mount`] that is not mounted here.
#[derive(Debug)]
pub struct Vm {
    // In the order in which they go: the machine before its device.
    guest: Arc<Mutex<Guest>>,
    host: Mount,
    recorders: AtomicU32,
    /// See [`Place::is_native`].
    is_native: AtomicBool,
}

impl Vm {
    /// Starts `farwatch serve`, boots a machine with its share, and starts the agent in it.
    pub fn start(kernel: &Kernel) -> Result<Self> {
        let vm = Self::start_without_agent(kernel, &[])?;
        vm.start_agent()?;
        Ok(vm)
    }

    /// The same without an agent. `options` are for `farwatch serve`.
    pub fn start_without_agent(kernel: &Kernel, options: &[&str]) -> Result<Self> {
        Self::boot(kernel, serve(TAG, options)?)
    }

    /// Starts `farwatch serve` and boots a User-mode Linux with its share, without an agent.
    pub fn start_uml(kernel: &Uml, options: &[&str]) -> Result<Self> {
        let host = serve(TAG, options)?;
        let guest = Guest::boot_uml(kernel, &[(TAG, &host.socket())]);
        let vm = Self::of(guest, host)?;
        vm.is_native.store(kernel.raises(), Ordering::Relaxed);
        Ok(vm)
    }

    /// Boots a machine for a share that somebody serves.
    pub fn boot(kernel: &Kernel, host: Mount) -> Result<Self> {
        let socket = host.socket();
        Self::boot_with(kernel, host, &socket)
    }

    /// The same with one of several sockets.
    pub fn boot_with(kernel: &Kernel, host: Mount, socket: &Path) -> Result<Self> {
        Self::boot_in(&Qemu::default(), kernel, host, socket)
    }

    /// The same in a certain QEMU.
    pub fn boot_in(qemu: &Qemu, kernel: &Kernel, host: Mount, socket: &Path) -> Result<Self> {
        Self::of(Guest::boot_in(qemu, kernel, &[(TAG, socket)]), host)
    }

    fn of(guest: Result<Guest>, host: Mount) -> Result<Self> {
        let guest = guest.map_err(|error| anyhow!("{error:#}\nthe device:\n{}", host.log()))?;
        Ok(Self {
            guest: Arc::new(Mutex::new(guest)),
            host,
            recorders: AtomicU32::new(0),
            is_native: AtomicBool::new(false),
        })
    }

    /// Moves the machine to another QEMU, and to the device that another process serves on a socket.
    pub fn migrate(&self, socket: &Path) -> Result<()> {
        self.guest().migrate(&[(TAG, socket)])
    }

    /// Saves the machine in a file, and restores it in another QEMU after `away`, with the device on a socket, which may be
    /// the same.
    pub(crate) fn restore_after(
        &self,
        socket: &Path,
        away: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.guest().restore_after(&[(TAG, socket)], away)
    }

    /// Starts the agent and waits until events are delivered.
    pub fn start_agent(&self) -> Result<()> {
        self.start_agent_with(&[])
    }

    /// The same with options.
    pub fn start_agent_with(&self, options: &[&str]) -> Result<()> {
        let mut guest = self.guest();
        // As the device inherits it.
        let log = std::env::var(LOG_VARIABLE).unwrap_or_default();
        let mut agent = vec!["farwatch-agent"];
        if !log.is_empty() {
            agent.extend(["--log", &log]);
        }
        agent.extend(options);
        let mut agent: Vec<&OsStr> = agent.into_iter().map(OsStr::new).collect();
        let mount_point = mount_point(TAG);
        agent.push(mount_point.as_os_str());
        guest.start(AGENT, &agent)?;
        guest.wait_for_line(AGENT, "events are delivered on ").map(drop)
    }

    /// Mounts the shared directory itself in the guest, a User-mode Linux, and returns where: what is changed
    /// there is changed on the host, not by the guest.
    pub fn mount_host(&self) -> Result<PathBuf> {
        let at = Path::new("/host");
        self.guest().mount_host(&self.host.host(), at)?;
        Ok(at.to_owned())
    }

    /// Has the module raise the events of the share, which must be loaded.
    pub fn attach_module(&self) -> Result<()> {
        let script = format!(
            "echo {} >/sys/module/{}/parameters/attach",
            self.mount_point().display(),
            Module::NAME
        );
        self.guest().shell(Path::new("/"), &script)?;
        self.is_native.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The name of the agent among the guest's programs.
    #[must_use]
    pub fn agent(&self) -> &'static str {
        AGENT
    }

    /// The tag of the share.
    #[must_use]
    pub fn tag(&self) -> &'static str {
        TAG
    }

    /// The machine.
    pub fn guest(&self) -> MutexGuard<'_, Guest> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's side.
    pub fn host(&mut self) -> &mut Mount {
        &mut self.host
    }

    /// Where the guest has the share.
    #[must_use]
    pub fn mount_point(&self) -> PathBuf {
        mount_point(TAG)
    }

    /// A recorder in the guest.
    pub fn remote_recorder(&self, share: &Share) -> Result<RemoteRecorder> {
        let name = self.recorder_name();
        self.guest().recorder(&name, share.mount())?;
        Ok(self.recorder_called(name, share))
    }

    /// The same, which is told of reads too.
    pub fn remote_recorder_of_all(&self, share: &Share) -> Result<RemoteRecorder> {
        let name = self.recorder_name();
        self.guest().recorder_of_all(&name, share.mount())?;
        Ok(self.recorder_called(name, share))
    }

    fn recorder_name(&self) -> String {
        format!("r{}", self.recorders.fetch_add(1, Ordering::Relaxed))
    }

    fn recorder_called(&self, name: String, share: &Share) -> RemoteRecorder {
        RemoteRecorder { guest: Arc::clone(&self.guest), share: share.clone(), name, barriers: 0 }
    }
}

/// `farwatch serve` of a directory, under a tag.
pub(crate) fn serve(tag: &str, options: &[&str]) -> Result<Mount> {
    Mount::start_device(|mount, socket| {
        let mut serve = mount.farwatch()?;
        serve.arg("serve").arg("--socket").arg(socket).arg("--shared-dir").arg(mount.host());
        // QEMU's device has a tag of its own.
        serve.args(["--tag", tag]).args(options);
        Ok(serve)
    })
}

impl Place for Vm {
    fn share(&self, name: &str) -> Result<Share> {
        Ok(self.host.share(name)?.mounted_at(&self.mount_point().join(name)))
    }

    fn local_twin(&self, name: &str) -> Result<Share> {
        self.host.local_twin(name)
    }

    fn recorder(&self, share: &Share) -> Result<Box<dyn Record>> {
        Ok(Box::new(self.remote_recorder(share)?))
    }

    fn run_in_mount(&self, share: &Share, script: &str) -> Result<()> {
        self.guest().shell(share.mount(), script).map(drop)
    }

    fn sync(&self) -> Result<()> {
        let mount_point = self.mount_point();
        let sync = [OsStr::new("farwatch-agent"), OsStr::new("sync"), mount_point.as_os_str()];
        let output = self.guest().output(&sync)?;
        ensure!(output.code == 0, "{output:?}");
        Ok(())
    }

    fn is_native(&self) -> bool {
        self.is_native.load(Ordering::Relaxed)
    }

    fn is_sound(&self) -> Result<()> {
        self.guest().is_sound()
    }

    fn log(&self) -> String {
        let mut guest = self.guest();
        let agent = guest.log(AGENT).unwrap_or_else(|error| error.root_cause().to_string());
        format!("{}\nthe agent:\n{agent}\nthe device:\n{}", guest.console(), self.host.log())
    }
}

/// A recorder in a guest.
#[derive(Debug)]
pub struct RemoteRecorder {
    guest: Arc<Mutex<Guest>>,
    share: Share,
    name: String,
    barriers: u32,
}

impl RemoteRecorder {
    fn ask(&self, verb: &str, argument: Option<&OsStr>) -> Result<Vec<Vec<std::ffi::OsString>>> {
        let mut words = vec![OsStr::new(verb), OsStr::new(&self.name)];
        words.extend(argument);
        self.guest.lock().unwrap_or_else(PoisonError::into_inner).ask(&words)
    }

    /// Waits for a sentinel that somebody else makes in the share's barrier directory.
    pub fn wait_for_sentinel(&self, name: &str) -> Result<()> {
        self.ask("sentinel", Some(OsStr::new(name))).map(drop)
    }
}

impl Record for RemoteRecorder {
    fn watch(&mut self, path: &Path) -> Result<()> {
        self.ask("watch", Some(path.as_os_str())).map(drop)
    }

    fn watch_recursively(&mut self, path: &Path) -> Result<()> {
        self.ask("watch-below", Some(path.as_os_str())).map(drop)
    }

    fn barrier(&mut self) -> Result<()> {
        self.barriers += 1;
        let name = format!("{}-{}", self.name, self.barriers);
        let sentinel = self.share.make_sentinel(OsStr::new(&name))?;
        self.wait_for_sentinel(&name)?;
        std::fs::remove_file(sentinel).context("cannot remove the sentinel")
    }

    fn take_events(&mut self) -> Result<Vec<Event>> {
        let lines = self.ask("events", None)?;
        lines.iter().flatten().map(|line| Event::parse(&line.to_string_lossy())).collect()
    }

    fn take_events_now(&mut self) -> Result<Vec<Event>> {
        self.ask("read", None)?;
        self.take_events()
    }
}

impl Drop for RemoteRecorder {
    fn drop(&mut self) {
        // The machine may be gone, and the recorder with it.
        drop(self.ask("forget", None));
    }
}
