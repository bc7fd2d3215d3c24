// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Backend`]: what the host's kernel queues for the daemon, by inotify or by fanotify.

use farwatch_proto::host::inotify::WatchId;
use farwatch_proto::{Cookie, Mask, Name};

use crate::config::{Config, Watched};
use crate::fanotify::Fanotify;
use crate::host::{Obj, Pid};
use crate::inotify::Inotify;

/// Something that happened to an entry.
#[derive(Debug)]
pub(crate) struct Happened<'a> {
    pub(crate) who: Pid,
    pub(crate) dir: Obj,
    pub(crate) name: &'a Name,
    pub(crate) object: Obj,
    pub(crate) mask: Mask,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) enum Backend {
    Inotify(Inotify),
    Fanotify(Fanotify),
}

impl Backend {
    pub(crate) fn new(config: &Config) -> Self {
        match config.watched {
            Watched::ByInotify => Self::Inotify(Inotify::new(config.queue_max)),
            Watched::ByFanotify => Self::Fanotify(Fanotify::new(config.queue_max)),
        }
    }

    /// Watches a directory; inotify has a number for that.
    pub(crate) fn mark(&mut self, dir: Obj) -> Option<WatchId> {
        match self {
            Self::Inotify(inotify) => Some(inotify.add(dir)),
            Self::Fanotify(fanotify) => {
                fanotify.mark(dir);
                None
            }
        }
    }

    pub(crate) fn watches(&self, dir: Obj) -> bool {
        match self {
            Self::Inotify(inotify) => inotify.watches(dir),
            Self::Fanotify(fanotify) => fanotify.watches(dir),
        }
    }

    /// How many events wait to be read.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inotify(inotify) => inotify.len(),
            Self::Fanotify(fanotify) => fanotify.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn entry(&mut self, happened: &Happened<'_>) {
        let Happened { who, dir, name, object, mask } = *happened;
        match self {
            Self::Inotify(inotify) => {
                inotify.entry(dir, name, mask, None);
                if mask.contains(Mask::ISDIR) && mask.intersects(Mask::CONTENT) {
                    inotify.itself(object, mask);
                }
            }
            Self::Fanotify(fanotify) => fanotify.entry(who, (dir, name), object, mask),
        }
    }

    pub(crate) fn itself(&mut self, who: Pid, object: Obj, mask: Mask) {
        match self {
            Self::Inotify(inotify) => inotify.itself(object, mask),
            Self::Fanotify(fanotify) => fanotify.itself(who, object, mask),
        }
    }

    /// The first half of a rename; fanotify has the whole.
    pub(crate) fn leaves(
        &mut self,
        who: Pid,
        from: (Obj, &Name),
        to: (Obj, &Name),
        (object, directory): (Obj, bool),
        cookie: Cookie,
    ) {
        match self {
            Self::Inotify(inotify) => {
                let isdir = if directory { Mask::ISDIR } else { Mask::empty() };
                inotify.entry(from.0, from.1, Mask::MOVED_FROM | isdir, Some(cookie));
            }
            Self::Fanotify(fanotify) => fanotify.moved(who, from, to, object, directory),
        }
    }

    /// The second half.
    pub(crate) fn arrives(&mut self, to: (Obj, &Name), directory: bool, cookie: Cookie) {
        if let Self::Inotify(inotify) = self {
            let isdir = if directory { Mask::ISDIR } else { Mask::empty() };
            inotify.entry(to.0, to.1, Mask::MOVED_TO | isdir, Some(cookie));
        }
    }
}
