// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Twice`]: what happens to a watched directory is reported by its name, for the watch on the one above
//! it, and then without, for its own. It is told once.
//!
//! The kernel queues the two one after the other and not at once, so the queue can be found empty in
//! between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{Fid, Mask};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Twice {
    /// How often, and when last, each event of a directory was reported by name and not yet without.
    named: BTreeMap<(Fid, u64), (u32, Instant)>,
    now: Option<Instant>,
}

impl Twice {
    /// After so long the second report does not come any more: the directory's own watch has ended.
    const WAIT_MAX: Duration = Duration::from_secs(1);

    /// It is `now`.
    pub(super) fn at(&mut self, now: Instant) {
        self.now = Some(now);
        self.named.retain(|_, (_, last)| now.saturating_duration_since(*last) < Self::WAIT_MAX);
    }

    /// These events of a directory were reported by its name.
    pub(super) fn named(&mut self, dir: &Fid, events: Mask) {
        let Some(now) = self.now else { return };
        for event in events.iter() {
            let (times, last) = self.named.entry((dir.clone(), event.bits())).or_insert((0, now));
            (*times, *last) = (*times + 1, now);
        }
    }

    /// An event of a directory was reported without a name: `true` if it has been by name.
    pub(super) fn takes(&mut self, dir: &Fid, event: Mask) -> bool {
        let key = (dir.clone(), event.bits());
        let Some((times, _)) = self.named.get_mut(&key) else { return false };
        *times -= 1;
        if *times == 0 {
            self.named.remove(&key);
        }
        true
    }

    /// Reports were lost.
    pub(super) fn clear(&mut self) {
        self.named.clear();
    }
}
