// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Supervisor`]: the thread that notices why a session ends, and ends the service.
//!
//! It serves no request and waits for nothing that the device owes us. It exists apart from the
//! workers, and from the caller's thread, so that the death of the device is noticed while either
//! waits for the device.
//!
//! ```text
//!             ┌─ stop request ──▶ Stopped ───── the session unmounts, at most UNMOUNT_WAIT ──┐
//!   serving ──┼─ mount gone ────▶ Unmounted ─── the last user of the superblock goes ────────┤
//!             ├─ device gone ───▶ DeviceGone ────────────────────────────────────────────────┤
//!             └─ a worker ended ▶ Unmounted or an error ─────────────────────────────────────┴▶ halt
//! ```
//! Each arrow out of a later state is also taken when the device or a worker goes.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{Epoll, EpollEvent, EventSet};

use super::Ended;
use super::error::Error;
use super::forward::Halt;
use super::mount_watch::{MountId, MountWatch};
use super::service::Service;
use super::signal::{self, Signal};

/// How long unmounting may wait for a device that is at work before the connection is cut.
const UNMOUNT_WAIT: Duration = Duration::from_secs(10);
/// How long it may wait until the device is asked whether it is there, and that for the answer. The two together are
/// less than a second, after which whoever has sent SIGTERM takes the driver for stuck.
const ANSWER_WAIT: Duration = Duration::from_millis(400);

/// How the session ended, once that is known.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    ended: Mutex<Option<Result<Ended, Arc<Error>>>>,
    known: Condvar,
}

impl Outcome {
    /// Waits until it is known.
    pub(super) fn wait(&self) -> Result<Ended, Arc<Error>> {
        let mut ended = self.lock();
        loop {
            match &*ended {
                Some(ended) => return ended.clone(),
                None => ended = self.known.wait(ended).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Whether it is known to be `ended`.
    pub(super) fn is(&self, ended: Ended) -> bool {
        matches!(&*self.lock(), Some(Ok(known)) if *known == ended)
    }

    /// The first one counts.
    fn set(&self, ended: Result<Ended, Arc<Error>>) {
        self.lock().get_or_insert(ended);
        self.known.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Result<Ended, Arc<Error>>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the session and its supervisor tell each other.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// Someone wants the session to end.
    pub(super) stop: Signal,
    /// The session has begun to unmount.
    pub(super) unmounting: Signal,
    /// The session has unmounted.
    pub(super) unmounted: Signal,
    /// The end of the workers.
    pub(super) halt: Halt,
    /// The end of the notification queue, raised as soon as the outcome is known.
    pub(super) closed: Signal,
    /// The outcome.
    pub(super) outcome: Arc<Outcome>,
}

impl Orders {
    /// Nothing told yet.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            stop: Signal::new()?,
            unmounting: Signal::new()?,
            unmounted: Signal::new()?,
            halt: Halt { stop: Signal::new()?, at_once: Signal::new()? },
            closed: Signal::new()?,
            outcome: Arc::default(),
        })
    }

    fn tell(&self, ended: Result<Ended, Arc<Error>>) {
        self.outcome.set(ended);
        self.closed.raise();
    }
}

/// What wakes a supervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Input {
    Stop,
    Unmounting,
    Unmounted,
    DeviceGone,
    MountGone,
    ServiceEnded,
    TimedOut,
}

/// Watches over the workers of a session.
#[derive(Debug)]
pub(super) struct Supervisor {
    orders: Orders,
    device: UnixStream,
    mount: MountWatch,
    service: Service,
}

impl Supervisor {
    /// Starts the supervisor over `service`; `device` is the socket of the device, `mount` the mount of the FUSE
    /// connection. The connection closes when the service has ended.
    pub(super) fn start(
        orders: Orders,
        device: UnixStream,
        mount: MountId,
        service: Service,
    ) -> Result<JoinHandle<()>, Error> {
        let stop = orders.halt.stop.clone();
        MountWatch::new(mount)
            .map_err(Error::system("opening the mount table"))
            .and_then(|mount| {
                let supervisor = Self { orders, device, mount, service };
                thread::Builder::new()
                    .name("farwatch-super".into())
                    .spawn(move || supervisor.run())
                    .map_err(Error::system("starting a thread"))
            })
            .inspect_err(|_| stop.raise())
    }

