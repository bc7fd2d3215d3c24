// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Case`]: all operations of one trial, made from a seed. The same seed makes the same operations;
//! the order in which several processes get to do them is the machine's.

use fastrand::Rng;

use super::op::Op;

/// What the processes of a trial do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One process on the host renames a file there and back, `len` times in all.
    Renames {
        /// Renames of a trial.
        len: usize,
        /// Whether both names are in one directory.
        inside: bool,
    },
    /// One process on the host does random operations.
    Solo,
    /// One process on the host and one in the mount do random operations on the same names.
    Both,
    /// Two processes on the host and two in the mount do.
    Many,
}

impl Kind {
    /// The row's name in the table.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Renames { len, inside: false } => format!("renames {len}"),
            Self::Renames { len, inside: true } => format!("renames {len}, one directory"),
            Self::Solo => "solo".to_owned(),
            Self::Both => "both".to_owned(),
            Self::Many => "many".to_owned(),
        }
    }

    fn sides(self) -> &'static [Side] {
        match self {
            Self::Renames { .. } | Self::Solo => &[Side::Host],
            Self::Both => &[Side::Host, Side::Mount],
            Self::Many => &[Side::Host, Side::Host, Side::Mount, Side::Mount],
        }
    }

    fn shape(self, knobs: Knobs) -> Shape {
        let (dirs, names, ops) = match self {
            Self::Many => (3, 8, 400),
            Self::Renames { .. } | Self::Solo | Self::Both => (2, 4, 60),
        };
        Shape {
            dirs: knobs.dirs.unwrap_or(dirs),
            names: knobs.names.unwrap_or(names),
            ops: knobs.ops.unwrap_or(ops),
            exchange: knobs.exchange,
        }
    }
}

/// What a run may set otherwise than the kind of trial does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Knobs {
    /// Directories, each of which is watched.
    pub dirs: Option<usize>,
    /// Names in each directory. The fewer, the more often operations meet.
    pub names: Option<usize>,
    /// Operations of all processes of a trial together.
    pub ops: Option<usize>,
    /// Whether processes exchange names (`RENAME_EXCHANGE`).
    pub exchange: bool,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    dirs: usize,
    names: usize,
    ops: usize,
    exchange: bool,
}

/// Where a process works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Host,
    Mount,
}

/// A file that one process in the mount alone appends to.
pub(super) const LEDGER: &str = "d0/ledger";

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) seed: u64,
    /// The directories that are watched, by their names in the trial's directory.
    pub(super) dirs: Vec<String>,
    /// Done on the host before anything is watched.
    pub(super) setup: Vec<Op>,
    /// Files and subdirectories that are watched themselves from the beginning.
    pub(super) watched: Vec<String>,
    /// For each process, where it works and what it does.
    pub(super) scripts: Vec<(Side, Vec<Op>)>,
    /// Whether names are exchanged.
    pub(super) exchanges: bool,
    /// Operations that were drawn and that the knobs exclude.
    pub(super) left_out: u64,
    /// Whether there is a [`LEDGER`].
    pub(super) has_ledger: bool,
}

impl Case {
    /// The case of a seed.
    pub(super) fn generate(kind: Kind, knobs: Knobs, seed: u64) -> Self {
        let shape = kind.shape(knobs);
        let dirs = (0..shape.dirs.max(2)).map(|dir| format!("d{dir}")).collect();
        if let Kind::Renames { len, inside } = kind {
            let names = ["d0/n0", if inside { "d0/n1" } else { "d1/n0" }];
            let rename =
                |nth: usize| Op::Rename(names[nth % 2].to_owned(), names[(nth + 1) % 2].to_owned());
            let setup = vec![Op::Create(names[0].to_owned(), "setup;".to_owned())];
            let scripts = vec![(Side::Host, (0..len).map(rename).collect())];
            let watched = (0..seed % 2).map(|_| names[0].to_owned()).collect();
            return Self {
                seed,
                dirs,
                setup,
                watched,
                scripts,
                exchanges: false,
                left_out: 0,
                has_ledger: false,
            };
        }
        let mut draw = Draw { rng: Rng::with_seed(seed), shape, left_out: 0 };
        let setup = draw.setup();
        let watched = draw.watched(&setup);
        let sides = kind.sides();
        let each = shape.ops.div_ceil(sides.len());
        let script = |(process, side): (usize, &Side)| {
            (*side, (0..each).map(|nth| draw.op(&format!("{process}.{nth};"))).collect())
        };
        let scripts = sides.iter().enumerate().map(script).collect();
        let Draw { left_out, .. } = draw;
        let exchanges = shape.exchange;
        Self { seed, dirs, setup, watched, scripts, exchanges, left_out, has_ledger: false }
    }

