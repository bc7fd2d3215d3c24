// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From fanotify records to [`HostChange`]s, without what this daemon did itself for its guest.
//!
//! Pure: `watch` reads the bytes.

use farwatch_proto::host::{HostChange, HostEntry};
use farwatch_proto::{Mask, Name};
use farwatch_sys::fanotify::{DirRecord, FAN_Q_OVERFLOW, FAN_RENAME, Record, records};

/// Room for a few hundred events a read.
pub(super) const BUFFER_LEN: usize = 64 << 10;

/// The changes in one read. An event of `own_pid` is the echo of a guest's request: its kernel has
/// told its watchers already.
pub(super) fn changes(bytes: &[u8], own_pid: i32) -> impl Iterator<Item = HostChange> {
    records(bytes).flat_map(move |record| match record {
        Ok(record) if record.pid == own_pid => Vec::new(),
        Ok(record) => change(record),
        Err(error) => {
            tracing::error!(%error, "the kernel's report makes no sense: events are lost");
            vec![HostChange::Overflow]
        }
    })
}

fn change(record: Record<'_>) -> Vec<HostChange> {
    let mask = Mask::from_bits_truncate(record.mask);
    if record.mask & FAN_Q_OVERFLOW != 0 {
        return vec![HostChange::Overflow];
    }
    if record.mask & FAN_RENAME != 0 {
        let (from, to) = (record.old.and_then(entry), record.new.and_then(entry));
        let directory = mask.contains(Mask::ISDIR);
        return vec![HostChange::Move { from, to, object: record.object, directory }];
    }
    let Some(dir) = record.dir else {
        return record
            .object
            .map(|object| HostChange::Object { object, mask })
            .into_iter()
            .collect();
    };
    if matches!(dir.name, b"." | b"") {
        return vec![HostChange::Object { object: dir.fid, mask }];
    }
    let Some(entry) = entry(dir) else { return Vec::new() };
    let object = record.object;
    let mut changes = Vec::with_capacity(1);
    // Without FAN_RENAME the two halves come apart, and in one event if they share a name.
    if mask.contains(Mask::MOVED_FROM) {
        let (from, object) = (Some(entry.clone()), object.clone());
        let directory = mask.contains(Mask::ISDIR);
        changes.push(HostChange::Move { from, to: None, object, directory });
    }
    if mask.contains(Mask::MOVED_TO) {
        let (to, object) = (Some(entry.clone()), object.clone());
        let directory = mask.contains(Mask::ISDIR);
        changes.push(HostChange::Move { from: None, to, object, directory });
    }
    if !mask.difference(Mask::MOVE.union(Mask::ISDIR)).is_empty() {
        changes.push(HostChange::Entry { entry, mask, object });
    }
    changes
}

fn entry(record: DirRecord<'_>) -> Option<HostEntry> {
    let name = Name::parse(record.name).ok()?;
    Some(HostEntry { dir: record.fid, name })
}
