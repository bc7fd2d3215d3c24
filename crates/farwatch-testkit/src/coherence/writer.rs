// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Writer`]: changes the objects on the host.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{Timespec, poll};

use super::history::{FILES, History, Object};

/// Where things are, below the shared directory and the mount.
#[derive(Clone, Debug)]
pub(super) struct Places(PathBuf);

impl Places {
    pub(super) fn new(base: &Path) -> Self {
        Self(base.to_owned())
    }

    pub(super) fn size(&self, nth: usize) -> PathBuf {
        self.0.join(format!("size{nth}"))
    }

    pub(super) fn content(&self, nth: usize) -> PathBuf {
        self.0.join(format!("content{nth}"))
    }

    /// The directory of what is renamed.
    pub(super) fn names(&self) -> PathBuf {
        self.0.join("names")
    }

    /// The directory of what is made and removed.
    pub(super) fn made(&self) -> PathBuf {
        self.0.join("made")
    }

    /// All directories.
    pub(super) fn dirs(&self) -> [PathBuf; 3] {
        [self.0.clone(), self.names(), self.made()]
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    places: Places,
    history: &'a History,
    random: fastrand::Rng,
    number: u64,
}

impl<'a> Writer<'a> {
    /// Makes the objects.
    pub(super) fn new(host: &Path, history: &'a History, seed: u64) -> Result<Self> {
        let places = Places::new(host);
        for dir in places.dirs() {
            fs::create_dir_all(dir)?;
        }
        let random = fastrand::Rng::with_seed(seed);
        let writer = Self { places, history, random, number: 0 };
        for nth in 0..FILES {
            File::create(writer.places.size(nth))?;
            fs::write(writer.places.content(nth), 0_u64.to_ne_bytes())?;
        }
        for dir in [writer.places.names(), writer.places.made()] {
            File::create(dir.join("0"))?;
        }
        for object in Object::ALL {
            writer.history.changed(object, 0);
        }
        Ok(writer)
    }

    /// Makes so many changes.
    pub(super) fn write(&mut self, changes: u64, pause_max: Duration) -> Result<()> {
        for _ in 0..changes {
            self.change()?;
            // The pace of a program on the host: nothing is waited for.
            let pause = Timespec::try_from(pause_max.mul_f64(self.random.f64()))?;
            poll(&mut [], Some(&pause))?;
        }
        Ok(())
    }

    /// Makes one change. Returns of what.
    pub(super) fn change(&mut self) -> Result<Object> {
        self.number += 1;
        let (places, number) = (&self.places, self.number);
        let object = Object::ALL[self.random.usize(..Object::ALL.len())];
        let last = self.history.last(object).to_string();
        self.history.begin(object, number);
        match object {
            Object::Size(nth) => {
                File::options().write(true).open(places.size(nth))?.set_len(number)?;
            }
            Object::Content(nth) => {
                let file = File::options().write(true).open(places.content(nth))?;
                file.write_all_at(&number.to_ne_bytes(), 0)?;
            }
            Object::Name => {
                let dir = places.names();
                fs::rename(dir.join(last), dir.join(number.to_string())).context("rename")?;
            }
            Object::Made => {
                let dir = places.made();
                fs::remove_file(dir.join(last)).context("unlink")?;
                File::create_new(dir.join(number.to_string()))?;
            }
        }
        self.history.changed(object, number);
        Ok(object)
    }
}
