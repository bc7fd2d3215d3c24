// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The share as the [`Source`] of the sinks in `deliver`.

use std::time::Instant;

use farwatch_proto::Node;
use farwatch_proto::host::{Input, Ticket};
use farwatch_proto::wire::control::Delivery;
use farwatch_proto::wire::{Notification, sync};
use rustix::io::Errno;

use super::{Share, State};
use crate::deliver::{Pulled, Sink, Source, queue, reads};
use crate::device::NotificationSource;

impl State {
    /// Whether notifications go to this sink: the agent that listens has chosen it.
    fn receives(&self, sink: Sink) -> bool {
        match sink {
            Sink::Queue => self.delivery == Some(Delivery::Queue),
            Sink::Reads(link) => {
                self.delivery == Some(Delivery::Reads) && self.engine.link() == Some(link)
            }
        }
    }
}

impl Source for Share {
    fn pull(&self, sink: Sink) -> Pulled {
        let mut state = self.lock();
        if !state.receives(sink) {
            return Pulled::NotReceiving;
        }
        if state.looks && state.engine.is_look_pending() {
            self.wake();
            return Pulled::LookPending;
        }
        let notification = state.engine.send();
        if notification.is_some() {
            state.count_sent();
        }
        self.wake_for_work(&state);
        drop(state);
        let Some(notification) = notification else { return Pulled::Nothing };
        tracing::trace!(?notification, "sent");
        Pulled::Notification(notification)
    }

    fn asked(&self, link: u64) {
        let state = &mut *self.lock();
        if state.engine.link() == Some(link) {
            state.pace.goes_on();
            state.engine.input(Instant::now(), Input::Asked);
        }
    }
}

impl Share {
    /// Whole notifications for agent number `link`, which reads them: `deliver::reads` has the rules.
    pub(crate) fn read(&self, link: u64, len_max: usize, deadline: Option<Instant>) -> Vec<u8> {
        reads::read(self, &self.outbox, link, len_max, deadline)
    }
}

impl NotificationSource for Share {
    fn next(&self, buf: &mut [u8; Notification::LEN_MAX]) -> Option<usize> {
        queue::next(self, buf)
    }

    fn progress(
        &self,
        ticket: Option<Ticket>,
        deadline: Option<Instant>,
    ) -> Result<sync::Answer, Errno> {
        Self::progress(self, ticket, deadline)
    }

    fn kernel_attached(&self, queue: bool, tells: bool) {
        Self::kernel_attached(self, queue, tells);
    }

    fn watch(&self, node: Node, mask: u64) -> Result<u64, Errno> {
        Self::watch(self, node, mask)
    }

    fn hurry(&self) {
        self.outbox.hurry();
    }

    fn reset(&self) {
        self.detach();
    }
}
