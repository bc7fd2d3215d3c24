// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Module`]: the module of `kernel/dkms`, built for a stock kernel by `cargo xtask module`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Series;
use super::hash::hash_of;
use super::image::kernels;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel/dkms");
/// The patches that decoder, join and raising are taken from.
const SERIES: &str = "6.12";

/// What the module is built from.
#[derive(Clone, Debug)]
pub struct Module {
    /// Of the kernel, as in the name of its directory: `6.1`.
    pub version: String,
    files: Vec<PathBuf>,
}

impl Module {
    /// Its name for the kernel.
    pub const NAME: &str = "farwatch_fsnotify";

    /// The module for a kernel.
    ///
    /// # Errors
    /// When its source cannot be read.
    pub fn of(version: &str) -> Result<Self> {
        let entries = fs::read_dir(SOURCE).context(SOURCE)?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
        files.sort();
        files.extend(Series::of(SERIES)?.patches);
        Ok(Self { version: version.to_owned(), files })
    }

    /// The script that makes its whole source in a directory.
    #[must_use]
    pub fn maker(&self) -> PathBuf {
        Path::new(SOURCE).join("source")
    }

    /// Where `./test` keeps what modules for the fetched kernel are built against.
    #[must_use]
    pub fn headers(&self) -> Option<PathBuf> {
        Some(kernels()?.join(format!("headers-{}", self.version)))
    }

    /// Where it belongs when it is built: another place for each source and kernel.
    ///
    /// # Errors
    /// When there are no headers.
    pub fn built(&self) -> Result<PathBuf> {
        let headers = self.headers().context("no cache directory")?;
        let hash = hash_of([&headers.join("release")].into_iter().chain(&self.files))?;
        Ok(headers.with_file_name(format!("module-{}-{hash}", self.version)))
    }

    /// The module itself, if it has been built.
    #[must_use]
    pub fn find(version: &str) -> Option<PathBuf> {
        let built = Self::of(version).ok()?.built().ok()?;
        Some(built.join(format!("{}.ko", Self::NAME))).filter(|file| file.is_file())
    }
}
