// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Place`]: where a scenario can run. A directory that is changed on one side and watched on the
//! other, be the other side here or in a virtual machine.

use std::path::Path;

use anyhow::Result;

use crate::event::Event;
use crate::mount::Mount;
use crate::recorder::Recorder;
use crate::share::Share;

/// See the module's documentation.
pub trait Place {
    /// A fresh directory below the shared one. `name` must be new and have no dot.
    fn share(&self, name: &str) -> Result<Share>;

    /// A fresh local directory beside the share, for the oracle's run of the same commands.
    fn local_twin(&self, name: &str) -> Result<Share>;

    /// A program that watches on the other side of `share`, and watches nothing yet.
    fn recorder(&self, share: &Share) -> Result<Box<dyn Record>>;

    /// Runs a shell script in the mount.
    fn run_in_mount(&self, share: &Share, script: &str) -> Result<()>;

    /// Waits with `sync` until all that was changed on the host side before this call has been told.
    fn sync(&self) -> Result<()>;

    /// Whether its kernel raises the events itself: by the patches, or the module.
    fn is_native(&self) -> bool {
        false
    }

    /// Whether its kernel has found no fault in itself, where that is asked.
    fn is_sound(&self) -> Result<()> {
        Ok(())
    }

    /// What everything that takes part has said, for whoever looks into a failure.
    fn log(&self) -> String;
}

/// A program that watches: a [`Recorder`], here or elsewhere.
pub trait Record {
    /// Watches one file or directory, given relative to the mount side of the share.
    fn watch(&mut self, path: &Path) -> Result<()>;

    /// Watches a directory and all below it, now and as they appear.
    fn watch_recursively(&mut self, path: &Path) -> Result<()>;

    /// Waits until all that was changed on the host side before this call has been reported.
    fn barrier(&mut self) -> Result<()>;

    /// Hands out the events and starts over; cookies are numbered on.
    fn take_events(&mut self) -> Result<Vec<Event>>;

    /// The same with those that are there and have not been read, without waiting for any.
    fn take_events_now(&mut self) -> Result<Vec<Event>>;
}

impl Place for Mount {
    fn share(&self, name: &str) -> Result<Share> {
        Self::share(self, name)
    }

    fn local_twin(&self, name: &str) -> Result<Share> {
        Self::local_twin(self, name)
    }

    fn recorder(&self, share: &Share) -> Result<Box<dyn Record>> {
        Ok(Box::new(Recorder::new(share, Recorder::CHANGES)?))
    }

    fn run_in_mount(&self, share: &Share, script: &str) -> Result<()> {
        share.run_in_mount(script)
    }

    fn sync(&self) -> Result<()> {
        Self::sync(self)
    }

    fn log(&self) -> String {
        Self::log(self)
    }
}

impl Record for Recorder {
    fn watch(&mut self, path: &Path) -> Result<()> {
        Self::watch(self, path)
    }

    fn watch_recursively(&mut self, path: &Path) -> Result<()> {
        Self::watch_recursively(self, path)
    }

    fn barrier(&mut self) -> Result<()> {
        Self::barrier(self)
    }

    fn take_events(&mut self) -> Result<Vec<Event>> {
        Ok(Self::take_events(self))
    }

    fn take_events_now(&mut self) -> Result<Vec<Event>> {
        Self::take_events_now(self)
    }
}
