// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages that are made up, while programs use the mount and the server's answers are made up, too.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};

use super::answer::{GENERATION, Lies, NODES};
use super::fuse::{LIMBO, PROBE};
use super::message::{CHILD, Fields, ISDIR, LINK, Message, PAIRED};
use super::server::{Server, Way};
use super::watcher::{PATHS, Watcher};

/// Names in use, few enough that they meet.
const NAMES: [&str; 9] = ["file", "twin", "dir", "leaf", "sub", "deep", "new", "n", "end-1"];
/// Messages to one mount.
const MESSAGES_OF_A_MOUNT: u64 = 2000;

/// What is told.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the random numbers begin.
    pub seed: u64,
    /// Messages.
    pub messages: u64,
}

/// Programs that use the mount, until they are to stop.
struct Programs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) fn run(way: Way, at: &Path, plan: &Plan, out: &mut impl Write) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let mut left = plan.messages;
    while left > 0 {
        let count = left.min(MESSAGES_OF_A_MOUNT);
        mount(way, at, count, &mut random)?;
        left -= count;
        writeln!(out, "{left} messages are left")?;
    }
    Ok(())
}

fn mount(way: Way, at: &Path, messages: u64, random: &mut fastrand::Rng) -> Result<()> {
    let mut server = Server::mount(way, at)?;
    server.attach()?;
    let watcher = Arc::new(Watcher::of(at)?);
    let programs = Programs::start(at, &watcher, random);
    server.lie(&Lies { random: Some(random.fork()), ..Lies::default() });
    for _ in 0..messages {
        server.tell(&message(random))?;
        if random.u8(..100) == 0 {
            server.wait_for_probe()?;
            drain(&watcher)?;
        }
    }
    server.wait_for_probe()?;
    // One mount of two is left with programs in it.
    let ends_first = random.bool();
    let mut programs = Some(programs);
    if ends_first {
        programs.take().map_or(Ok(()), Programs::end)?;
    }
    drain(&watcher)?;
    super::tell_sentinel(&server, &watcher)?;
    drop(watcher);
    if let Some(programs) = programs {
        programs.stop.store(true, Ordering::Relaxed);
        let ended = server.unmount();
        return programs.end().and(ended);
    }
    server.unmount()
}

/// Its queue may be full.
fn drain(watcher: &Watcher) -> Result<()> {
    while !watcher.read()?.is_empty() {}
    Ok(())
}

fn message(random: &mut fastrand::Rng) -> Message {
    let mut fields = Fields { node: node(random), mask: mask(random), ..Fields::default() };
    if random.u8(..10) > 0 || fields.mask & 0x3c0 != 0 {
        fields.name = NAMES[random.usize(..NAMES.len())].into();
    }
    if fields.mask & 0xc0 != 0 && random.u8(..4) > 0 {
        fields.flags |= PAIRED;
        fields.cookie = random.u32(1..6);
    }
    if !fields.name.is_empty() && random.bool() {
        fields.flags |= CHILD;
        fields.child = node(random);
        if fields.mask & (0x100 | ISDIR) == 0x100 && random.u8(..4) == 0 {
            fields.flags |= LINK;
        }
    }
    let mut message = fields.message();
    if random.u8(..20) == 0 {
        // The length stays true, or what follows in the same read could not be found.
        let at = random.usize(4..message.0.len());
        message.0[at] ^= 1 << random.u8(..8);
    }
    message
}

fn node(random: &mut fastrand::Rng) -> (u64, u32) {
    let id = match random.u8(..40) {
        0 => LIMBO,
        1 => PROBE,
        2 => 0,
        3 => random.u64(..),
        _ => NODES[random.usize(..NODES.len())].id,
    };
    let generation = if id == 1 { 0 } else { GENERATION };
    (id, generation + u32::from(random.u8(..20) == 0))
}

fn mask(random: &mut fastrand::Rng) -> u64 {
    let isdir = if random.bool() { ISDIR } else { 0 };
    let event = match random.u8(..10) {
        0 | 1 => 0x100,
        2 | 3 => 0x200,
        4 | 5 => 0x40,
        6 | 7 => 0x80,
        8 => 1 << random.u8(..6),
        _ => random.u64(1..0x400),
    };
    event | isdir
}

impl Programs {
    fn start(at: &Path, watcher: &Arc<Watcher>, random: &mut fastrand::Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |mut random: fastrand::Rng| {
            let (at, stop) = (at.to_owned(), Arc::clone(&stop));
            let watcher = Arc::downgrade(watcher);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(watcher) = watcher.upgrade() else { return };
                    act(&at, &watcher, &mut random);
                }
            })
        };
        let threads = (0..2).map(|_| start(random.fork())).collect();
        Self { stop, threads }
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a program has panicked"))?;
        }
        Ok(())
    }
}

/// What a program does in the mount. That it may fail is nobody's fault but the server's.
fn act(at: &Path, watcher: &Watcher, random: &mut fastrand::Rng) {
    let path = at.join(PATHS[random.usize(..PATHS.len())]);
    let name = NAMES[random.usize(..NAMES.len())];
    let entry = if random.bool() { path.join(name) } else { at.join(name) };
    match random.u8(..11) {
        0 => drop(fs::metadata(&path)),
        1 => drop(fs::metadata(&entry)),
        2 => drop(fs::read_dir(&path)),
        3 => drop(fs::File::open(&path)),
        4 => drop(fs::rename(&path, &entry)),
        5 => drop(fs::rename(&entry, &path)),
        6 => drop(fs::remove_file(&entry)),
        7 => drop(fs::remove_dir(&entry)),
        8 => drop(fs::create_dir(&entry)),
        9 => drop(fs::hard_link(&path, &entry)),
        _ => watcher.watch(&path),
    }
}
