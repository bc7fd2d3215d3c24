// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is built once and kept in the cache, under a name made of all that it depends on. It gets that name last: what
//! is there is whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Has `make` fill a directory, which becomes `built`, unless `is_there`. One at a time: two builds in one place would
/// spoil each other.
pub(crate) fn build(
    built: &Path,
    is_there: impl FnOnce() -> bool,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let lock = fs::File::create(built.with_file_name("lock"))?;
    lock.lock()?;
    if is_there() {
        return Ok(());
    }
    let mut new = built.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    remove(&new)?;
    fs::create_dir_all(&new)?;
    make(&new)?;
    remove(built)?;
    fs::rename(&new, built).with_context(|| built.display().to_string())
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}

/// Where all of it is: `farwatch` in the user's cache directory.
pub(crate) fn dir() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("$HOME")?).join(".cache"),
    };
    Ok(cache.join("farwatch"))
}
