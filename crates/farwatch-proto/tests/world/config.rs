// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Config`]: what differs from one installation to another, and is drawn for each case.

use std::time::Duration;

use crate::faults::Fault;
use crate::ops::Family;
use crate::rng::Rng;

/// How the host is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watched {
    ByInotify,
    ByFanotify,
}

/// How the agent gets its notifications.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    /// By a notification queue with so many buffers.
    Queue(usize),
    /// By READs, of which each takes so many at most.
    Reads(usize),
}

/// Who raises the events in the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    /// An agent, by replay.
    Agent,
    /// The guest's kernel, which says what is watched.
    Kernel,
    /// The guest's kernel, by a module, which does not say it.
    Module,
}

/// What has little room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limits {
    None,
    /// The engine's backlog.
    Backlog,
    /// The queue of the host's kernel.
    Queue,
}

/// What is checked of the watches on objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Objects {
    /// Nothing.
    Unchecked,
    /// The watch on an object that exists has not ended.
    Live,
    /// That, and the watch on an object that is gone has ended.
    LiveAndEnd,
}

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    pub(crate) watched: Watched,
    pub(crate) delivery: Delivery,
    /// How long the guest may keep names and attributes (`--cache`).
    pub(crate) timeout: Duration,
    /// The guest's kernel drops a dentry that is out of date with its last user
    /// (`fuse_dentry_delete()`), as virtiofs has it.
    pub(crate) deletes_stale: bool,
    /// How many events may wait in the engine.
    pub(crate) backlog_max: Option<usize>,
    /// How many reports the host's kernel has room for.
    pub(crate) queue_max: usize,
    /// The most reports that one read returns.
    pub(crate) read_max: usize,
    /// A file that is found under a name is known by it even if the name was changed in between.
    pub(crate) identifies: bool,
    pub(crate) objects: Objects,
    /// The events are to equal the host's.
    pub(crate) exact: bool,
    /// One program alone changes something on the host.
    pub(crate) alone: bool,
    /// Time passes where everybody waits, and hardly anywhere else.
    pub(crate) calm: bool,
    pub(crate) client: Client,
    pub(crate) fault: Option<Fault>,
}

impl Config {
    pub(crate) fn draw(rng: &mut Rng, family: &Family) -> Self {
        let (backlog_max, queue_max) = match family.limits {
            Limits::None => (None, usize::MAX),
            Limits::Backlog => (Some(4), usize::MAX),
            Limits::Queue => (None, rng.pick(&[2, 4, 8])),
        };
        Self {
            watched: family.watched,
            delivery: rng.pick(&[
                Delivery::Queue(1),
                Delivery::Queue(4),
                Delivery::Reads(2),
                Delivery::Reads(16),
            ]),
            timeout: rng.pick(&[0, 1, 1, 86_400].map(Duration::from_secs)),
            deletes_stale: rng.one_in(2),
            backlog_max,
            queue_max,
            read_max: rng.pick(&[1, 3, 100]),
            identifies: family.identifies,
            objects: family.objects,
            exact: family.exact,
            alone: family.hosts == 1,
            calm: family.exact || rng.one_in(2),
            client: family.client,
            fault: family.fault,
        }
    }
}
