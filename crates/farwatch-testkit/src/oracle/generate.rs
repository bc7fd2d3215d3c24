// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random operations from a seed: most of them possible, some not, on a tree that the generator
//! follows in a small model.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::model::{Delivery, Model, Type, is_inside};
use super::op::{OUTSIDE, Op, SLOTS};

/// Longer paths are not made: the place where they are adds some to it, and PATH_MAX is 4096.
const PATH_LEN_MAX: usize = 2000;
/// So many of the names are those of all processes.
const COMMON_NAMES: usize = 4;
/// Names are drawn from so many, so that they come again.
const NAMES: usize = 12;
/// Names where there are to be few.
const FEW_NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What a run is to consist of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Directories that are made first.
    pub directories: usize,
    /// Files that are made first.
    pub files: usize,
    /// Whether files are watched, too.
    pub watches_files: bool,
    /// Whether several processes work on the tree: then nobody knows what is open elsewhere.
    pub shared: bool,
    /// Whether programs in the mount do some of the operations.
    pub in_mount: bool,
    /// How the mount comes to its events.
    pub delivery: Delivery,
    /// Whether all names are a few ones in the directories that are made first, so that operations
    /// meet.
    pub few: bool,
}

/// The tree as far as one process knows it, and the source of its next operation.
#[derive(Clone, Debug)]
pub struct Generator {
    rng: Rng,
    shape: Shape,
    names: Vec<OsString>,
    model: Model,
    /// What all processes found.
    common: BTreeSet<PathBuf>,
    outside: u32,
    left_out: u64,
}

