// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One directory as seen from both sides: where a test changes files, and where it watches them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// The three places of one test: the directory on the host side, the same one in the mount, and a
/// directory on the host's file system that is not shared.
#[derive(Clone, Debug)]
pub struct Share {
    host: PathBuf,
    mount: PathBuf,
    outside: PathBuf,
}

impl Share {
    /// Makes the directories for a test called `name`.
    ///
    /// `host` and `mount` are the two sides of one share and may be the same local directory;
    /// `outside` lies on the same file system as `host`, so that `mv` is a rename.
    pub(crate) fn create(host: &Path, mount: &Path, outside: &Path, name: &str) -> Result<Self> {
        let share =
            Self { host: host.join(name), mount: mount.join(name), outside: outside.join(name) };
        for dir in [&share.host, &share.barrier_on_host(), &share.outside] {
            fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(share)
    }

    /// A share of which only the mount side is at hand: in a virtual machine.
    pub(crate) fn seen_from_the_mount(mount: &Path) -> Self {
        let nowhere = PathBuf::from("/nonexistent");
        Self { host: nowhere.clone(), mount: mount.to_owned(), outside: nowhere }
    }

    /// The same share, seen at another place.
    pub(crate) fn mounted_at(&self, mount: &Path) -> Self {
        Self { mount: mount.to_owned(), ..self.clone() }
    }

    /// Where files are changed.
    #[must_use]
    pub fn host(&self) -> &Path {
        &self.host
    }

    /// Where they are watched.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// A directory of the same file system that is not shared.
    #[must_use]
    pub fn outside(&self) -> &Path {
        &self.outside
    }

    /// Makes a file in the barrier directory. Once its creation is seen in the mount, all that was
    /// done on the host side before has been seen.
    pub(crate) fn make_sentinel(&self, name: &OsStr) -> Result<PathBuf> {
        let sentinel = self.barrier_on_host().join(name);
        fs::File::create_new(&sentinel)
            .with_context(|| format!("cannot create {}", sentinel.display()))?;
        Ok(sentinel)
    }

    /// The barrier directory lies beside the test's own, so that the test never sees it.
    pub(crate) fn barrier_on_host(&self) -> PathBuf {
        self.host.with_extension("barrier")
    }

    pub(crate) fn barrier_in_mount(&self) -> PathBuf {
        self.mount.with_extension("barrier")
    }

    /// Runs a shell script on the host side, with `$OUT` naming the directory outside the share.
    pub fn run_on_host(&self, script: &str) -> Result<()> {
        let mut sh = shell(script, &self.host);
        sh.env("OUT", &self.outside);
        succeed(sh, script)
    }

    /// Runs a shell script in the mount.
    pub fn run_in_mount(&self, script: &str) -> Result<()> {
        succeed(shell(script, &self.mount), script)
    }
}

/// `sh -e` in `dir`, with an environment in which tools behave the same on every machine.
#[must_use]
pub fn shell(script: &str, dir: &Path) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-ec", &format!("umask 022\n{script}")]).current_dir(dir).stdin(Stdio::null());
    for (name, value) in [
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
        ("HOME", "/nonexistent"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_AUTHOR_NAME", "test"),
        ("GIT_AUTHOR_EMAIL", "test@localhost"),
        ("GIT_COMMITTER_NAME", "test"),
        ("GIT_COMMITTER_EMAIL", "test@localhost"),
    ] {
        sh.env(name, value);
    }
    sh
}

fn succeed(mut sh: Command, script: &str) -> Result<()> {
    let output = sh.output().context("cannot start sh")?;
    ensure!(
        output.status.success(),
        "{} from\n{script}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
