// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks at the entries that the engine wants to compare with what watchers were told. The watch thread does
//! so between two reads of the kernel's queue.

use std::io;
use std::time::Instant;

use farwatch_proto::NodeId;
use farwatch_proto::host::{Check, Checked};

use super::look::look;
use super::rescan::{gone_is_none, is_removed};
use super::{Backend, Intake};

/// Looks at all that are due.
pub(super) fn run(intake: &dyn Intake, backend: &dyn Backend) {
    loop {
        let now = Instant::now();
        let Some(check) = intake.poll_check(now) else { return };
        let checked = checked(intake, backend, &check);
        tracing::debug!(?check, ?checked, "compared");
        match checked {
            Ok(checked) => intake.handle_checked(now, check, checked),
            Err(_) => intake.handle_unchecked(now, check),
        }
    }
}

fn checked(intake: &dyn Intake, backend: &dyn Backend, check: &Check) -> io::Result<Checked> {
    let dir = intake.open_dir(check.dir).ok_or(io::ErrorKind::NotFound)?;
    let found = gone_is_none(look(backend, &dir, check.name.clone()))?;
    let removed = |id: &NodeId| is_removed(intake, *id);
    Ok(Checked { found, removed: check.subdirs.iter().copied().filter(removed).collect() })
}
