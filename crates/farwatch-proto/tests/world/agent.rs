// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent in the guest: it takes notifications, joins the halves of renames and has them replayed
//! (`farwatch-guest`, `run.rs`). It ends and comes back when a program asks for that.

use std::collections::VecDeque;
use std::time::Duration;

use farwatch_proto::Seq;
use farwatch_proto::guest::join::Join;
use farwatch_proto::wire::Notification;

use crate::config::{Client, Delivery};
use crate::replay::Replayer;
use crate::sim::World;

/// Messages on their way to the agent.
#[derive(Debug, Default)]
pub(crate) struct Link {
    messages: VecDeque<Vec<u8>>,
    pub(crate) listens: bool,
    /// The driver has given a buffer back.
    kicked: bool,
    /// There was an agent before this one.
    pub(crate) was_away: bool,
    /// The agent is to end, and another begins at that time.
    pub(crate) dies: Option<Duration>,
}

impl World {
    /// The device: hands a message out whenever a buffer is free (`Delivery::Queue`).
    pub(crate) async fn pump(&self) {
        let Delivery::Queue(buffers) = self.config.delivery else { return };
        loop {
            self.wait(|| {
                let link = self.link.borrow();
                let free = link.messages.len() < buffers;
                free && (link.kicked || self.server.borrow().can_send())
            })
            .await;
            self.link.borrow_mut().kicked = false;
            self.deliver();
            self.step().await;
        }
    }

    /// `Share::pull()`: the next message. `false` when there is none, or the watch thread has to look
    /// first at what it is about.
    fn deliver(&self) -> bool {
        let server = &mut *self.server.borrow_mut();
        if server.is_look_pending() {
            server.work = true;
            return false;
        }
        let Some(notification) = server.send() else { return false };
        self.note(|| format!("sends {notification:?}"));
        let bytes = notification.encode(&mut [0; Notification::LEN_MAX]).to_vec();
        self.link.borrow_mut().messages.push_back(bytes);
        true
    }

    /// One READ of the control node.
    async fn read_link(&self, len_max: usize) {
        self.server.borrow_mut().asked(self);
        for _ in 0..len_max {
            self.step().await;
            if !self.deliver() {
                break;
            }
        }
    }

    /// One agent after the other.
    pub(crate) async fn agent(&self) {
        loop {
            self.server.borrow_mut().listen(self);
            (self.link.borrow_mut().listens, self.link.borrow_mut().kicked) = (true, true);
            self.note(|| "listens".to_owned());
            self.run_agent().await;
            // The control node is closed.
            self.server.borrow_mut().detach();
            let back = {
                let link = &mut *self.link.borrow_mut();
                link.messages.clear();
                link.listens = false;
                link.was_away = true;
                link.dies.take()
            };
            self.note(|| "is gone".to_owned());
            self.step().await;
            self.wait_or(|| false, || back).await;
        }
    }

    pub(crate) fn agent_dies(&self) -> bool {
        self.link.borrow().dies.is_some()
    }

    /// `run()`
    async fn run_agent(&self) {
        let mut replayer = Replayer::new(self);
        let mut join = Join::new();
        let mut seq = Seq::FIRST;
        while !self.agent_dies() {
            match self.receive(&join).await {
                Some(bytes) => {
                    let notification = Notification::decode(&bytes).expect("the server made it");
                    join.handle(self.now(), seq, notification);
                    seq = seq.next();
                }
                None => join.handle_timeout(self.now()),
            }
            while let Some(joined) = join.poll_output() {
                self.note(|| {
                    format!("replays {:?} {:?} {:?}", joined.seq, joined.mate, joined.event)
                });
                match self.config.client {
                    Client::Agent => replayer.replay(joined).await,
                    Client::Kernel | Client::Module => self.raise(joined.event).await,
                }
                if self.agent_dies() {
                    return;
                }
            }
            self.step().await;
        }
    }

    /// The next message; `None` when a half has waited long enough, or the agent is to end.
    async fn receive(&self, join: &Join) -> Option<Vec<u8>> {
        if let Delivery::Reads(len_max) = self.config.delivery
            && self.link.borrow().messages.is_empty()
        {
            self.read_link(len_max).await;
        }
        let due = || join.poll_timeout().map(|at| self.since_start(at));
        let ready = || {
            let reads = matches!(self.config.delivery, Delivery::Reads(_));
            let link = self.link.borrow();
            link.dies.is_some()
                || !link.messages.is_empty()
                || (reads && self.server.borrow().can_send())
        };
        self.wait_or(ready, due).await;
        if let Delivery::Reads(len_max) = self.config.delivery
            && self.link.borrow().messages.is_empty()
        {
            self.read_link(len_max).await;
        }
        let link = &mut *self.link.borrow_mut();
        link.kicked = true;
        link.messages.pop_front()
    }
}
