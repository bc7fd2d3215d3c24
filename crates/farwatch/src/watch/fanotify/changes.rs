// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From fanotify records to [`HostChange`]s, without what this daemon did itself for its guest.
//!
//! Pure: `reader` reads the bytes.

use std::ops::RangeInclusive;

use farwatch_proto::host::{HostChange, HostEntry};
use farwatch_proto::{Fid, Mask, Name};
use farwatch_sys::fanotify::{DirRecord, FAN_Q_OVERFLOW, FAN_RENAME, Record, records};

/// Room for a few hundred events a read.
pub(super) const BUFFER_LEN: usize = 64 << 10;

/// The changes in one read. An event of `own_pid` is the echo of a guest's request: its kernel has
/// reported it to its watchers already.
pub(super) fn changes(bytes: &[u8], own_pid: i32) -> impl Iterator<Item = HostChange> {
    records(bytes).flat_map(move |record| match record {
        Ok(record) if record.pid == own_pid => Vec::new(),
        Ok(record) => change(record),
        Err(error) => {
            tracing::error!(%error, "malformed report from the kernel: events are lost");
            vec![HostChange::Overflow]
        }
    })
}

/// How many events one read has given.
pub(super) fn count(bytes: &[u8]) -> u64 {
    records(bytes).fold(0, |count, _| count + 1)
}

fn change(mut record: Record<'_>) -> Vec<HostChange> {
    let dir = [&record.dir, &record.old, &record.new].into_iter().flatten().next();
    if let (Some(object), Some(dir)) = (&record.object, dir) {
        record.object = subvolume(object, &dir.fid).or(record.object);
    }
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

/// The root of a btrfs subvolume as it names itself. The kernel reports every object with the fsid of
/// the marked directory, but `statfs(2)` of a subvolume has another: in it, the subvolume's number is
/// mixed with the file system's (`btrfs_statfs()`), and file handles contain the number.
fn subvolume(object: &Fid, dir: &Fid) -> Option<Fid> {
    let (own, dirs) = (subvolume_number(object)?, subvolume_number(dir)?);
    let mix = own ^ dirs;
    let [low, high] = [mix, mix >> 32].map(|half| u32::try_from(half & u64::from(u32::MAX)));
    let [first, second] = object.fsid();
    let fsid = [first ^ high.ok()?, second ^ low.ok()?];
    Fid::new(fsid, object.handle_type(), object.handle()).ok().filter(|_| mix != 0)
}

/// The second word of `struct btrfs_fid`.
fn subvolume_number(fid: &Fid) -> Option<u64> {
    /// `FILEID_BTRFS_*` of `linux/exportfs.h`.
    const BTRFS: RangeInclusive<i32> = 0x4d..=0x4f;
    let number = fid.handle().get(8..16).filter(|_| BTRFS.contains(&fid.handle_type()))?;
    Some(u64::from_ne_bytes(number.try_into().ok()?))
}

fn entry(record: DirRecord<'_>) -> Option<HostEntry> {
    let name = Name::parse(record.name).ok()?;
    Some(HostEntry { dir: record.fid, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn btrfs(fsid: [u32; 2], number: u64) -> Fid {
        let words = [256, number].map(u64::to_ne_bytes);
        Fid::new(fsid, 0x4d, &[words.as_flattened(), &[7, 0, 0, 0]].concat()).unwrap()
    }

    #[test]
    fn the_root_of_a_subvolume_gets_the_fsid_that_it_says_itself() {
        let (top, sub) = ((5_u64, [0x10_u32, 0x20_u32 ^ 5]), ((1 << 32) + 300, [0x11, 0x20 ^ 300]));
        let reported = btrfs(top.1, sub.0);
        assert_eq!(subvolume(&reported, &btrfs(top.1, top.0)), Some(btrfs(sub.1, sub.0)));
        assert_eq!(subvolume(&btrfs(top.1, top.0), &btrfs(top.1, top.0)), None);
        let ext4 = Fid::new(top.1, 1, &[1; 8]).unwrap();
        assert_eq!(subvolume(&ext4, &btrfs(top.1, top.0)), None);
        assert_eq!(subvolume(&reported, &ext4), None);
    }
}
