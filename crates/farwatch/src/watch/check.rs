// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks at entries that the engine compares with what watchers were told. The watch thread does so between two
//! reads of the kernel's queue.

use std::io;

use farwatch_proto::NodeId;
use farwatch_proto::host::{Check, Checked, Input};

use super::look::look;
use super::rescan::{gone_is_none, is_removed};
use super::{Backend, Intake};

/// Looks at one. Returns what the engine is to know.
pub(super) fn run(intake: &dyn Intake, backend: &dyn Backend, check: Check) -> Input {
    let checked = checked(intake, backend, &check);
    tracing::debug!(?check, ?checked, "compared");
    match checked {
        Ok(checked) => Input::Checked(check, checked),
        Err(_) => Input::Unchecked(check),
    }
}

fn checked(intake: &dyn Intake, backend: &dyn Backend, check: &Check) -> io::Result<Checked> {
    let dir = intake.open_dir(check.dir).ok_or(io::ErrorKind::NotFound)?;
    let found = gone_is_none(look(backend, &dir, check.name.clone()))?;
    let removed = |id: &NodeId| is_removed(intake, *id);
    Ok(Checked { found, removed: check.subdirs.iter().copied().filter(removed).collect() })
}