    /// With one process more, which appends to the [`LEDGER`] in the mount so many times. A case of one process has
    /// none.
    pub(super) fn with_ledger(mut self, len: usize) -> Self {
        if self.is_of_one_process() {
            return self;
        }
        self.setup.push(Op::Create(LEDGER.to_owned(), "setup-ledger;".to_owned()));
        let append = |nth: usize| Op::Append(LEDGER.to_owned(), format!("ledger.{nth};"));
        self.scripts.push((Side::Mount, (0..len).map(append).collect()));
        self.has_ledger = true;
        self
    }

    /// Whether a single process makes all changes. Then the order of all events is known.
    pub(super) fn is_of_one_process(&self) -> bool {
        self.scripts.len() == 1
    }
}

/// The source of random operations.
struct Draw {
    rng: Rng,
    shape: Shape,
    left_out: u64,
}

impl Draw {
    /// About half of the names exist when a trial begins.
    fn setup(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        for dir in 0..self.shape.dirs {
            for name in 0..self.shape.names {
                let at = format!("d{dir}/n{name}");
                match self.rng.u8(..8) {
                    0..=2 => ops.push(Op::Create(at, format!("setup-{dir}.{name};"))),
                    3 => ops.push(Op::Mkdir(at)),
                    _ => {}
                }
            }
        }
        ops
    }

    /// Most of what exists is watched.
    fn watched(&mut self, setup: &[Op]) -> Vec<String> {
        let paths = setup.iter().filter_map(|op| match op {
            Op::Create(at, _) | Op::Mkdir(at) => Some(at.clone()),
            Op::Append(..) | Op::Unlink(_) | Op::Rename(..) | Op::Exchange(..) => None,
            Op::Link(..) | Op::Rmdir(_) | Op::Symlink(_) => None,
        });
        paths.filter(|_| self.rng.u8(..4) != 0).collect()
    }

    fn op(&mut self, version: &str) -> Op {
        loop {
            let (one, two) = (self.path(), self.path());
            let version = version.to_owned();
            return match self.rng.u8(..100) {
                0..=19 => Op::Create(one, version),
                20..=34 => Op::Append(one, version),
                35..=49 => Op::Unlink(one),
                50..=74 if one != two => Op::Rename(one, two),
                75..=79 if one != two => Op::Link(one, two),
                80..=84 if one != two => {
                    if !self.shape.exchange {
                        self.left_out += 1;
                        continue;
                    }
                    Op::Exchange(one, two)
                }
                85..=90 => Op::Mkdir(one),
                91..=95 => Op::Rmdir(one),
                96..=99 => Op::Symlink(one),
                // Both names are the same one.
                _ => continue,
            };
        }
    }

    fn path(&mut self) -> String {
        let (dir, name) = (self.rng.usize(..self.shape.dirs), self.rng.usize(..self.shape.names));
        format!("d{dir}/n{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_gives_the_same_operations_again() {
        let case = |seed| Case::generate(Kind::Many, Knobs::default(), seed);
        assert_eq!(case(7).scripts, case(7).scripts);
        assert_ne!(case(7).scripts, case(8).scripts);
    }

    #[test]
    fn half_of_the_operations_are_for_the_mount() {
        let case = Case::generate(Kind::Both, Knobs::default(), 1);
        let lens: Vec<_> = case.scripts.iter().map(|(side, ops)| (*side, ops.len())).collect();
        assert_eq!(lens, [(Side::Host, 30), (Side::Mount, 30)]);
    }

    #[test]
    fn exchanges_are_left_out_unless_they_are_asked_for() {
        let exchanges = |exchange| {
            let knobs = Knobs { ops: Some(1000), exchange, ..Knobs::default() };
            let case = Case::generate(Kind::Solo, knobs, 1);
            let ops = &case.scripts[0].1;
            (ops.iter().any(|op| matches!(op, Op::Exchange(..))), case.left_out > 0)
        };
        assert_eq!((exchanges(false), exchanges(true)), ((false, true), (true, false)));
    }
}
