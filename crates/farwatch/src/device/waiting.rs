// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Waiting`]: requests that are answered when something happens, off the queues' threads.
//!
//! The agent of a stock guest posts a READ on the control node and gets its answer when there is something
//! to tell, or after a bounded time (the file system's); a program that waits for a barrier gets its own
//! likewise, and one that asks for what is ahead of events. A stock guest has one request queue, or one a CPU: a
//! request that waited on the queue's own thread would make every other request wait with it. So it is
//! handed to this thread, and the queue goes on. Each of the three kinds has a thread, since the others
//! wait for the agent, which waits for the first. Of the first two kinds one waits at a time, and the others behind
//! it: barriers are reached in the order in which they were asked for. The third has several threads, and none waits
//! behind another: the guest's kernel holds locks over each, and a replay that another waits for may need them.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::thread;

use virtiofsd::filesystem::FileSystem;
use vm_memory::GuestMemoryLoadGuard;

use super::Memory;
use super::desk::Desk;
use super::lane::{Jobs, Lane, lane};
use super::request::Requests;
use super::taken::Taken;

/// Requests that may wait for a thread. A mount has one agent, and an agent one READ. Those beyond are
/// answered at once by the queue's own thread, with what there is; and so is one that holds too much of its queue.
pub(super) const WAITING_MAX: usize = 4;

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
    static PUTTING_OFF: Cell<PuttingOff> = const { Cell::new(PuttingOff::Impossible) };
}

/// Whether the request that this thread serves is served again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PuttingOff {
    /// It cannot.
    Impossible,
    /// It can.
    Possible,
    /// It is.
    Wanted,
}

/// Asks that the request that this thread serves is served again by a thread that may wait, whatever it is answered
/// now. `false` if that cannot be. The file system calls this, before it has changed anything.
pub(crate) fn put_off() -> bool {
    let possible = PUTTING_OFF.get() != PuttingOff::Impossible;
    if possible {
        PUTTING_OFF.set(PuttingOff::Wanted);
    }
    possible
}

/// Serves a request, which may be put off. `None` if it is.
pub(super) fn unless_put_off(serve: impl FnOnce() -> u32) -> Option<u32> {
    PUTTING_OFF.set(PuttingOff::Possible);
    let len = serve();
    let wanted = PUTTING_OFF.replace(PuttingOff::Impossible) == PuttingOff::Wanted;
    (!wanted).then_some(len)
}

/// Whether the request that this thread serves may wait for something to happen on the host. The file
/// system asks this.
pub(crate) fn may_wait() -> bool {
    MAY_WAIT.get()
}

/// A request, and the memory that it lies in.
type Job = (Taken, GuestMemoryLoadGuard<Memory>);

/// The way to the thread, which ends when this is dropped.
pub(super) struct Waiting(Lane<Job>);

impl Waiting {
    /// Starts the thread, under a name. `waiting_max` requests may wait for it.
    pub(super) fn start<F>(
        name: &str,
        requests: Arc<Requests<F>>,
        waiting_max: usize,
    ) -> io::Result<Self>
    where
        F: FileSystem + Send + Sync + 'static,
    {
        let (lane, jobs) = lane(waiting_max);
        let desk = Desk::new()?;
        thread::Builder::new().name(name.to_owned()).spawn(move || run(&requests, desk, &jobs))?;
        Ok(Self(lane))
    }

    /// Hands a request to the thread, or gives it back when it must not wait.
    pub(super) fn push(
        &self,
        taken: Taken,
        mem: GuestMemoryLoadGuard<Memory>,
    ) -> Result<(), Taken> {
        if taken.holds_too_much_to_wait() {
            return Err(taken);
        }
        self.0.push((taken, mem)).map_err(|(taken, _)| taken)
    }

    /// Returns when no request of the past is waiting. With the requests closed, that is soon.
    pub(super) fn drain(&self) {
        self.0.drain();
    }
}

fn run<F: FileSystem + Sync>(requests: &Requests<F>, mut desk: Desk, jobs: &Jobs<Job>) {
    MAY_WAIT.set(true);
    jobs.serve(&requests.gate, |(taken, mem)| {
        let len = requests.serve(desk.fetch(&mem, taken.chain.clone()));
        taken.complete(len);
    });
}
