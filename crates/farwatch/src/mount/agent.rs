// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The agent of a mount: a thread that replays what the notification queue brings.
//!
//! The thread has a descriptor table of its own from before `/dev/fuse` is opened. While it waits in
//! the kernel for the answer to a request, it must not be the one who keeps that file open: if the
//! process is killed, the kernel closes the file, every request fails, and the thread can go.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context as _;
use farwatch_guest::{
    Announcement, Error, Link, MountRoot, Progress, Receive, Received, Report, Superblocks,
};
use farwatch_proto::wire::Notification;
use farwatch_proto::wire::control::Delivery;

use crate::driver::{self, NotificationQueue, Stopper};
use crate::replay_cpu::{Follower, ReplayCpu};

/// A thread that waits to be told the mount point.
pub(super) struct Prepared {
    mount_point: Sender<PathBuf>,
    attached: Receiver<Result<(), NotAttached>>,
    thread: JoinHandle<()>,
}

/// A thread that replays.
pub(super) struct Agent(JoinHandle<()>);

/// Why a thread does not replay, and what it would have taken notifications from.
struct NotAttached {
    error: Error,
    queue: NotificationQueue,
}

/// Who raises the events.
pub(super) enum Raised {
    /// The agent.
    By(Agent),
    /// The server has another client already. If that is the kernel, the notifications are for it.
    ByAnother(NotificationQueue),
    /// Nobody: no farwatch is behind the mount.
    ByNobody,
}

/// Logged when the file that announces events cannot be made.
pub(super) const NOT_ANNOUNCED: &str =
    "/run/farwatch/events does not show that events are delivered";

/// Notifications, and where they are replayed.
struct Source {
    queue: NotificationQueue,
    follower: Option<Follower>,
}

impl Receive for Source {
    fn receive(
        &mut self,
        deadline: Option<Instant>,
        buf: &mut [u8; Notification::LEN_MAX],
    ) -> io::Result<Received> {
        match self.queue.receive(deadline, buf).map_err(io::Error::other)? {
            driver::Received::Message(len) => {
                if let Some(follower) = &mut self.follower {
                    follower.replays();
                }
                Ok(Received::Message(len))
            }
            driver::Received::TimedOut => Ok(Received::TimedOut),
            driver::Received::Closed => Ok(Received::Closed),
        }
    }
}

impl Agent {
    /// Starts the thread, which replays on `cpu`, if that is given. To be called before `/dev/fuse` is opened.
    pub(super) fn prepare(
        queue: NotificationQueue,
        cpu: Option<Arc<ReplayCpu>>,
    ) -> anyhow::Result<Prepared> {
        let source = Source { queue, follower: cpu.map(Follower::new) };
        let (mount_point, mounted) = channel::<PathBuf>();
        let (ready, is_ready) = channel();
        let (attached_tx, attached) = channel();
        let thread = thread::Builder::new().name("agent".into()).spawn(move || {
            let unshared = farwatch_sys::thread::unshare_files();
            let go = unshared.is_ok();
            if ready.send(unshared).is_err() || !go {
                return;
            }
            let Ok(mount_point) = mounted.recv() else { return };
            run(&mount_point, source, &attached_tx);
        })?;
        is_ready.recv().context("the agent's thread exited")??;
        Ok(Prepared { mount_point, attached, thread })
    }

    /// Waits for the agent to end: it does when the queue is closed.
    pub(super) fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the agent's thread panicked");
        }
    }
}

impl Prepared {
    /// Tells the thread where the share is mounted now, and waits until it is welcome there.
    pub(super) fn attach(self, mount_point: &Path, stopper: &Stopper) -> anyhow::Result<Raised> {
        let sent = self.mount_point.send(mount_point.to_owned());
        sent.ok().context("the agent's thread exited")?;
        match self.attached.recv().context("the agent's thread exited")? {
            Ok(()) => Ok(Raised::By(Agent(self.thread))),
            Err(NotAttached { error: error @ Error::NoControlNode(_), .. }) => {
                tracing::warn!(%error);
                Ok(Raised::ByNobody)
            }
            Err(NotAttached { error: Error::Busy, queue }) => Ok(Raised::ByAnother(queue)),
            Err(NotAttached { error, .. }) => {
                stopper.stop();
                Err(error.into())
            }
        }
    }
}

fn run(mount_point: &Path, mut source: Source, attached: &Sender<Result<(), NotAttached>>) {
    let linked = MountRoot::open(mount_point).and_then(|root| {
        // Before the thread has the uid of its tags.
        let announcement = Announcement::prepare(&root);
        Link::open(&root, Delivery::Queue).map(|link| (root, link, announcement))
    });
    let (root, link, announcement) = match linked {
        Ok(linked) => linked,
        Err(error) => {
            // Whoever waits for this has it, or has given up.
            drop(attached.send(Err(NotAttached { error, queue: source.queue })));
            return;
        }
    };
    let announced = announcement.and_then(|made| made.publish().map(|()| made));
    if let Err(error) = &announced {
        tracing::warn!(%error, "{}", NOT_ANNOUNCED);
    }
    if attached.send(Ok(())).is_err() {
        return;
    }
    let mut superblocks = Superblocks::new(root);
    let progress = Progress::default();
    match farwatch_guest::run(&mut source, &mut superblocks, link.welcome().next_seq, &progress) {
        Ok(()) => {
            let Report { received, undecoded, calls, failed, overflows } = progress.report();
            tracing::info!(received, undecoded, calls, failed, overflows, "the agent exits");
        }
        Err(error) => {
            tracing::error!(%error, "delivering events failed: no more events; mount again");
        }
    }
}
