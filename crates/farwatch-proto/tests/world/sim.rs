// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`World`]: everything that takes part, a clock, and locks; and [`run`], which lets one part after
//! the other take its next small step, in an order that a seed decides.
//!
//! Each program, thread and server worker is an async function. It awaits [`World::step`] wherever
//! others can come between, and [`World::lock`] where the kernel would wait for a lock. Nothing
//! runs at the same time and no real time passes, so a seed gives the same run each time.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use farwatch_proto::{Name, NodeId};

use crate::agent::Link;
use crate::config::Config;
use crate::dcache::Kernel;
use crate::host::{Host, Obj};
use crate::programs::Shared;
use crate::rng::Rng;
use crate::server::Server;
use crate::show::show;

/// The name of the agent's task.
pub(crate) const AGENT: &str = "agent";

/// A lock of one of the two kernels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lock {
    /// `s_vfs_rename_mutex` of the host's file system.
    HostRename,
    /// `i_rwsem` of a directory on the host.
    Host(Obj),
    /// `s_vfs_rename_mutex` of the mount.
    Rename,
    /// `i_rwsem` in the guest.
    Dir(NodeId),
    /// A name that somebody is looking up (`d_alloc_parallel()`).
    Lookup(NodeId, Name),
}

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) host: RefCell<Host>,
    pub(crate) server: RefCell<Server>,
    kernel: RefCell<Kernel>,
    start: Instant,
    clock: Cell<Duration>,
    steps: Cell<u64>,
    /// The task that was polled last has gone on from where it was.
    went_on: Cell<bool>,
    /// The earliest time for which a blocked task waits.
    alarm: Cell<Option<Duration>>,
    /// Readers of each lock that is held; 0 stands for a writer.
    locks: RefCell<BTreeMap<Lock, u32>>,
    /// What happened, if somebody wants to read it.
    trace: RefCell<Option<Vec<String>>>,
    current: Cell<&'static str>,
    /// How many programs have not ended.
    pub(crate) running: Cell<usize>,
    /// How many of them are in the middle of an operation.
    pub(crate) busy: Cell<usize>,
    /// What was found wrong before the end.
    failure: RefCell<Option<String>>,
    pub(crate) programs: Shared,
    pub(crate) link: RefCell<Link>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    pub(crate) fn new(config: Config, traced: bool) -> Self {
        let (mut host, kernel) = (Host::new(&config), Kernel::new(&config));
        let mut server = Server::new(&config, host.root());
        server.mark(host.root(), &mut host);
        Self {
            config,
            host: RefCell::new(host),
            server: RefCell::new(server),
            kernel: RefCell::new(kernel),
            start: Instant::now(),
            clock: Cell::new(Duration::from_secs(10)),
            steps: Cell::new(0),
            went_on: Cell::new(false),
            alarm: Cell::new(None),
            locks: RefCell::default(),
            trace: RefCell::new(traced.then(Vec::new)),
            current: Cell::new("-"),
            running: Cell::new(0),
            busy: Cell::new(0),
            failure: RefCell::default(),
            programs: Shared::default(),
            link: RefCell::default(),
        }
    }

    /// The guest's kernel, for as long as nobody else takes a step.
    pub(crate) fn kernel(&self) -> RefMut<'_, Kernel> {
        let mut kernel = self.kernel.borrow_mut();
        (kernel.now, kernel.step) = (self.clock.get(), self.steps.get());
        kernel
    }

    /// The time since the world began.
    pub(crate) fn clock(&self) -> Duration {
        self.clock.get()
    }

    /// The monotonic clock.
    pub(crate) fn now(&self) -> Instant {
        self.start + self.clock.get()
    }

    /// The time of the monotonic clock that [`World::clock`] shows at `at`.
    pub(crate) fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }

    /// The host's wall clock.
    pub(crate) fn wall(&self) -> SystemTime {
        wall(self.clock.get())
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.clock.set(self.clock.get() + time);
    }

    /// Who takes the step that is being made.
    pub(crate) fn current(&self) -> &'static str {
        self.current.get()
    }

    /// How many steps have been made.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Others can come between.
    pub(crate) async fn step(&self) {
        let mut over = false;
        poll_fn(
            |_| {
                if std::mem::replace(&mut over, true) { Poll::Ready(()) } else { Poll::Pending }
            },
        )
        .await;
        self.went_on.set(true);
    }

    /// Waits until `ready`.
    pub(crate) async fn wait(&self, ready: impl Fn() -> bool) {
        self.wait_or(ready, || None).await;
    }

    /// Waits until `ready`, or until the clock shows what `alarm` says.
    pub(crate) async fn wait_or(
        &self,
        ready: impl Fn() -> bool,
        alarm: impl Fn() -> Option<Duration>,
    ) {
        poll_fn(|_| {
            let alarm = alarm();
            if ready() || alarm.is_some_and(|alarm| alarm <= self.clock.get()) {
                return Poll::Ready(());
            }
            self.alarm.set([self.alarm.get(), alarm].into_iter().flatten().min());
            Poll::Pending
        })
        .await;
        self.went_on.set(true);
    }

    /// Waits for a lock, to write.
    pub(crate) async fn lock(&self, lock: Lock) -> Guard<'_> {
        self.wait(|| !self.locks.borrow().contains_key(&lock)).await;
        self.locks.borrow_mut().insert(lock.clone(), 0);
        Guard { world: self, lock }
    }

    /// Waits for a lock, to read.
    pub(crate) async fn lock_shared(&self, lock: Lock) -> Guard<'_> {
        let writes = || self.locks.borrow().get(&lock) == Some(&0);
        self.wait(|| !writes()).await;
        *self.locks.borrow_mut().entry(lock.clone()).or_default() += 1;
        Guard { world: self, lock }
    }

    /// Whether a lock could be had now, to write.
    pub(crate) fn is_free(&self, lock: &Lock) -> bool {
        !self.locks.borrow().contains_key(lock)
    }

    /// Whether a lock could be had now, to read.
    pub(crate) fn is_free_to_read(&self, lock: &Lock) -> bool {
        self.locks.borrow().get(lock) != Some(&0)
    }

    /// Notes what happened, if somebody wants to read it.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut *self.trace.borrow_mut() {
            let (step, clock) = (self.steps.get(), self.clock.get());
            let (clock, what) = (clock.as_secs_f64(), show(&what()));
            trace.push(format!("{step:5} {clock:>10.6} {:8} {what}", self.current.get()));
        }
    }

    /// Something is wrong. The first counts.
    pub(crate) fn fail(&self, wrong: String) {
        self.note(|| wrong.clone());
        self.failure.borrow_mut().get_or_insert(wrong);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        self.trace.borrow_mut().take().unwrap_or_default()
    }
}

