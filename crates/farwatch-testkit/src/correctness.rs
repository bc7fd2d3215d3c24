// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Correctness: whether a mount is the file system that a local directory is. `cargo xtask correctness` calls it.
//!
//! The same is run in a local directory, in mounts of ours and, through the same driver, in mounts of stock virtiofsd.
//! What differs from the local directory in one of ours must differ in stock virtiofsd's in the same way: FUSE and
//! virtiofsd's library decide it, and nothing that is added here. Our own checks (`checks`) and those of others
//! (`programs`) are run alike, and each result is a text.

mod checks;
mod programs;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::mount::Mount;

/// By name, what was found.
type Found = BTreeMap<String, String>;

/// Checks in which a mount differs from a local directory and from stock virtiofsd, and why.
const KNOWN: [(&str, &str); 1] = [(
    "chown_to_nobody",
    "by a user who is not the owner: 0 in place of EPERM; by root: the bits stay. With FUSE_HANDLE_KILLPRIV_V2, which saves a request for each \
     write, the kernel asks for it as it does before a write. It changes nothing unless the user may write the file",
)];

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Our own table: locks, mappings, holes, attributes, access control lists, names, databases (python3)
    Checks,
    /// POSIX, by pjdfstest
    Posix,
    /// Random operations on one file, by fsx
    Fsx,
    /// Files that are written and verified, by fio
    Fio,
    /// Many processes at once, by stress-ng
    Stress,
}

/// How large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Seconds for each suite.
    Short,
    /// Minutes.
    Long,
}

/// Who serves the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Server {
    Local,
    Ours,
    Stock,
    OursWithLists,
    StockWithLists,
}

impl Server {
    /// Those that are compared, each of ours with its stock.
    const PAIRS: [(Self, Self); 2] =
        [(Self::Ours, Self::Stock), (Self::OursWithLists, Self::StockWithLists)];

    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Ours => "farwatch mount",
            Self::Stock => "virtiofsd",
            Self::OursWithLists => "farwatch serve --posix-acl",
            Self::StockWithLists => "virtiofsd --posix-acl",
        }
    }

    fn start(self, stock: &Path) -> Result<Mount> {
        match self {
            Self::Local => Mount::local(),
            Self::Ours => Mount::start(),
            Self::OursWithLists => Mount::start_through_socket(|mount, socket| {
                let mut command = mount.farwatch()?;
                command.arg("serve").arg("--socket").arg(socket);
                command.arg("--shared-dir").arg(mount.host());
                command.args(["--xattr", "--posix-acl"]);
                Ok(command)
            }),
            Self::Stock | Self::StockWithLists => Mount::start_through_socket(|mount, socket| {
                let mut command = Command::new(stock);
                command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(mount.host());
                command.args(["--sandbox", "none", "--log-level", "off", "--xattr"]);
                command.args((self == Self::StockWithLists).then_some("--posix-acl"));
                Ok(command)
            }),
        }
    }
}

/// What to run, and with what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each is a row of the table for each of our servers.
    pub suites: Vec<Suite>,
    /// How large it is.
    pub length: Length,
    /// The program of stock virtiofsd.
    pub stock: PathBuf,
    /// A directory with pjdfstest and fsx; otherwise they are in the path.
    pub programs: Option<PathBuf>,
}

/// A result that is not a local directory's.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The check.
    pub name: String,
    /// In a local directory, with stock virtiofsd, and here.
    pub found: [Option<String>; 3],
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        for (site, found) in ["local", "stock", "ours "].iter().zip(&self.found) {
            writeln!(f, "  {site}: {}", found.as_deref().unwrap_or("nothing"))?;
        }
        Ok(())
    }
}

