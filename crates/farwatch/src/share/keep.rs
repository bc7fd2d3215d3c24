// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest's kernel may keep of a reply for as long as the lease, since events keep it true (`--cache events`).
//! What must hold of the guest is the engine's decision; what must hold of the host is decided here: the
//! directories are watched, in a file system that nobody else changes, and the agent goes on.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use farwatch_proto::{Fid, NodeId};

use super::{Share, State};

/// What may be kept of a reply that names a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Keep {
    /// That the name leads to it.
    pub(crate) entry: bool,
    /// Its attributes.
    pub(crate) attr: bool,
}

/// Whether the agent goes on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// There was something for it to do at each look since then, and it gave no sign of life.
    waiting_since: Option<Instant>,
}

/// File systems by their fsid, and whether only this machine changes them.
#[derive(Debug, Default)]
pub(super) struct FileSystems(BTreeMap<[u32; 2], bool>);

impl Pace {
    /// An agent that has done nothing for so long, though there was something to do, counts as stopped.
    const STOPPED_AFTER: Duration = Duration::from_millis(500);

    /// A request of the agent's has come.
    pub(super) fn goes_on(&mut self) {
        self.waiting_since = None;
    }

    /// Whether the agent is thought to go on; `is_behind` says that there is something for it to do.
    fn is_going_on(&mut self, now: Instant, is_behind: bool) -> bool {
        if !is_behind {
            self.waiting_since = None;
            return true;
        }
        let since = *self.waiting_since.get_or_insert(now);
        now.saturating_duration_since(since) < Self::STOPPED_AFTER
    }
}

impl FileSystems {
    /// Past it all are forgotten, and found out again.
    const LEN_MAX: usize = 1024;

    /// Notes the file system of an object, which is open as `fd`.
    pub(super) fn note(&mut self, fid: &Fid, fd: impl AsFd) {
        if self.0.contains_key(&fid.fsid()) {
            return;
        }
        if self.0.len() >= Self::LEN_MAX {
            self.0.clear();
        }
        let stat = rustix::fs::fstatfs(fd);
        self.0.insert(fid.fsid(), stat.is_ok_and(|stat| is_local(stat.f_type)));
    }

    fn is_local(&self, fid: &Fid) -> bool {
        self.0.get(&fid.fsid()).is_some_and(|local| *local)
    }
}

/// Whether only this machine changes a file system of that type (`f_type` of `statfs(2)`): its changes are not all
/// reported otherwise. FUSE may be anything.
fn is_local<T: TryInto<u32>>(f_type: T) -> bool {
    f_type.try_into().is_ok_and(|magic| !SHARED.iter().any(|(_, shared)| *shared == magic))
}

/// From `linux/magic.h`, and where they are not in it from the source of each or `statfs(2)`.
const SHARED: [(&str, u32); 18] = [
    ("AFS", 0x5346_414f),
    ("kAFS", 0x6b41_4653),
    ("Ceph", 0x00c3_6400),
    ("CIFS", 0xff53_4d42),
    ("Coda", 0x7375_7245),
    ("FUSE", 0x6573_5546),
    ("GFS2", 0x0116_1970),
    ("GPFS", 0x4750_4653),
    ("Lustre", 0x0bd0_0bd0),
    ("NCP", 0x0000_564c),
    ("NFS", 0x0000_6969),
    ("OCFS2", 0x7461_636f),
    ("PanFS", 0xaad7_aaea),
    ("SMB", 0x0000_517b),
    ("SMB2", 0xfe53_4d42),
    ("9p", 0x0102_1997),
    ("vboxsf", 0x786f_4256),
    ("vmhgfs", 0xbacb_acbc),
];

impl Share {
    /// What may be kept of a reply that says that `dir` has node `id`, which has `links` names on the host, under a name.
    pub(super) fn keeps(&self, state: &mut State, dir: NodeId, id: NodeId, links: u32) -> Keep {
        if !self.is_told(state) {
            return Keep::default();
        }
        let engine = &state.engine;
        let entry = engine.tells_entries_of(dir) && engine.is_on_its_name(id);
        Keep { entry: entry && state.is_watched(dir), attr: state.keeps_attributes(id, links) }
    }

    /// Whether it may be kept that `dir` has nothing under a name.
    pub(crate) fn keeps_missing(&self, dir: NodeId) -> bool {
        let state = &mut *self.lock();
        self.is_told(state) && state.engine.tells_entries_of(dir) && state.is_watched(dir)
    }

    /// Whether the attributes of a node may be kept, which has `links` names on the host.
    pub(crate) fn keeps_attributes(&self, id: NodeId, links: u32) -> bool {
        let state = &mut *self.lock();
        self.is_told(state) && state.keeps_attributes(id, links)
    }

    /// Whether the guest may go on using what it has cached of a node's content, or of a directory's listing: then it is
    /// told of each change, and has been told of all up to now.
    pub(crate) fn keeps_content(&self, id: NodeId, links: u32) -> bool {
        if self.is_behind() {
            return false;
        }
        let state = &mut *self.lock();
        self.is_told(state) && state.keeps_attributes(id, links)
    }

    /// Whether what happens on the host is replayed, by an agent that goes on.
    fn is_told(&self, state: &mut State) -> bool {
        let State { engine, pace, .. } = state;
        self.backend.is_some()
            && engine.refreshes()
            && pace.is_going_on(Instant::now(), engine.is_behind())
    }
}

impl State {
    fn keeps_attributes(&self, id: NodeId, links: u32) -> bool {
        let dirs = self.engine.tells_attributes_of(id, links);
        dirs.is_some_and(|dirs| dirs.into_iter().all(|dir| self.is_watched(dir)))
    }

    /// Whether each change in a directory is reported, and replayed in each place where the guest can have cached it. Of an
    /// announced submount there may be a superblock in a mount namespace that the agent does not see.
    fn is_watched(&self, dir: NodeId) -> bool {
        if self.announces_submounts && self.engine.is_in_mount(dir) {
            return false;
        }
        let fid = self.engine.tree().fid(dir);
        fid.is_some_and(|fid| self.file_systems.is_local(&fid)) && !self.unmarked.contains(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_that_does_nothing_though_there_is_something_to_do_counts_as_stopped() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert!(pace.is_going_on(at(0), true));
        assert!(pace.is_going_on(at(499), true));
        assert!(!pace.is_going_on(at(500), true));
        pace.goes_on();
        assert!(pace.is_going_on(at(600), true));
        assert!(!pace.is_going_on(at(1100), true));
        assert!(pace.is_going_on(at(1101), false));
        assert!(pace.is_going_on(at(1102), true));
    }

    #[test]
    fn file_systems_that_others_change_are_not_local() {
        assert!(is_local(0xef53_i64), "ext4");
        assert!(is_local(0x0102_1994_i64), "tmpfs");
        assert!(!is_local(0x6969_i64), "NFS");
        assert!(!is_local(0xff53_4d42_i64), "CIFS");
        assert!(!is_local(0x6573_5546_i64), "FUSE");
        assert!(!is_local(-1_i64));
    }
}