impl Generator {
    /// A generator that knows an empty tree.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut rng = Rng::with_seed(seed);
        let names = if shape.few {
            FEW_NAMES.map(OsString::from).to_vec()
        } else {
            (0..NAMES).map(|nth| name(&mut rng, nth)).collect()
        };
        Self {
            rng,
            shape,
            names,
            model: Model::new(shape.shared, shape.delivery),
            common: BTreeSet::new(),
            outside: 0,
            left_out: 0,
        }
    }

    /// Operations that were drawn and not made, because a mount is known to report them differently or
    /// because they would end the work of others.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The operations that make the tree of the beginning.
    pub fn setup(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        for _ in 0..self.shape.directories {
            let op = self.fresh().map(Op::Mkdir);
            ops.extend(op.inspect(|op| self.model.follow(op)));
        }
        for _ in 0..self.shape.files {
            let op = self.fresh().map(Op::Create);
            ops.extend(op.inspect(|op| self.model.follow(op)));
        }
        if self.shape.watches_files {
            for file in self.some_files() {
                let op = Op::Watch(file);
                self.model.follow(&op);
                ops.push(op);
            }
        }
        ops
    }

    /// Whether the operation just made is for a program in the mount. What has no slot may be for
    /// either, if a mount can do it at all: it has no O_TMPFILE, and nothing outside of it.
    pub fn is_for_mount(&mut self, op: &Op) -> bool {
        match op {
            Op::Open(slot, _)
            | Op::OpenTruncate(slot, _)
            | Op::OpenTmpfile(slot, _)
            | Op::LinkSlot(slot, _)
            | Op::Write(slot)
            | Op::Fallocate(slot)
            | Op::TruncateSlot(slot)
            | Op::CopyTo(slot, _)
            | Op::Fchmod(slot, _)
            | Op::Close(slot) => *slot >= SLOTS,
            Op::Rename(from, to) if !is_inside(from) || !is_inside(to) => false,
            Op::Stat(_) | Op::List(_) => self.shape.in_mount,
            Op::Watch(_) => false,
            _ => self.shape.in_mount && self.rng.u8(..4) == 0,
        }
    }

    /// The same tree for another process, which does other things.
    #[must_use]
    pub fn other(&self, seed: u64) -> Self {
        let mut other = Self { rng: Rng::with_seed(seed), left_out: 0, ..self.clone() };
        // Most names are its own, or what one does would hinder the other in all.
        for name in other.names.iter_mut().skip(COMMON_NAMES) {
            *name = OsString::from(format!("{}", other.rng.u32(..)));
        }
        other.common = self.model.entries().map(|(path, _)| path.clone()).collect();
        other
    }

    /// Some of the files of the tree.
    fn some_files(&mut self) -> Vec<PathBuf> {
        let files = self.model.entries().filter(|(_, kind)| *kind == Type::File);
        let files: Vec<PathBuf> = files.map(|(path, _)| path.clone()).collect();
        files.into_iter().filter(|_| self.rng.u8(..4) == 0).collect()
    }

    /// The next operation.
    pub fn next_op(&mut self) -> Op {
        for _ in 0..100 {
            let Some(op) = self.try_op() else { continue };
            if self.model.is_fair(&op) && !self.spoils(&op) {
                self.model.follow(&op);
                return op;
            }
            self.left_out += 1;
        }
        Op::List(PathBuf::from("."))
    }

    /// Takes a directory away in which all work: that is seldom done.
    fn spoils(&mut self, op: &Op) -> bool {
        let (Op::Rename(path, to) | Op::RenameExchange(path, to)) = op else { return false };
        let common = [path, to].iter().any(|path| self.common.contains(*path));
        common && self.rng.u8(..) != 0
    }

    fn try_op(&mut self) -> Option<Op> {
        Some(match self.rng.u8(..100) {
            0..=11 => Op::Create(self.fresh()?),
            12..=16 => Op::Mkdir(self.fresh()?),
            17 => Op::Mkfifo(self.fresh()?),
            18..=19 => Op::Symlink(self.fresh()?),
            20..=22 => Op::Link(self.file()?, self.fresh()?),
            23..=31 => Op::Unlink(self.no_directory()?),
            32..=34 => Op::Rmdir(self.directory()?),
            35..=46 => Op::Rename(self.any()?, self.fresh()?),
            47..=50 => Op::Rename(self.file()?, self.no_directory()?),
            51 => Op::Rename(self.directory()?, self.directory()?),
            52 => Op::RenameNoreplace(self.any()?, self.any()?),
            53 => Op::RenameExchange(self.any()?, self.any()?),
            54..=55 => {
                self.outside += 1;
                Op::Rename(self.any()?, PathBuf::from(format!("{OUTSIDE}/{}", self.outside)))
            }
            56..=57 => Op::Rename(self.outsider()?, self.fresh()?),
            58..=61 => Op::Open(self.slot(), self.file()?),
            62 => Op::OpenTruncate(self.slot(), self.file()?),
            63 => Op::OpenTmpfile(self.rng.u8(..SLOTS), self.directory()?),
            64 => Op::LinkSlot(self.held_on_host()?, self.fresh()?),
            65..=70 => Op::Write(self.held()?),
            71 => Op::Fallocate(self.held()?),
            72 => Op::TruncateSlot(self.held()?),
            73 => Op::CopyTo(self.held()?, self.file()?),
            74 => Op::Fchmod(self.held()?, self.mode()),
            75..=79 => Op::Close(self.held()?),
            80 => Op::Truncate(self.file()?),
            81..=83 => Op::Chmod(self.any_but_links()?, self.mode()),
            84..=85 => Op::Chown(self.any()?, self.rng.u32(1..100)),
            86..=87 => Op::Touch(self.any()?),
            88 => Op::TouchMtime(self.any()?),
            89 => Op::TouchAtime(self.any()?),
            90..=91 => Op::Setxattr(self.file()?),
            92 => Op::Removexattr(self.file()?),
            93..=94 => Op::Stat(self.any()?),
            95..=96 => Op::List(self.directory()?),
            97..=98 if self.shape.watches_files => Op::Watch(self.file()?),
            // What fails tells nobody.
            _ => match self.rng.u8(..4) {
                0 => Op::Create(self.any()?),
                1 => Op::Unlink(self.fresh()?),
                2 => Op::Rename(self.fresh()?, self.fresh()?),
                _ => Op::Mkdir(self.any()?),
            },
        })
    }

    fn mode(&mut self) -> u16 {
        0o600 | self.rng.u16(0..0o200)
    }

    fn slot(&mut self) -> u8 {
        let mount = self.shape.in_mount && self.rng.u8(..4) == 0;
        self.rng.u8(..SLOTS) + if mount { SLOTS } else { 0 }
    }

    fn held_on_host(&mut self) -> Option<u8> {
        self.held().filter(|slot| *slot < SLOTS)
    }

    fn held(&mut self) -> Option<u8> {
        let held = self.model.held();
        self.rng.choice(held)
    }

    fn choose(&mut self, which: impl Fn(&Path, Type) -> bool) -> Option<PathBuf> {
        let fits = self.model.entries().filter(|(path, kind)| which(path, *kind));
        let fits: Vec<&PathBuf> = fits.map(|(path, _)| path).collect();
        self.rng.choice(fits).cloned()
    }

    fn any(&mut self) -> Option<PathBuf> {
        self.choose(|path, _| is_inside(path))
    }

    fn any_but_links(&mut self) -> Option<PathBuf> {
        self.choose(|path, kind| is_inside(path) && kind != Type::Other)
    }

    fn no_directory(&mut self) -> Option<PathBuf> {
        self.choose(|path, kind| is_inside(path) && kind != Type::Directory)
    }

    fn file(&mut self) -> Option<PathBuf> {
        self.choose(|path, kind| is_inside(path) && kind == Type::File)
    }

    fn directory(&mut self) -> Option<PathBuf> {
        self.choose(|path, kind| is_inside(path) && kind == Type::Directory)
    }

    /// Something that was moved out; not what is in it.
    fn outsider(&mut self) -> Option<PathBuf> {
        let depth = Path::new(OUTSIDE).components().count() + 1;
        self.choose(|path, _| !is_inside(path) && path.components().count() == depth)
    }

    /// A path where nothing is.
    fn fresh(&mut self) -> Option<PathBuf> {
        let directories = self.model.entries().filter(|(_, kind)| *kind == Type::Directory);
        let directories = directories.map(|(path, _)| path.as_path());
        let mut directories: Vec<&Path> = [Path::new(".")].into_iter().chain(directories).collect();
        if self.rng.u8(..4) == 0 {
            // Deep ones come late.
            directories.drain(..directories.len() / 2);
        }
        if self.shape.few {
            let is_first = |dir: &&Path| dir.components().count() == 1 && *dir != Path::new(".");
            let first: Vec<&Path> = directories.iter().copied().filter(is_first).collect();
            if first.len() >= self.shape.directories {
                directories = first;
            }
        }
        let dir = self.rng.choice(directories)?;
        let name = match self.rng.u8(..10) {
            0 if !self.shape.few => OsString::from(format!("n{}", self.rng.u16(..))),
            _ => self.rng.choice(&self.names)?.clone(),
        };
        let path: PathBuf = dir.iter().filter(|part| *part != ".").chain([&*name]).collect();
        let fits = path.as_os_str().len() <= PATH_LEN_MAX && !self.model.has(&path);
        (fits && is_inside(&path)).then_some(path)
    }
}

/// A name: a letter or two, or any bytes, up to 255.
fn name(rng: &mut Rng, nth: usize) -> OsString {
    let len = match nth {
        0..=7 => return OsString::from(format!("{}", char::from(b'a' + rng.u8(..26)))),
        8..=9 => rng.usize(2..30),
        10 => 255,
        _ => rng.usize(1..=255),
    };
    loop {
        let bytes: Vec<u8> =
            (0..len).map(|_| rng.u8(1..=255)).map(|b| if b == b'/' { b'_' } else { b }).collect();
        let name = OsString::from_vec(bytes);
        if ![&b"."[..], b".."].contains(&name.as_bytes()) {
            return name;
        }
    }
}
