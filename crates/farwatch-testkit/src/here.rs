// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Here`]: a share whose two sides somebody else has brought here, as in a User-mode Linux that mounts both the
//! shared directory and the share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::place::{Place, Record};
use crate::recorder::Recorder;
use crate::share::Share;

/// See the module's documentation.
#[derive(Debug)]
pub struct Here {
    host: PathBuf,
    mount: PathBuf,
    /// For what is not shared.
    scratch: tempfile::TempDir,
}

impl Here {
    /// The shared directory, and where it is mounted.
    pub fn new(host: &Path, mount: &Path) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("farwatch-test-").tempdir()?;
        for dir in ["outside", "twin"] {
            fs::create_dir(scratch.path().join(dir))?;
        }
        Ok(Self { host: host.to_owned(), mount: mount.to_owned(), scratch })
    }
}

impl Place for Here {
    fn share(&self, name: &str) -> Result<Share> {
        Share::create(&self.host, &self.mount, &self.scratch.path().join("outside"), name)
    }

    fn local_twin(&self, name: &str) -> Result<Share> {
        let twin = self.scratch.path().join("twin");
        Share::create(&twin, &twin, &self.scratch.path().join("outside"), &format!("{name}-twin"))
    }

    fn recorder(&self, share: &Share) -> Result<Box<dyn Record>> {
        Ok(Box::new(Recorder::new(share, Recorder::CHANGES)?))
    }

    fn run_in_mount(&self, share: &Share, script: &str) -> Result<()> {
        share.run_in_mount(script)
    }

    fn sync(&self) -> Result<()> {
        let mut sync = Command::new("farwatch-agent");
        let output = sync.arg("sync").arg(&self.mount).output().context("farwatch-agent")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", output.status);
        Ok(())
    }

    fn log(&self) -> String {
        String::new()
    }
}
