// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Case`]: all that is done in one run, as a value and as a text file, and how it is cut smaller.
//!
//! A line is an actor and an operation. In a paced run the actors are `host` and `mount`, in an
//! unpaced one processes, by their number. What comes before the line `run` makes the tree of the
//! beginning; nobody watches yet.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::model::{Delivery, Model};
use super::op::{OUTSIDE, Op};

/// Who does an operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// A program on the host's side, and what it does is waited for.
    Host,
    /// A program in the mount, likewise.
    Mount,
    /// One of several processes on the host's side, which wait for nobody.
    Process(u8),
}

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Case {
    /// Done on the host's side before anybody watches.
    pub setup: Vec<Op>,
    /// Done while it is watched.
    pub ops: Vec<(Who, Op)>,
}

impl Case {
    /// Whether each operation waits until the one before has been told.
    #[must_use]
    pub fn is_paced(&self) -> bool {
        !self.ops.iter().any(|(who, _)| matches!(who, Who::Process(_)))
    }

    /// Whether nothing is done in the mount.
    #[must_use]
    pub fn is_of_the_host(&self) -> bool {
        !self.ops.iter().any(|(who, _)| *who == Who::Mount)
    }

    /// False when something is done that a mount is known to tell otherwise.
    #[must_use]
    pub fn is_fair(&self, delivery: Delivery) -> bool {
        let mut before = Model::new(!self.is_paced(), delivery);
        self.setup.iter().for_each(|op| before.follow(op));
        let mut models: BTreeMap<Who, Model> = BTreeMap::new();
        self.ops.iter().all(|(who, op)| {
            // In a paced case all know of each other.
            let who = if let Who::Process(_) = who { *who } else { Who::Host };
            let model = models.entry(who).or_insert_with(|| before.clone());
            let fair = model.is_fair(op);
            model.follow(op);
            fair
        })
    }

    /// The directories that the setup makes, and the root.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let made = self.setup.iter().filter_map(|op| match op {
            Op::Mkdir(path) => Some(path.clone()),
            _ => None,
        });
        [PathBuf::from(".")].into_iter().chain(made).collect()
    }

    /// Reads what `Display` writes; empty lines and those that begin with `#` are for people.
    pub fn parse(text: &str) -> Result<Self> {
        let mut case = Self::default();
        let mut setting_up = true;
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if line == "run" {
                setting_up = false;
            } else if setting_up {
                case.setup.push(Op::parse(line)?);
            } else {
                let (who, op) = line.split_once(' ').with_context(|| line.to_owned())?;
                case.ops.push((Who::parse(who)?, Op::parse(op)?));
            }
        }
        Ok(case)
    }

    /// A smaller case that still fails: parts are left out, from halves down to single operations, as
    /// long as `fails` agrees, and `tries_max` times at most.
    #[must_use]
    pub fn shrink(self, tries_max: u32, mut fails: impl FnMut(&Self) -> bool) -> Self {
        let mut smallest = self;
        let mut tries = 0;
        let mut part = smallest.len().div_ceil(2);
        let mut attempt = |smaller: Self, smallest: &mut Self| {
            let better = tries < tries_max && fails(&smaller);
            tries += 1;
            if better {
                *smallest = smaller;
            }
            better
        };
        while part > 0 {
            let mut from = 0;
            while from < smallest.len() {
                if !attempt(smallest.without(from, part), &mut smallest) {
                    from += part;
                }
            }
            part /= 2;
        }
        attempt(smallest.with_plain_names(), &mut smallest);
        smallest
    }

    /// The same with names that people can read.
    fn with_plain_names(&self) -> Self {
        let mut names: BTreeMap<OsString, String> = BTreeMap::new();
        let mut plain = |op: &Op| {
            op.with_paths(|path| {
                let fixed = Path::new(OUTSIDE);
                let (front, rest) = match path.strip_prefix(fixed) {
                    Ok(rest) => (fixed, rest),
                    Err(_) => (Path::new(""), path),
                };
                let name = |name: &OsStr, len: usize| match name.as_bytes() {
                    b"." => ".".to_owned(),
                    _ => format!("n{len}"),
                };
                let rest = rest.iter().map(|part| {
                    let len = names.len();
                    names.entry(part.to_owned()).or_insert_with(|| name(part, len)).clone()
                });
                front.join(rest.collect::<PathBuf>())
            })
        };
        Self {
            setup: self.setup.iter().map(&mut plain).collect(),
            ops: self.ops.iter().map(|(who, op)| (*who, plain(op))).collect(),
        }
    }

    fn len(&self) -> usize {
        self.setup.len() + self.ops.len()
    }

    /// The operations are counted from the end of the setup on, then the setup's.
    fn without(&self, from: usize, len: usize) -> Self {
        let left_out = from..from + len;
        let kept = |nth: usize| !left_out.contains(&nth);
        let ops = self.ops.iter().enumerate().filter(|(nth, _)| kept(*nth));
        let before = self.ops.len();
        let setup = self.setup.iter().enumerate().filter(|(nth, _)| kept(before + nth));
        Self {
            setup: setup.map(|(_, op)| op.clone()).collect(),
            ops: ops.map(|(_, op)| op.clone()).collect(),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in &self.setup {
            writeln!(f, "{op}")?;
        }
        writeln!(f, "run")?;
        for (who, op) in &self.ops {
            writeln!(f, "{who} {op}")?;
        }
        Ok(())
    }
}

impl Who {
    fn parse(word: &str) -> Result<Self> {
        match word {
            "host" => Ok(Self::Host),
            "mount" => Ok(Self::Mount),
            _ => match word.parse() {
                Ok(process) => Ok(Self::Process(process)),
                Err(_) => bail!("no actor: {word}"),
            },
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Mount => f.write_str("mount"),
            Self::Process(process) => write!(f, "{process}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::generate::{Generator, Shape};
    use super::*;

    fn case(len: usize) -> Case {
        let shape = Shape {
            directories: 8,
            files: 8,
            watches_files: true,
            shared: false,
            in_mount: true,
            delivery: Delivery::default(),
            few: false,
        };
        let mut generator = Generator::new(7, shape);
        let setup = generator.setup();
        let who = |n| [Who::Host, Who::Mount, Who::Process(3)][n % 3];
        Case { setup, ops: (0..len).map(|n| (who(n), generator.next_op())).collect() }
    }

    #[test]
    fn a_case_is_read_as_it_was_written() {
        let case = case(2000);
        assert_eq!(Case::parse(&case.to_string()).unwrap(), case);
    }

    #[test]
    fn a_seed_gives_the_same_case_again() {
        assert_eq!(case(500), case(500));
    }

    #[test]
    fn a_case_shrinks_to_what_fails() {
        let mut case = case(300);
        let guilty = [Op::Mkdir("guilty".into()), Op::Rmdir("guilty".into())];
        case.setup.insert(3, guilty[0].clone());
        case.ops.insert(200, (Who::Host, guilty[1].clone()));
        let smallest = case.shrink(10_000, |case| {
            case.setup.contains(&guilty[0]) && case.ops.contains(&(Who::Host, guilty[1].clone()))
        });
        assert_eq!((smallest.setup.len(), smallest.ops.len()), (1, 1), "{smallest}");
    }
}