/// A suite with one of our servers.
#[derive(Clone, Debug)]
pub struct Row {
    /// The suite.
    pub suite: String,
    /// The server, as it is called.
    pub server: &'static str,
    /// Checks that were run.
    pub run: usize,
    /// Differences that stock virtiofsd has too.
    pub shared: Vec<Difference>,
    /// Differences that stock virtiofsd does not have.
    pub own: Vec<Difference>,
    /// Such that are known, with the reason.
    pub known: Vec<(Difference, &'static str)>,
    /// Differences that stock virtiofsd alone has.
    pub stock_alone: usize,
    took: Duration,
}

/// All rows. `Display` prints a table in Markdown.
#[derive(Clone, Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.0
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| suite | server | checks | unlike local, as stock | known | unlike both ")?;
        writeln!(f, "| stock alone unlike local | s |\n|---|---|---|---|---|---|---|---|")?;
        for row in &self.0 {
            let Row { suite, server, run, shared, own, known, stock_alone, took } = row;
            let [shared, own, known] = [shared.len(), own.len(), known.len()];
            write!(f, "| {suite} | `{server}` | {run} | {shared} | {known} | {own} ")?;
            writeln!(f, "| {stock_alone} | {} |", took.as_secs())?;
        }
        Ok(())
    }
}

/// Runs all suites with all servers.
///
/// # Errors
/// When one cannot be run.
pub fn run(plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Table> {
    let mut table = Table::default();
    for suite in &plan.suites {
        let name = suite.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let mut found: BTreeMap<Server, (Found, Duration)> = BTreeMap::new();
        let servers = Server::PAIRS.iter().flat_map(|(ours, stock)| [*stock, *ours]);
        for server in [Server::Local].into_iter().chain(servers) {
            progress(&format!("{name}: {}", server.name()));
            let begin = Instant::now();
            let mount = server.start(&plan.stock)?;
            let results = suite
                .run(plan, &mount)
                .with_context(|| format!("{name} with {}", server.name()))?;
            found.insert(server, (results, begin.elapsed()));
        }
        for (ours, stock) in Server::PAIRS {
            let [local, stock, (here, took)] =
                [Server::Local, stock, ours].map(|server| found[&server].clone());
            table.0.push(compare(&name, ours, [&local.0, &stock.0, &here], took));
        }
    }
    Ok(table)
}

impl Suite {
    /// All of them.
    #[must_use]
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    fn run(self, plan: &Plan, mount: &Mount) -> Result<Found> {
        match self {
            Self::Checks => checks::run(mount),
            Self::Posix => programs::posix(plan, mount),
            Self::Fsx => programs::fsx(plan, mount),
            Self::Fio => programs::fio(plan, mount),
            Self::Stress => programs::stress(plan, mount),
        }
    }
}

fn compare(suite: &str, server: Server, [local, stock, here]: [&Found; 3], took: Duration) -> Row {
    let mut row = Row {
        suite: suite.to_owned(),
        server: server.name(),
        run: here.len(),
        shared: Vec::new(),
        own: Vec::new(),
        known: Vec::new(),
        stock_alone: 0,
        took,
    };
    let names: std::collections::BTreeSet<&String> = local.keys().chain(here.keys()).collect();
    for name in names {
        let found = [local, stock, here].map(|found| found.get(name).cloned());
        let [local, stock, here] = &found;
        if here == local {
            row.stock_alone += usize::from(stock != local);
            continue;
        }
        let is_shared = here == stock;
        let difference = Difference { name: name.clone(), found };
        if is_shared {
            row.shared.push(difference);
        } else if let Some((_, why)) = KNOWN.iter().find(|(known, _)| known == name) {
            row.known.push((difference, why));
        } else {
            row.own.push(difference);
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_is_shared_only_if_stock_has_the_same() {
        let found = |results: [&str; 5]| -> Found {
            results
                .iter()
                .enumerate()
                .map(|(nth, found)| (nth.to_string(), (*found).to_owned()))
                .collect()
        };
        let local = found(["a", "a", "a", "a", "a"]);
        let stock = found(["a", "b", "b", "a", "b"]);
        let mut here = found(["a", "b", "c", "b", "a"]);
        let row = compare("suite", Server::Ours, [&local, &stock, &here], Duration::ZERO);
        let names = |differences: &[Difference]| -> Vec<String> {
            differences.iter().map(|difference| difference.name.clone()).collect()
        };
        assert_eq!(names(&row.shared), ["1"]);
        assert_eq!(names(&row.own), ["2", "3"]);
        assert_eq!(row.stock_alone, 1);
        here.remove("0");
        let row = compare("suite", Server::Ours, [&local, &stock, &here], Duration::ZERO);
        assert_eq!(names(&row.own), ["0", "2", "3"], "a check that was not run here");
    }
}
