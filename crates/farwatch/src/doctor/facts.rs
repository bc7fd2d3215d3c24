// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `probe` sees and `judge` judges: plain data.

use farwatch_sys::fanotify::Level;
use farwatch_sys::kernel::KernelRelease;
use farwatch_sys::thread::CapabilitySet;
use rustix::io::Errno;

use crate::limits::Values;

/// All that the report is made from.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `None` when it is not spelt as Linux spells it.
    pub(super) kernel: Option<KernelRelease>,
    /// What a fanotify group can do, or why there is none.
    pub(super) fanotify: Result<Level, Errno>,
    /// A file was created in a private directory, and the event arrived.
    pub(super) round_trip: Result<(), RoundTripError>,
    /// An inotify instance was opened, and watched the directory to be shared if there is one.
    pub(super) inotify: Result<(), Errno>,
    /// `/dev/fuse` was opened.
    pub(super) fuse_device: Result<(), Errno>,
    /// Effective capabilities.
    pub(super) capabilities: CapabilitySet,
    /// `/proc/sys/fs/...` in the order of [`SYSCTLS`]; `None` for one that is not there.
    pub(super) sysctls: [Option<u64>; SYSCTLS.len()],
    /// The limits of which one may have been reached.
    pub(super) limits: Values,
    /// RLIMIT_NOFILE.
    pub(super) nofile: NoFile,
    /// The directory to be shared.
    pub(super) dir: Option<Result<Dir, Errno>>,
}

/// Why an event did not come, or not as it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RoundTripError {
    /// There is no group to get it.
    NoGroup,
    /// A call on the way failed.
    Failed(Errno),
    /// All calls worked, and there was no event of this process with the name of the file.
    NoEvent,
}

/// RLIMIT_NOFILE; `None` is no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoFile {
    /// In force.
    pub(super) soft: Option<u64>,
    /// What `soft` can be raised to without privilege.
    pub(super) hard: Option<u64>,
}

/// The directory to be shared.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    /// As in `/proc/self/mountinfo`.
    pub(super) fs_type: Option<String>,
    /// `name_to_handle_at(2)` with `AT_HANDLE_FID`.
    pub(super) handle: Result<(), Errno>,
    /// A mark was set and removed; `None` without a group.
    pub(super) mark: Option<Result<(), Errno>>,
}

/// A limit under `/proc/sys`.
#[derive(Debug)]
pub(super) struct Sysctl {
    /// As for `sysctl(8)`.
    pub(super) name: &'static str,
    /// The least value that is comfortable.
    pub(super) floor: u64,
    /// What the value counts.
    pub(super) counts: &'static str,
    /// A group with [`Level::unlimited`] does not care.
    pub(super) lifted: bool,
}

/// The limits that matter: those of the watcher, and those of the programs that watch the mount.
pub(super) const SYSCTLS: [Sysctl; 6] = [
    Sysctl {
        name: "fs.fanotify.max_user_marks",
        floor: 65_536,
        counts: "directories can be watched by fanotify, of all shares of a user",
        lifted: true,
    },
    Sysctl {
        name: "fs.fanotify.max_user_groups",
        floor: 16,
        counts: "shares of a user can be watched by fanotify",
        lifted: false,
    },
    Sysctl {
        name: "fs.fanotify.max_queued_events",
        floor: 16_384,
        counts: "events can wait in fanotify before they overflow",
        lifted: true,
    },
    Sysctl {
        name: "fs.inotify.max_user_watches",
        floor: 65_536,
        counts: "watches can be set by a user's programs, with one for each directory that a guest knows",
        lifted: false,
    },
    Sysctl {
        name: "fs.inotify.max_user_instances",
        floor: 128,
        counts: "programs of a user can watch, with one for each share",
        lifted: false,
    },
    Sysctl {
        name: "fs.inotify.max_queued_events",
        floor: 16_384,
        counts: "events can wait for one program before they overflow",
        lifted: false,
    },
];
