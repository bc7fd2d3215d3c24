// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client that is far behind: comparisons of directories overtake the events that wait.
//!
//! A replay takes about a hundred times as long as what it replays. Below the limits here, each event is delivered all
//! the same. Past them, the events of a directory are dropped if they are many about few names, and the directory is
//! compared.

use std::time::{Duration, Instant};

use super::Engine;

impl Engine {
    /// Events that waited less long are delivered one by one.
    pub(super) const BEHIND_MAX: Duration = Duration::from_secs(2);
    /// So are fewer than that, or than half of a backlog that is smaller.
    const CROWD_MIN: usize = 1 << 10;
    /// The pause between two looks at the backlog, each of which takes some milliseconds.
    const PAUSE: Duration = Duration::from_secs(1);

    /// When to call [`Engine::overtake`] at the latest.
    pub(super) fn overtake_at(&self) -> Option<Instant> {
        let crowd_min = Self::CROWD_MIN.min(self.backlog.len_max() / 2);
        let late_at = self.backlog.waits_since(crowd_min)?.checked_add(Self::BEHIND_MAX)?;
        let again = self.looked_behind.and_then(|at| at.checked_add(Self::PAUSE));
        Some(again.map_or(late_at, |again| again.max(late_at)))
    }

    /// Has comparisons overtake what waits, if it has waited too long.
    pub(super) fn overtake(&mut self, now: Instant) {
        if !self.is_listening() || self.overtake_at().is_none_or(|at| at > now) {
            return;
        }
        self.looked_behind = Some(now);
        let dropped = self.backlog.drop_crowds();
        if dropped.is_empty() {
            return;
        }
        for (dir, in_step) in dropped {
            self.nets.overtook(dir, in_step, &self.tree);
        }
        // A barrier that was asked for before waits for the comparisons.
        let owed = self.owed();
        self.barriers.postpone(owed);
        self.has_news = true;
    }
}
