// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`frontend`]: a hostile frontend with its guest, against the device of `farwatch serve` in this process.
//!
//! An input is a program ([`session::Session`]): messages of vhost-user, rings and descriptors, FUSE requests with and
//! without the tags of an agent, frames of the control node, states of a migration, changes on the host. Whatever it is:
//!
//! - nothing panics, also where a panic would be caught, and the device gives an answer to whoever keeps the rules;
//! - no request with a tag of an agent's changes anything on the host;
//! - nothing outside of the shared directory is changed, or comes to the guest;
//! - the next guest is served;
//! - when a guest has gone, the device has the descriptors and threads that it had before.
//!
//! The fuzz target and a test of the device, which replays the corpus, include this file and those of the device's tests.
#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

#[path = "bytes.rs"]
mod bytes;
#[path = "frontend/machine.rs"]
mod machine;
#[path = "frontend/session.rs"]
mod session;
#[path = "frontend/vhost_user.rs"]
mod vhost_user;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::bytes::Bytes;
use self::machine::SECONDS_MAX;
use self::session::Session;
use crate::guest::ROOT;
use crate::mutations::populate;
use crate::requests::{self, open_flags};
use crate::served::Host;
use crate::snapshot::Snapshot;

/// Inputs that one server is given before another takes its place.
const INPUTS: u32 = 500;
/// What of the host is a secret to the guest.
const SECRET: &[u8] = b"this is none of the guest's business";

/// The server and its surroundings, kept from one input to the next.
struct World {
    host: Host,
    share: PathBuf,
    /// The shared directory as it was.
    before: Snapshot,
    /// Descriptors and threads without a guest.
    held: [usize; 2],
    inputs: u32,
}

/// See the module's documentation.
pub(crate) fn frontend(data: &[u8]) {
    static WORLD: Mutex<Option<World>> = Mutex::new(None);
    // As `farwatch serve` does when it starts.
    farwatch_sys::survive_missing_memory().expect("a handler");
    let mut world = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    let mut current = world.take().unwrap_or_else(World::new);
    current.take_in(Bytes::new(data));
    // Another one begins with the directory as it was.
    if current.inputs < INPUTS && !current.has_changed() {
        *world = Some(current);
    }
}

impl World {
    fn new() -> Self {
        let host = Host::new(fill);
        let share = host.served.share_dir();
        let before = Snapshot::of(&share);
        let mut world = Self { host, share, before, held: [usize::MAX; 2], inputs: 0 };
        world.serves();
        world.held = settled();
        world
    }

    fn take_in(&mut self, mut input: Bytes<'_>) {
        self.inputs += 1;
        let mut session = Session::begin(&mut self.host, &mut input);
        while !input.is_empty() {
            session.step(&mut input);
        }
        let left = session.end();
        self.serves();
        drop(left);
        let mut patience = Patience::default();
        while held().iter().zip(self.held).any(|(now, before)| *now > before) {
            assert!(patience.goes_on(), "{:?} have become {:?}", self.held, held());
        }
    }

    fn has_changed(&self) -> bool {
        Snapshot::of(&self.share) != self.before
    }

    /// A guest that keeps to the rules is served.
    fn serves(&mut self) {
        let mut guest = self.host.mount();
        guest.ask(&requests::getattr(ROOT));
        guest.ask(&requests::opendir(ROOT));
        let outside = requests::open(ROOT, open_flags::WRONLY);
        assert!(guest.send(crate::guest::Caller::PROGRAM, &outside).is_err());
        assert_eq!(self.host.served.device.stats().panics, 0);
    }
}

/// What is shared, and what is beside it. Links lead from one to the other.
fn fill(share: &Path) {
    populate(share);
    let outside = share.with_file_name("outside");
    fs::write(outside.join("secret"), SECRET).unwrap();
    std::os::unix::fs::symlink(&outside, share.join("way out")).unwrap();
    std::os::unix::fs::symlink("../outside/secret", share.join("dir/way out")).unwrap();
}

/// [`SECONDS_MAX`], where there is nothing to wait for. Whoever stops the process for a while takes one.
#[derive(Default)]
struct Patience {
    seconds: u32,
    since: Option<Instant>,
}

impl Patience {
    /// Lets others run. False when it is over.
    fn goes_on(&mut self) -> bool {
        std::thread::yield_now();
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= Duration::from_secs(1) {
            self.since = None;
            self.seconds += 1;
        }
        self.seconds < SECONDS_MAX
    }
}

/// Descriptors and threads of this process.
fn held() -> [usize; 2] {
    ["/proc/self/fd", "/proc/self/task"].map(|dir| fs::read_dir(dir).unwrap().count())
}

/// The same when they have not changed for a while: what a session has begun ends after it.
fn settled() -> [usize; 2] {
    const TIMES: usize = 200;
    let (mut last, mut times) = (held(), 0);
    while times < TIMES {
        let now = held();
        times = if now == last { times + 1 } else { 0 };
        last = now;
        std::thread::yield_now();
    }
    last
}
