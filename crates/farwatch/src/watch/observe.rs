// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hands in what inotify has to report. The observer of `farwatch_proto` says what follows, and which
//! names are to be looked up for it; that is done without the share's lock.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::MutexGuard;
use std::time::{Instant, SystemTime};

use farwatch_proto::host::inotify::{Doubt, Found, Looks};
use farwatch_proto::host::{HostChange, HostEntry};
use farwatch_proto::{Fid, NodeId};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};

use super::inotify::Inotify;
use super::passing::Passing;
use super::{is_mounted, look, passed, rescan, time};
use crate::share::{Share, State};

/// Hands in all that there is, until there is no more.
pub(super) fn read(
    inotify: &Inotify,
    share: &Share,
    buf: &mut [MaybeUninit<u8>],
    passing: &mut Passing,
) -> io::Result<()> {
    loop {
        let now = SystemTime::now();
        let Some(mark) = share.lock().observer.as_mut().map(|observer| observer.begin()) else {
            return Ok(());
        };
        passing.begin(share, || inotify.queued());
        let (reports, len) = inotify.read(buf)?;
        let empty = len == 0;
        passing.read(len);
        if empty {
            passing.drained();
        }
        tracing::trace!(?reports, "reported");
        let looks = {
            let state = &mut *share.lock();
            let Some(observer) = &mut state.observer else { return Ok(()) };
            observer.handle(Instant::now(), reports);
            observer.looks(&state.engine.tree)
        };
        let found = look_up(inotify, share, looks);
        let mut locked = share.lock();
        let state = &mut *locked;
        let Some(observer) = &mut state.observer else { return Ok(()) };
        let changes = observer.changes(&state.engine.tree, &found);
        let doubts = observer.doubts();
        if !doubts.is_empty() {
            drop(locked);
            locked = settle_unchanged(inotify, share, doubts);
        }
        let (news, drained, told) = {
            let state = &mut *locked;
            let Some(observer) = &mut state.observer else { return Ok(()) };
            for change in changes {
                tracing::trace!(?change, "observed");
                state.engine.handle_change(change);
            }
            let drained = if empty { observer.drained(mark) } else { None };
            if drained.is_some() {
                state.engine.handle_drained(now);
            }
            // What was read is told when it waits for no mate any more.
            let position = observer.position();
            let told = passing.passes() && observer.has_told(passing.position(position));
            (state.engine.has_next(), drained, told)
        };
        drop(locked);
        if news {
            look::offer(share);
        }
        let again = drained.as_ref().is_some_and(|drained| drained.again);
        for doubt in drained.into_iter().flat_map(|drained| drained.doubts) {
            settle(inotify, share, doubt);
        }
        if told && !again {
            passed(share, passing);
        }
        if empty && !again {
            return Ok(());
        }
    }
}

fn look_up(inotify: &Inotify, share: &Share, looks: Looks) -> Found {
    let mut found = Found::default();
    for object in looks.links {
        if let Some(nlink) = link_count(inotify, share, &object) {
            found.links.insert(object, nlink);
        }
    }
    for entry in looks.names {
        let Some(id) = share.lock().engine.tree.nodes_of(&entry.dir).first().copied() else {
            continue;
        };
        let Some(dir) = rescan::open(share, id) else { continue };
        let Ok(name) = CString::new(entry.name.as_bytes()) else { continue };
        if is_mounted(&dir, &name) {
            // What is mounted there is not what was reported: that is beneath.
            continue;
        }
        if let Ok(fid) = inotify.fid_at(dir.as_fd(), &name, &entry.dir) {
            if is_directory(&dir, &name) {
                found.directories.insert(fid.clone());
            }
            found.names.insert(entry, fid);
        }
    }
    found
}

fn is_directory(dir: impl AsFd, name: &CStr) -> bool {
    let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory)
}

/// By the name under which the guest knows the object, if it is there.
fn link_count(inotify: &Inotify, share: &Share, object: &Fid) -> Option<u32> {
    let (dir, entry) = {
        let tree = &share.lock().engine.tree;
        let (dir, name) = tree.entry(*tree.nodes_of(object).first()?)?;
        (dir, HostEntry { dir: tree.fid(dir)?.clone(), name: name.clone() })
    };
    stat_of(inotify, share, dir, &entry, object, StatxFlags::NLINK).map(|stat| stat.stx_nlink)
}

/// What an entry of a directory says of an object, if it leads to that.
fn stat_of(
    inotify: &Inotify,
    share: &Share,
    dir: NodeId,
    entry: &HostEntry,
    object: &Fid,
    wanted: StatxFlags,
) -> Option<Statx> {
    let dir = rescan::open(share, dir)?;
    let name = CString::new(entry.name.as_bytes()).ok()?;
    let stat = rustix::fs::statx(&*dir, &name, AtFlags::SYMLINK_NOFOLLOW, wanted).ok()?;
    let is_it = inotify.fid_at(dir.as_fd(), &name, &entry.dir).is_ok_and(|fid| fid == *object);
    is_it.then_some(stat)
}

/// What nobody has changed since is the daemon's own. Returns with the lock.
fn settle_unchanged<'a>(
    inotify: &Inotify,
    share: &'a Share,
    doubts: Vec<Doubt>,
) -> MutexGuard<'a, State> {
    let unchanged = |doubt: &Doubt| ctime(inotify, share, doubt) == Some(doubt.changed);
    let own: Vec<_> = doubts.into_iter().filter(unchanged).map(|doubt| doubt.object).collect();
    let mut state = share.lock();
    if let Some(observer) = &mut state.observer {
        own.iter().for_each(|object| observer.settled(object));
    }
    state
}

/// Tells the change once more if it was not, or not only, the daemon's own.
fn settle(inotify: &Inotify, share: &Share, doubt: Doubt) {
    let ctime = ctime(inotify, share, &doubt);
    let Doubt { entry, object, mask, changed } = doubt;
    if ctime.is_some_and(|ctime| ctime != changed) {
        tracing::debug!(?object, ?mask, "changed by somebody else at the same time");
        let change = HostChange::Entry { entry, mask, object: Some(object) };
        share.lock().engine.handle_change(change);
        look::offer(share);
    }
}

/// When the object in doubt was changed last, if it is still there.
fn ctime(inotify: &Inotify, share: &Share, doubt: &Doubt) -> Option<SystemTime> {
    let Doubt { entry, object, .. } = doubt;
    let id = share.lock().engine.tree.nodes_of(&entry.dir).first().copied()?;
    let stat = stat_of(inotify, share, id, entry, object, StatxFlags::CTIME)?;
    Some(time(stat.stx_ctime))
}
