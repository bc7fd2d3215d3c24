// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks at the entries that the engine wants to compare with what watchers were told. The watch thread does
//! so between two reads of the kernel's queue.

use std::io;
use std::time::Instant;

use farwatch_proto::NodeId;
use farwatch_proto::host::{Check, Checked};

use super::look::look;
use super::rescan::{gone_is_none, is_removed, open};
use crate::share::Share;

/// Looks at all that are due.
pub(super) fn run(share: &Share) {
    loop {
        let now = Instant::now();
        let Some(check) = share.lock().engine.poll_check(now) else { return };
        let checked = checked(share, &check);
        tracing::debug!(?check, ?checked, "compared");
        let engine = &mut share.lock().engine;
        match checked {
            Ok(checked) => engine.handle_checked(now, check, checked),
            Err(_) => engine.handle_unchecked(now, check),
        }
    }
}

fn checked(share: &Share, check: &Check) -> io::Result<Checked> {
    let dir = open(share, check.dir).ok_or(io::ErrorKind::NotFound)?;
    let found = gone_is_none(look(share, &dir, check.name.clone()))?;
    let removed = |id: &NodeId| is_removed(share, *id);
    Ok(Checked { found, removed: check.subdirs.iter().copied().filter(removed).collect() })
}
