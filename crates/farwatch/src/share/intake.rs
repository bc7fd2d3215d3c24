// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The share as the [`Intake`] of the watch thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use farwatch_proto::host::{Check, Checked, Listing, Look, ReadMark, Rescan, Tree};
use farwatch_proto::{FileKind, NodeId};

use super::Share;
use crate::watch::{Backend, Dropped, Intake, Observed};

impl Intake for Share {
    fn backend(&self) -> Option<&dyn Backend> {
        self.backend.as_deref()
    }

    fn watch_begins(&self, work: Arc<OwnedFd>) {
        // A second watch thread would find every directory listed by the first.
        let _first = self.work.set(work);
        self.lock().looks = true;
    }

    /// Events that wait for a look on the host are sent without one from now on.
    fn watch_ended(&self) {
        self.lock().looks = false;
        self.outbox.wake();
    }

    fn inspect(&self, look: &mut dyn FnMut(&Tree)) {
        look(self.lock().engine.tree());
    }

    fn take_in(&self, observe: &mut dyn FnMut(&Tree) -> Observed) -> bool {
        let engine = &mut self.lock().engine;
        let Observed { changes, drained } = observe(engine.tree());
        for change in changes {
            tracing::trace!(?change, "observed");
            engine.handle_change(change);
        }
        if let Some(at) = drained {
            engine.handle_drained(at);
        }
        engine.has_next()
    }

    fn open_dir(&self, id: NodeId) -> Option<Arc<OwnedFd>> {
        self.open_known_dir(id)
    }

    fn dir_at_hand(&self, id: NodeId) -> Option<Arc<OwnedFd>> {
        self.lock().dirs.at_hand(id)
    }

    fn poll_look(&self) -> Option<Look> {
        self.lock().engine.poll_look()
    }

    fn handle_look(&self, look: &Look, found: FileKind) {
        self.lock().engine.handle_look(look, found);
    }

    fn wake_sinks(&self) {
        self.outbox.wake();
    }

    fn poll_rescan(&self, now: Instant) -> Option<Rescan> {
        self.lock().engine.poll_rescan(now)
    }

    fn handle_listing(&self, now: Instant, listing: Listing) {
        self.lock().engine.handle_listing(now, listing);
    }

    fn handle_unlisted(&self, now: Instant) {
        self.lock().engine.handle_unlisted(now);
    }

    fn rescan_timeout(&self) -> Option<Instant> {
        self.lock().engine.rescan_timeout()
    }

    fn dropped(&self) -> Dropped {
        let engine = &self.lock().engine;
        Dropped { dirs: engine.stale_len(), events: engine.events_forgotten() }
    }

    fn to_read(&self) -> Option<ReadMark> {
        self.lock().engine.to_read()
    }

    fn handle_read(&self, mark: ReadMark) -> bool {
        let engine = &mut self.lock().engine;
        engine.handle_read(mark);
        engine.poll_probes(Instant::now());
        engine.has_next()
    }

    fn poll_probes(&self) -> bool {
        self.lock().engine.poll_probes(Instant::now())
    }

    fn poll_check(&self, now: Instant) -> Option<Check> {
        self.lock().engine.poll_check(now)
    }

    fn handle_checked(&self, now: Instant, check: Check, checked: Checked) {
        self.lock().engine.handle_checked(now, check, checked);
    }

    fn handle_unchecked(&self, now: Instant, check: Check) {
        self.lock().engine.handle_unchecked(now, check);
    }

    fn check_timeout(&self) -> Option<Instant> {
        self.lock().engine.check_timeout()
    }
}
