// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Op`]: an operation of a program on the host or in the guest. [`Case`]: a history of operations,
//! drawn from a seed. A failing case is shortened by leaving operations out.

use std::fmt;

use farwatch_proto::{FileKind, Name};

use crate::config::{Client, Config, Limits, Objects, Watched};
use crate::faults::Fault;
use crate::rng::Rng;
use crate::sim::Schedule;

/// A directory in which programs work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dir {
    /// The root of the share.
    Root,
    /// `a` in it, to begin with.
    A,
    /// `a/b`, to begin with.
    B,
    /// On the host, beside the share.
    Outside,
}

impl Dir {
    pub(crate) const SHARED: [Self; 3] = [Self::Root, Self::A, Self::B];
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "",
            Self::A => "a/",
            Self::B => "a/b/",
            Self::Outside => "../outside/",
        })
    }
}

/// One of the few names of a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct At(pub(crate) Dir, pub(crate) &'static str);

impl At {
    pub(crate) fn name(self) -> Name {
        Name::parse(self.1.as_bytes()).expect("a name")
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.0, self.1)
    }
}

/// What a program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// `mkdir(2)`, `symlink(2)`, `mknod(2)`
    Make(At, FileKind),
    /// Makes a file, writes to it and closes it.
    Create(At),
    /// Opens a file that is there, writes to it and closes it.
    Write(At),
    /// `chmod(2)`
    Chmod(At),
    /// `unlink(2)`
    Unlink(At),
    /// `rmdir(2)`
    Rmdir(At),
    /// `rename(2)`
    Rename(At, At),
    /// `renameat2(2)` with RENAME_EXCHANGE
    Exchange(At, At),
    /// `link(2)`
    Link(At, At),
    /// `stat(2)`
    Look(At),
    /// `inotify_add_watch(2)`, and a listing if it is a directory.
    Watch(At),
    /// The guest's kernel drops every dentry and inode that is not in use.
    DropCaches,
    /// `farwatch sync`
    Sync,
    /// The agent ends, and comes back so many milliseconds later.
    Die(u64),
}

/// The program that does it. Each does one operation after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Who {
    Host(u8),
    Guest(u8),
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) config: Config,
    pub(crate) ops: Vec<(Who, Op)>,
    pub(crate) schedule: Schedule,
}

/// What cases of one kind have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) watched: Watched,
    pub(crate) hosts: u8,
    pub(crate) guests: u8,
    /// What the programs on the host do, and those in the guest.
    pub(crate) host_ops: &'static [Kind],
    pub(crate) guest_ops: &'static [Kind],
    pub(crate) dirs: &'static [Dir],
    pub(crate) names: &'static [&'static str],
    pub(crate) ops_max: usize,
    pub(crate) limits: Limits,
    pub(crate) identifies: bool,
    pub(crate) objects: Objects,
    pub(crate) exact: bool,
    pub(crate) client: Client,
    pub(crate) fault: Option<Fault>,
}

/// An [`Op`] of which it is not said where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Create,
    Write,
    Chmod,
    Unlink,
    Rename,
    /// A rename out of the share, to an unwatched directory, and one into the share.
    RenameOut,
    RenameIn,
    Exchange,
    Link,
    Mkdir,
    Rmdir,
    Symlink,
    Look,
    Watch,
    DropCaches,
    Sync,
    Die,
}

impl Case {
    /// The case of a seed.
    pub(crate) fn draw(family: &Family, seed: u64, steps: Option<usize>) -> Self {
        let rng = &mut Rng::new(seed);
        let config = Config::draw(rng, family);
        let len = steps.unwrap_or_else(|| 2 + rng.below(family.ops_max - 1));
        let ops = (0..len).map(|_| family.draw(rng)).collect();
        let schedule = Schedule { seed: rng.next(), stick: rng.pick(&[0, 4, 8, 12, 14]) };
        Self { config, ops, schedule }
    }
}

impl Family {
    fn draw(&self, rng: &mut Rng) -> (Who, Op) {
        let programs = usize::from(self.hosts) + usize::from(self.guests);
        let nth = u8::try_from(rng.below(programs)).expect("few programs");
        let (who, ops) = if nth < self.hosts {
            (Who::Host(nth), self.host_ops)
        } else {
            (Who::Guest(nth - self.hosts), self.guest_ops)
        };
        let at = self.at(rng);
        let op = match rng.pick(ops) {
            Kind::Create => Op::Create(at),
            Kind::Write => Op::Write(at),
            Kind::Chmod => Op::Chmod(at),
            Kind::Unlink => Op::Unlink(at),
            Kind::Rename => Op::Rename(at, self.other(at, rng)),
            Kind::RenameOut => Op::Rename(at, At(Dir::Outside, rng.pick(self.names))),
            Kind::RenameIn => Op::Rename(At(Dir::Outside, rng.pick(self.names)), at),
            Kind::Exchange => Op::Exchange(at, self.other(at, rng)),
            Kind::Link => Op::Link(at, self.at(rng)),
            Kind::Mkdir => Op::Make(at, FileKind::Directory),
            Kind::Rmdir => Op::Rmdir(at),
            Kind::Symlink => Op::Make(at, FileKind::Symlink),
            Kind::Look => Op::Look(at),
            Kind::Watch => Op::Watch(at),
            Kind::DropCaches => Op::DropCaches,
            Kind::Sync => Op::Sync,
            Kind::Die => Op::Die(rng.pick(&[0, 0, 5, 3000])),
        };
        (who, op)
    }

    fn at(&self, rng: &mut Rng) -> At {
        At(rng.pick(self.dirs), rng.pick(self.names))
    }

    fn other(&self, at: At, rng: &mut Rng) -> At {
        loop {
            let other = self.at(rng);
            if other != at {
                return other;
            }
        }
    }
}
