// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Uml`]: a User-mode Linux, which is a kernel that runs as a process, with the patches of
//! `kernel/series`. `cargo xtask kernel` builds it.
//!
//! It has what QEMU's device lacks, a notification queue. Its root is a directory of this machine, its
//! first serial line the socket that is its standard input.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::hash::hash_of;
use super::image::kernels;

/// Names a kernel to run in place of the one that `cargo xtask kernel` has built.
const VARIABLE: &str = "FARWATCH_UML";
const SERIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel/series");
const SHARED_MEMORY: &str = "/dev/shm";
const MEMORY: &str = "192M";
/// Of virtio-fs, in the virtio specification.
const DEVICE_ID: u32 = 26;

/// Has a kernel with the patches be as one without them.
const RAISES_NOTHING: &str = "fuse.enable_fsnotify=0";

/// A built kernel.
#[derive(Clone, Debug)]
pub struct Uml {
    program: PathBuf,
    /// How much memory it has, as its command line says it.
    memory: &'static str,
    /// More for its command line.
    arguments: Vec<String>,
}

/// What a kernel is built from.
#[derive(Clone, Debug)]
pub struct Series {
    /// As in the name of its directory: `6.12`.
    pub version: String,
    /// In the order in which they are applied.
    pub patches: Vec<PathBuf>,
    /// What is configured otherwise than by default: a fragment, as the kernel's scripts merge it.
    pub config: PathBuf,
}

impl Series {
    /// Those of all versions, the oldest first.
    ///
    /// # Errors
    /// When their directory cannot be read.
    pub fn all() -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(SERIES).context(SERIES)? {
            let name = entry?.file_name();
            all.push(Self::of(name.to_str().context("a version is ASCII")?)?);
        }
        all.sort_by_cached_key(|series| numbers(&series.version));
        Ok(all)
    }

    /// The patches of a version.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn of(version: &str) -> Result<Self> {
        let dir = Path::new(SERIES).join(version);
        let mut patches = Vec::new();
        // Without the first ones, the kernel does not run here.
        for dir in [dir.join("uml"), dir.clone()] {
            let mut files = fs::read_dir(&dir)
                .with_context(|| dir.display().to_string())?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<Vec<_>>>()?;
            files.retain(|file| file.extension().is_some_and(|extension| extension == "patch"));
            // The cover letter changes nothing.
            files.retain(|file| {
                !file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"0000-"))
            });
            files.sort();
            patches.extend(files);
        }
        Ok(Self { version: version.to_owned(), patches, config: dir.join("config") })
    }

    /// Where `./test` keeps the kernel's source: a tar file, and its version.
    #[must_use]
    pub fn source(&self) -> Option<PathBuf> {
        Some(kernels()?.join(format!("source-{}", self.version)))
    }

    /// Where a kernel belongs that is built from the source that is there: another one for each
    /// version, series and configuration.
    ///
    /// # Errors
    /// When there is no source.
    pub fn built(&self) -> Result<PathBuf> {
        let source = self.source().context("no cache directory")?;
        let version = source.join("version");
        let hash = hash_of([&version, &self.config].into_iter().chain(&self.patches))?;
        Ok(source.with_file_name(format!("uml-{}-{hash}", self.version)))
    }
}

impl Uml {
    /// The kernel with the patches of a version as they are now, if it has been built.
    #[must_use]
    pub fn find(version: &str) -> Option<Self> {
        let built = || Some(Series::of(version).ok()?.built().ok()?.join("linux"));
        let program = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(built)?;
        program.is_file().then(|| Self::at(&program))
    }

    /// Whether the environment names a kernel to run in place of the built one.
    #[must_use]
    pub fn is_named() -> bool {
        std::env::var_os(VARIABLE).is_some()
    }

    /// One that is named.
    #[must_use]
    pub fn at(program: &Path) -> Self {
        Self { program: program.to_owned(), memory: MEMORY, arguments: Vec::new() }
    }

    /// The same with so much memory, as in `1G`.
    #[must_use]
    pub fn with_memory(mut self, memory: &'static str) -> Self {
        self.memory = memory;
        self
    }

    /// The same with a notification queue of so many buffers: a power of 2.
    #[must_use]
    pub fn with_notification_buffers(mut self, buffers: u32) -> Self {
        self.arguments.push(format!("virtio_uml.queue_sizes=0,{buffers}"));
        self
    }

    /// The same as a kernel without the patches, for what it mounts.
    #[must_use]
    pub fn that_raises_nothing(mut self) -> Self {
        self.arguments.push(RAISES_NOTHING.to_owned());
        self
    }

    /// Whether it raises the events of what it mounts.
    pub(super) fn raises(&self) -> bool {
        !self.arguments.iter().any(|argument| argument == RAISES_NOTHING)
    }

    /// The kernel as a command, with a root directory, and a device for each share. What it needs beside
    /// that it has in `dir`. Returns the other end of its serial line as well.
    ///
    /// It is the first process of a namespace, so that its helpers and the programs in it, which are
    /// processes too, end with it. It ends with the thread that starts it, whatever ends that: a guest whose
    /// device has gone may not be able to end itself.
    pub(super) fn machine(
        &self,
        root: &Path,
        dir: &Path,
        shares: &[(&str, &Path)],
    ) -> Result<(Command, UnixStream)> {
        let (port, line) = UnixStream::pair().context("a socket pair")?;
        let mut uml = Command::new("setpriv");
        uml.args(["--pdeathsig", "KILL", "--", "unshare"]);
        uml.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(&self.program);
        uml.arg(format!("mem={}", self.memory))
            .arg(format!("uml_dir={}", dir.join("uml").display()));
        uml.args(["root=/dev/root", "rootfstype=hostfs", "rw", "init=/init"]);
        uml.arg(format!("rootflags={}", root.display()));
        for (_, socket) in shares {
            uml.arg(format!("virtio_uml.device={}:{DEVICE_ID}", socket.display()));
        }
        uml.args(["con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:0", "quiet", "loglevel=5"]);
        uml.args(&self.arguments);
        uml.env("TMPDIR", memory()?);
        uml.stdin(Stdio::from(OwnedFd::from(line)));
        Ok((uml, port))
    }
}

/// `6.12` comes after `6.9`.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|number| number.parse().unwrap_or(0)).collect()
}

/// Where its memory is, which is a file that programs are run from.
fn memory() -> Result<PathBuf> {
    let temp = std::env::temp_dir();
    let dirs = [Path::new(SHARED_MEMORY), &temp];
    let may_run =
        |dir: &&Path| statvfs(*dir).is_ok_and(|is| !is.f_flag.contains(StatVfsMountFlags::NOEXEC));
    let found = dirs.into_iter().find(may_run).map(Path::to_owned);
    ensure!(found.is_some(), "{SHARED_MEMORY} and {} are mounted noexec", temp.display());
    found.context("a directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_that_let_the_kernel_run_here_come_first() {
        for series in Series::all().unwrap() {
            let is_uml = |patch: &PathBuf| patch.components().any(|part| part.as_os_str() == "uml");
            assert!(series.patches.is_sorted_by_key(|patch| !is_uml(patch)), "{series:?}");
        }
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let mut versions = ["7.3", "6.12", "6.9", "6"];
        versions.sort_by_cached_key(|version| numbers(version));
        assert_eq!(versions, ["6", "6.9", "6.12", "7.3"]);
    }
}