/// A time of [`World::clock`] as the wall clock shows it.
pub(crate) fn wall(clock: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1000) + clock
}

/// Holds a lock.
pub(crate) struct Guard<'a> {
    world: &'a World,
    lock: Lock,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut locks = self.world.locks.borrow_mut();
        match locks.get_mut(&self.lock) {
            Some(readers) if *readers > 1 => *readers -= 1,
            Some(_) | None => drop(locks.remove(&self.lock)),
        }
    }
}

/// Somebody who takes part.
pub(crate) struct Task<'a> {
    name: &'static str,
    future: Pin<Box<dyn Future<Output = ()> + 'a>>,
    begun: bool,
}

impl<'a> Task<'a> {
    pub(crate) fn new(name: &'static str, future: impl Future<Output = ()> + 'a) -> Self {
        Self { name, future: Box::pin(future), begun: false }
    }
}

/// In which order tasks take their steps.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    /// How often of 16 times a task goes on where others could have come between.
    pub(crate) stick: usize,
}

/// How a run has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Nothing is left to be done, and none of the programs waits for ever.
    Rest,
    /// Programs wait for each other.
    Deadlock,
    /// It went on for longer than anything can take.
    Endless,
}

/// The most steps of one case: some hundred times what one needs.
const STEPS_MAX: u64 = 200_000;

/// Lets the tasks take their steps until nothing is left to be done, and for a second more.
pub(crate) fn run(world: &World, mut tasks: Vec<Task<'_>>, schedule: &Schedule) -> End {
    let mut rng = Rng::new(schedule.seed);
    let mut context = Context::from_waker(Waker::noop());
    let mut weights = vec![1; tasks.len()];
    let mut blocked = vec![false; tasks.len()];
    let mut last = 0;
    let mut rested = false;
    while world.steps.get() < STEPS_MAX {
        if rng.one_in(24) {
            weights.iter_mut().for_each(|weight| *weight = rng.pick(&[0, 1, 1, 4, 4, 16]));
        }
        let Some(next) = choose(&mut rng, &weights, &blocked, last, schedule) else {
            let alarm = world.alarm.take();
            let late = world.running.get() == 0 && rested;
            let Some(alarm) = alarm.filter(|_| !late) else {
                if world.running.get() > 0 {
                    return End::Deadlock;
                }
                if std::mem::replace(&mut rested, true) {
                    return End::Rest;
                }
                world.pass(Duration::from_secs(1));
                blocked.fill(false);
                continue;
            };
            world.clock.set(world.clock.get().max(alarm));
            blocked.fill(false);
            continue;
        };
        world.current.set(tasks[next].name);
        world.went_on.set(!std::mem::replace(&mut tasks[next].begun, true));
        let polled = tasks[next].future.as_mut().poll(&mut context);
        last = next;
        if polled.is_ready() {
            tasks.swap_remove(next);
            weights.swap_remove(next);
            blocked.pop();
            last = 0;
        } else if !world.went_on.get() {
            blocked[next] = true;
            continue;
        }
        blocked.fill(false);
        world.alarm.set(None);
        world.steps.set(world.steps.get() + 1);
        world.pass(if !world.config.calm && rng.one_in(48) {
            Duration::from_micros(rng.pick(&[500, 4_000, 11_000, 120_000, 600_000, 1_100_000]))
        } else {
            Duration::from_nanos(1 + rng.next() % 20_000)
        });
    }
    End::Endless
}

/// One of those that are not blocked, by their weights.
fn choose(
    rng: &mut Rng,
    weights: &[usize],
    blocked: &[bool],
    last: usize,
    schedule: &Schedule,
) -> Option<usize> {
    if last < blocked.len() && !blocked[last] && rng.below(16) < schedule.stick {
        return Some(last);
    }
    let ready = || (0..blocked.len()).filter(|nth| !blocked[*nth]);
    let sum: usize = ready().map(|nth| weights[nth]).sum();
    if sum == 0 {
        let count = ready().count();
        return (count > 0).then(|| ready().nth(rng.below(count)).expect("there are so many"));
    }
    let mut at = rng.below(sum);
    ready().find(|nth| {
        let hit = at < weights[*nth];
        at = at.saturating_sub(weights[*nth]);
        hit
    })
}
