// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every scenario through `farwatch mount`: changes made in SRC, read by inotify in MNT.
//!
//! The scenarios of one process share a mount, each in a directory of its own, and run side by
//! side; one that says `mount: fresh` gets its own.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use e2e::Need;
use farwatch_testkit::Mount;

/// The mount of this process, started by the first scenario that wants it.
#[derive(Default)]
struct Shared(Mutex<Option<Arc<Mount>>>);

impl Shared {
    fn mount(&self) -> Result<Arc<Mount>> {
        let mut mount = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mount) = &*mount {
            return Ok(Arc::clone(mount));
        }
        Ok(Arc::clone(mount.insert(Arc::new(Mount::start()?))))
    }
}

fn main() -> ExitCode {
    let shared = Arc::new(Shared::default());
    let trials = e2e::scenarios()
        .into_iter()
        .map(|scenario| {
            let shared = Arc::clone(&shared);
            e2e::scenario_trial(scenario, &[Need::Mount], move |scenario| {
                if scenario.fresh_mount {
                    scenario.run(&Mount::start()?)
                } else {
                    scenario.run(&*shared.mount()?)
                }
            })
        })
        .collect();
    let code = e2e::run(trials);
    // Dropped here, so that a mount or process left behind fails the run.
    drop(shared);
    code
}
