// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Qemu`]: which QEMU runs a machine, the machine's facts, and its monitor.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Kernel;

const PROGRAM: &str = "qemu-system-x86_64";
/// Names a directory in which Debian's package of a newer QEMU is unpacked.
const VARIABLE: &str = "FARWATCH_QEMU";
/// The first version that moves a vhost-user-fs device to another host.
const MIGRATES_FROM: (u32, u32) = (8, 2);

/// An installed or unpacked QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    /// Where its firmware is, if not where it looks by itself.
    data: Option<PathBuf>,
}

impl Default for Qemu {
    fn default() -> Self {
        Self { program: PROGRAM.into(), data: None }
    }
}

impl Qemu {
    /// One that can move a machine with a share to another QEMU, if there is one.
    #[must_use]
    pub fn that_migrates() -> Option<Self> {
        let unpacked = std::env::var_os(VARIABLE).map(PathBuf::from).map(|dir| Self {
            program: dir.join("usr/bin").join(PROGRAM),
            data: Some(dir.join("usr/share/qemu")),
        });
        let migrates = |qemu: &Self| qemu.version().is_some_and(|is| is >= MIGRATES_FROM);
        unpacked.into_iter().chain([Self::default()]).find(migrates)
    }

    fn version(&self) -> Option<(u32, u32)> {
        let output = Command::new(&self.program).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, version) = text.split_once("version ")?;
        let mut numbers = version.split(['.', ' ']).map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    }

    /// The machine of facts that do not matter here: one processor, memory that is shared with the
    /// devices' processes, no network. Its second serial port is the observer's. With `incoming` it
    /// waits for another machine to move in.
    pub(super) fn machine(
        &self,
        kernel: &Kernel,
        initrd: &Path,
        sockets: &Sockets,
        shares: &[(&str, &Path)],
        incoming: bool,
    ) -> Command {
        const MEMORY: &str = "384M";
        let mut qemu = Command::new(&self.program);
        if let Some(data) = &self.data {
            qemu.arg("-L").arg(data);
        }
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", MEMORY]);
        qemu.args(["-object", &format!("memory-backend-memfd,id=mem,size={MEMORY},share=on")]);
        qemu.args(["-machine", "q35,memory-backend=mem", "-nodefaults", "-display", "none"]);
        qemu.args(["-chardev", "stdio,id=console", "-serial", "chardev:console"]);
        let port = format!("socket,id=observer,path={}", sockets.port.path.display());
        qemu.args(["-chardev", &port, "-serial", "chardev:observer"]);
        qemu.arg("-qmp").arg(format!("unix:{}", sockets.monitor.path.display()));
        for (n, (tag, socket)) in shares.iter().enumerate() {
            qemu.args(["-chardev", &format!("socket,id=share{n},path={}", socket.display())]);
            qemu.args(["-device", &format!("vhost-user-fs-pci,chardev=share{n},tag={tag}")]);
        }
        qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
        qemu.args(["-append", "console=ttyS0 panic=-1 quiet loglevel=4"]);
        if incoming {
            qemu.args(["-incoming", "defer"]);
        }
        qemu
    }
}

/// Where a QEMU that is about to start will call. These are listened at from here, not from there: a
/// socket that somebody else makes is there a moment before it can be connected to.
#[derive(Debug)]
pub(super) struct Sockets {
    port: Socket,
    monitor: Socket,
}

#[derive(Debug)]
struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Sockets {
    /// Those of the `n`th QEMU of a machine.
    pub(super) fn bind(dir: &Path, n: u32) -> Result<Self> {
        let socket = |name: &str| -> Result<Socket> {
            let path = dir.join(format!("{name}-{n}"));
            Ok(Socket { listener: UnixListener::bind(&path).context("a socket")?, path })
        };
        Ok(Self { port: socket("observer")?, monitor: socket("monitor")? })
    }

    /// Waits until QEMU has called: the observer's serial port, and the monitor.
    pub(super) fn accept(self) -> Result<(UnixStream, Monitor)> {
        let port = self.port.accept().context("the machine's serial port")?;
        Ok((port, Monitor::new(self.monitor.accept().context("QEMU's monitor")?)?))
    }
}

impl Socket {
    fn accept(self) -> Result<UnixStream> {
        let patience = Timespec::try_from(crate::PATIENCE)?;
        let called = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&patience))?;
        ensure!(called > 0, "QEMU does not call at {}", self.path.display());
        Ok(self.listener.accept()?.0)
    }
}

/// A connection to the monitor (QMP), whose messages are lines of JSON.
#[derive(Debug)]
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(super::BOOT_MAX))?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.wait_for(&["\"QMP\""])?;
        monitor.execute(r#"{"execute": "qmp_capabilities"}"#)?;
        Ok(monitor)
    }

    /// Has a command executed, which must succeed.
    pub(super) fn execute(&mut self, command: &str) -> Result<()> {
        self.0.get_mut().write_all(command.as_bytes())?;
        let answer = self.wait_for(&["\"return\"", "\"error\""])?;
        if answer.contains("\"error\"") {
            bail!("{command}: {answer}");
        }
        Ok(())
    }

    /// Waits for a message with one of some words.
    pub(super) fn wait_for(&mut self, words: &[&str]) -> Result<String> {
        loop {
            let mut line = String::new();
            let len = self.0.read_line(&mut line).context("QEMU's monitor")?;
            if len == 0 {
                bail!("QEMU has ended");
            }
            if words.iter().any(|word| line.contains(word)) {
                return Ok(line);
            }
        }
    }
}