    fn run(mut self) {
        let mut ended = self.supervise();
        if ended.is_err() {
            self.orders.halt.at_once.raise();
        }
        self.orders.halt.stop.raise();
        let Self { orders, service, .. } = self;
        if let Err(error) = service.end(&orders.halt) {
            ended = Err(error);
        }
        // With the service the FUSE connection is gone: every request has failed by now.
        orders.tell(ended.map_err(Arc::new));
    }

    /// From serving to the point where the workers are to end; gives the last reason.
    fn supervise(&mut self) -> Result<Ended, Error> {
        use Input::{MountGone, Stop, TimedOut, Unmounted, Unmounting};
        Ok(match self.next(&[Stop, MountGone], None)? {
            Stop => {
                self.orders.tell(Ok(Ended::Stopped));
                let deadline = Instant::now() + UNMOUNT_WAIT;
                // Before it unmounts, the session waits for the agent, which may wait for the device.
                for step in [Unmounting, Unmounted] {
                    let input = self.next_if_it_answers(step, deadline)?;
                    if input == TimedOut {
                        self.orders.halt.at_once.raise();
                    }
                    if input != step {
                        break;
                    }
                }
                Ended::Stopped
            }
            MountGone => {
                self.orders.tell(Ok(Ended::Unmounted));
                self.next(&[Stop], None)?;
                Ended::Unmounted
            }
            Input::DeviceGone => Ended::DeviceGone,
            // It ends with the connection, which ends with the mount, or with the device, or by somebody's hand
            // (/sys/fs/fuse/connections). A mount that is still there is of no use.
            Input::ServiceEnded if self.is_mounted()? => Ended::DeviceGone,
            Input::ServiceEnded | Unmounting | Unmounted | TimedOut => Ended::Unmounted,
        })
    }

    fn is_mounted(&mut self) -> Result<bool, Error> {
        let mount_point = self.mount.mount_point();
        Ok(mount_point.map_err(Error::system("reading the mount table"))?.is_some())
    }

    /// Sleeps until `wanted` happens, the device or the service goes, `until` comes, or the device does not answer any
    /// more.
    fn next_if_it_answers(&mut self, wanted: Input, until: Instant) -> Result<Input, Error> {
        loop {
            let input = self.next(&[wanted], Some(until.min(Instant::now() + ANSWER_WAIT)))?;
            if input != Input::TimedOut {
                return Ok(input);
            }
            if Instant::now() >= until {
                tracing::warn!("unmounting takes too long: aborting the FUSE connection");
                return Ok(input);
            }
            if !self.service.answers(ANSWER_WAIT)? {
                tracing::warn!("the device does not answer: aborting the FUSE connection");
                return Ok(input);
            }
        }
    }

    /// Sleeps until one of `wanted` happens, the device goes, a worker ends, or `until` comes.
    fn next(&mut self, wanted: &[Input], until: Option<Instant>) -> Result<Input, Error> {
        let input = self.sleep(wanted, until).map_err(Error::system("supervising the session"))?;
        if input == Input::DeviceGone {
            self.orders.halt.at_once.raise();
        }
        Ok(input)
    }

    fn sleep(&mut self, wanted: &[Input], until: Option<Instant>) -> io::Result<Input> {
        let epoll = Epoll::new()?;
        let always = [Input::DeviceGone, Input::ServiceEnded];
        let sources: Vec<Input> = always.iter().chain(wanted).copied().collect();
        for (token, input) in (0u64..).zip(&sources) {
            match input {
                Input::Stop => self.orders.stop.register(&epoll, token)?,
                Input::Unmounting => self.orders.unmounting.register(&epoll, token)?,
                Input::Unmounted => self.orders.unmounted.register(&epoll, token)?,
                Input::ServiceEnded => self.service.register_end(&epoll, token)?,
                Input::DeviceGone => {
                    signal::register(&epoll, &self.device, EventSet::READ_HANG_UP, token)?;
                }
                Input::MountGone => self.mount.register(&epoll, token)?,
                Input::TimedOut => {}
            }
        }
        loop {
            if wanted.contains(&Input::MountGone) && self.mount.mount_point()?.is_none() {
                return Ok(Input::MountGone);
            }
            let mut event = [EpollEvent::default()];
            if signal::wait(&epoll, &mut event, until)? == 0 {
                return Ok(Input::TimedOut);
            }
            let nth = usize::try_from(event[0].data()).expect("a token of ours");
            if sources[nth] != Input::MountGone {
                return Ok(sources[nth]);
            }
        }
    }
}
