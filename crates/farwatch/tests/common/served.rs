// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Served`]: a shared directory and the device that serves it, in this process. [`Host`] is the
//! same with everything that `farwatch serve` puts around it, and with somebody on the host who
//! changes files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use farwatch::device::{Device, Ended, ServeError, StopHandle, Tag, serve};
use farwatch::fs::Interposer;
use farwatch::share::Share;
use farwatch::watch::{FanotifyBackend, Watcher};
use farwatch_proto::Mask;
use farwatch_sys::fanotify::Fanotify;
use farwatch_sys::thread::CapabilitySet;
use farwatch_testkit::skip_without;
use tempfile::TempDir;
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::passthrough::{Config, InodeFileHandlesMode, MigrationOnError, PassthroughFs};

use crate::guest::{Guest, Told};

/// Skips the calling test, which must return when this is true, without the capabilities that serving
/// and watching need.
pub(crate) fn skip_without_root() -> bool {
    skip_without(CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH)
}

/// A temporary directory with the shared one in it, which `populate` fills.
pub(crate) fn shared_dir(populate: impl FnOnce(&Path)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let share = dir.path().join("share");
    fs::create_dir(&share).unwrap();
    populate(&share);
    dir
}

/// The file server as `farwatch serve` sets it up for root, with `--migration-on-error guest-error`.
pub(crate) fn passthrough(dir: &TempDir) -> PassthroughFs {
    passthrough_of(&dir.path().join("share"))
}

fn passthrough_of(root: &Path) -> PassthroughFs {
    let config = Config {
        root_dir: root.to_str().unwrap().to_owned(),
        xattr: true,
        inode_file_handles: InodeFileHandlesMode::Prefer,
        migration_on_error: MigrationOnError::GuestError,
        ..Config::default()
    };
    PassthroughFs::new(config).unwrap()
}

/// See the module's documentation. Dropped, it is gone.
pub(crate) struct Served<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> {
    pub(crate) device: Arc<Device<F>>,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<Ended, ServeError>>>,
    dir: TempDir,
}

impl<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> Served<F> {
    /// Serves `fs`, which shares the directory of [`shared_dir`].
    pub(crate) fn new(dir: TempDir, fs: F, share: Arc<Share>) -> Self {
        let device = Arc::new(Device::new(fs, Tag::new("share").unwrap(), 1, share).unwrap());
        let stop = StopHandle::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let thread = thread::spawn({
            let (device, stop) = (Arc::clone(&device), stop.clone());
            move || serve(&listener, &device, false, &stop)
        });
        Self { device, stop, thread: Some(thread), dir }
    }

    /// A guest that has not mounted yet.
    pub(crate) fn connect(&self) -> Guest {
        Guest::connect(&self.socket())
    }

    /// Where guests connect.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The shared directory.
    pub(crate) fn share_dir(&self) -> PathBuf {
        self.dir.path().join("share")
    }
}

impl<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> Drop for Served<F> {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            // A second panic would hide the first.
            assert!(thread::panicking() || matches!(ended, Ok(Ok(Ended::Stopped))), "{ended:?}");
        }
    }
}

/// See the module's documentation.
pub(crate) struct Host {
    // In the order in which they go: the shell works in the directory of the device.
    shell: Shell,
    _watcher: Watcher,
    pub(crate) served: Served<Interposer>,
    pub(crate) share: Arc<Share>,
    /// The shared directory.
    pub(crate) root: PathBuf,
}

impl Host {
    pub(crate) fn new(populate: impl FnOnce(&Path)) -> Self {
        Self::new_telling(populate, Mask::DEFAULT)
    }

    /// The same, and tells its guest of these events.
    pub(crate) fn new_telling(populate: impl FnOnce(&Path), events: Mask) -> Self {
        let dir = shared_dir(|share| {
            populate(share);
            fs::write(share.join(Self::BARRIER), "").unwrap();
        });
        let root = dir.path().join("share");
        Self::telling(dir, &root, events)
    }

    /// Another host that shares the same directory.
    pub(crate) fn second(&self) -> Self {
        Self::at(TempDir::new().unwrap(), &self.root)
    }

    /// Shares `root`, with the socket in `dir`.
    pub(crate) fn at(dir: TempDir, root: &Path) -> Self {
        Self::telling(dir, root, Mask::DEFAULT)
    }

    /// The same, and tells its guest of these events.
    pub(crate) fn telling(dir: TempDir, root: &Path, events: Mask) -> Self {
        Self::started(dir, root, events, None)
    }

    /// Lets its guest keep what events keep true for `lease`.
    pub(crate) fn leasing(populate: impl FnOnce(&Path), lease: Duration) -> Self {
        let dir = shared_dir(populate);
        let root = dir.path().join("share");
        Self::started(dir, &root, Mask::DEFAULT, Some(lease))
    }

    fn started(dir: TempDir, root: &Path, events: Mask, lease: Option<Duration>) -> Self {
        let root = root.to_owned();
        let backend = FanotifyBackend::new(Fanotify::open().unwrap(), events);
        let share = Arc::new(Share::new(Some(Box::new(backend))));
        let fs = Interposer::new(passthrough_of(&root), Arc::clone(&share), &root, true);
        let fs = fs.with_lease(lease);
        let served = Served::new(dir, fs, Arc::clone(&share));
        let pump = Arc::downgrade(&served.device);
        share.add_sink(move || {
            if let Some(device) = pump.upgrade() {
                device.pump();
            }
        });
        let watcher = Watcher::start(Arc::clone(&share)).unwrap();
        Self { shell: Shell::start(&root), _watcher: watcher, served, share, root }
    }

    /// A guest whose driver takes no notification queue. It has not mounted yet.
    pub(crate) fn connect_without_queue(&self) -> Guest {
        Guest::connect_without_queue(&self.served.socket())
    }

    /// A guest that has mounted.
    pub(crate) fn mount(&self) -> Guest {
        let mut guest = self.served.connect();
        guest.init();
        guest
    }

    /// A file in the root that nothing but [`Host::told`] changes.
    pub(crate) const BARRIER: &str = "barrier";

    /// Lets another process change files in the shared directory; what the script does must succeed.
    pub(crate) fn run(&mut self, script: &str) {
        self.shell.run(script);
    }

    /// All notifications of what has happened on the host so far, since the last time this was
    /// asked: up to that of a change made now.
    pub(crate) fn told(&mut self, guest: &mut Guest) -> Told {
        self.run(&format!("chmod 600 {}", Self::BARRIER));
        guest.notifications_until(Self::BARRIER)
    }
}

/// A process that is not this one, whose changes count as the host's.
struct Shell {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Shell {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new("sh")
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    fn run(&mut self, script: &str) {
        let stdin = self.stdin.as_mut().expect("it is taken when this is dropped");
        writeln!(stdin, "( set -e; {script}\n) >&2 </dev/null; echo $?").unwrap();
        let mut status = String::new();
        self.stdout.read_line(&mut status).unwrap();
        assert_eq!(status, "0\n", "exit status of `{script}`");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The end of its input is the shell's end.
        self.stdin = None;
        let status = self.child.wait();
        assert!(thread::panicking() || status.is_ok_and(|status| status.success()));
    }
}
